"""`verify`: check a running image, or a document captured from one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from privml.base.errors import EvidenceError, UsageError
from privml.base.strictjson import unhex
from privml.cli.anchor import anchor_options, collateral_of
from privml.cli.conformance import conformance_options
from privml.cli.output import print_json, show, show_text
from privml.cli.policy import explain_option, policy_of
from privml.client import anchors, attested
from privml.evidence.document import MAX_DOCUMENT
from privml.verify.report import render


@click.command()
@click.argument("source", metavar="URL|DOCUMENT")
@anchor_options
@explain_option
@click.option("--nonce", metavar="HEX", help="The nonce (64 hex digits) that DOCUMENT was requested with.")
@click.option(
    "--spki", metavar="HEX", help="SHA-256 (64 hex digits) of the TLS public key that DOCUMENT was fetched over."
)
@click.option(
    "--save", metavar="FILE", type=click.Path(path_type=Path), help="Write the fetched document to this file."
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@conformance_options
@click.pass_context
def verify(
    context: click.Context,
    source: str,
    *,
    expect: Path,
    policy_file: Path | None,
    no_relaxations: bool,
    simulated_root: Path | None,
    collateral_file: Path | None,
    nonce: str | None,
    spki: str | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Request the attestation of the guest at URL and check it against an image that you built.

    Instead of a URL, a captured DOCUMENT can be checked. Exit status: 0 accepted, 8 refused (with every reason),
    9 malformed, 10 accepted but only as a simulation.

    \b
    Examples:
      privml-build verify https://127.0.0.1:8443 --expect out/demo-cpu
      privml-build verify https://HOST:8443 --expect out/demo-cpu --save doc.json
      privml-build verify doc.json --expect out/demo-cpu --nonce HEX --spki HEX
      privml-build verify doc.json --expect out/demo-cpu --policy policy.toml
      privml-build verify --explain tcb-status
      privml-build verify --conformance "their-verifier"
    """
    given = {"--nonce": _digits("--nonce", nonce), "--spki": _digits("--spki", spki)}
    remote = source.startswith("https://")
    if remote and any(given.values()):
        raise UsageError("--nonce and --spki are for a captured document, not for a URL")
    if not remote and not Path(source).is_file():
        raise UsageError(f"`{source}` is neither an https:// address nor a file")
    if save is not None and not save.parent.is_dir():
        raise UsageError(f"--save {save}: there is no directory {save.parent}")
    policy = policy_of(simulated_root, policy_file, no_relaxations=no_relaxations)
    expected = anchors.built(expect)
    collateral = collateral_of(collateral_file)
    now = int(time.time())
    if remote:
        fetched = attested.attest(source, expected, policy, now=now, collateral=collateral)
        judgement = fetched.judgement
        if save is not None:
            save.write_bytes(fetched.document)
            show(f"nonce {fetched.nonce.hex()}, spki {fetched.tls_spki_sha256.hex()}: {save}", err=True)
    else:
        try:
            judgement = attested.judge(
                _start_of(Path(source)),
                expected,
                policy,
                now=now,
                nonce=given["--nonce"],
                tls_spki_sha256=given["--spki"],
                collateral=collateral,
            )
        except EvidenceError as error:
            hint = error.hint or f"`privml-build measure {source}` says what that file is"
            raise EvidenceError(f"{source}: {error.message}", hint=hint) from error
    verdict = judgement.verdict
    if as_json:
        print_json(verdict.to_dict())
    else:
        show_text(render(verdict))
    missing = [option for option, value in given.items() if value is None]
    if not remote and missing and not as_json:
        show(f"hint: give {' and '.join(missing)}, which DOCUMENT was fetched with; `--save` prints both", err=True)
    context.exit(verdict.exit_code)


def _start_of(path: Path) -> bytes:
    """The content of ``path``, or one byte more than a document may have, which its decoder refuses."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror or error}") from error


def _digits(option: str, text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return unhex(text, 32, what=option)
    except EvidenceError as error:
        raise UsageError(f"{error.message}: expected 64 hex digits") from error
