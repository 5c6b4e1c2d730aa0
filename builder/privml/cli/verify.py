"""`verify`: check a running image, or a bundle or document captured from one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from privml.base.errors import EvidenceError, PrivmlError, UsageError
from privml.base.files import read_start, write_atomic
from privml.base.strictjson import unhex
from privml.base.times import time_text
from privml.cli.anchor import CriteriaWords, anchor_options
from privml.cli.conformance import conformance_options
from privml.cli.output import print_json, show, show_text
from privml.cli.policy import explain_option
from privml.cli.via import via_options
from privml.client import attested, subject
from privml.client.exchange import is_exchange
from privml.client.page import verdict_page
from privml.client.subject import Subject
from privml.client.terminator import Terminator
from privml.evidence.bundle import is_bundle
from privml.evidence.sections import FORMAT as ATTESTATION
from privml.statement.untrusted import UntrustedError
from privml.verify.anchor import Anchored
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy
from privml.verify.publication import unproven
from privml.verify.report import render
from privml.verify.verdict import Outcome


@click.command()
@click.argument("source", metavar="[URL|FILE]", required=False)
@via_options
@anchor_options
@explain_option
@click.option("--nonce", metavar="HEX", help="Your nonce (64 hex digits), which the document in FILE is to be for.")
@click.option("--spki", metavar="HEX", help="SHA-256 (64 hex digits) of the TLS public key that it was fetched over.")
@click.option(
    "--at",
    metavar="TIME",
    help="Judge FILE as of this time (like 2026-11-29T04:00:00Z, or `bundle`: its own) instead of now.",
)
@click.option(
    "--save",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write a bundle to this file: document, nonce, key, time and collateral, for another person to judge.",
)
@click.option(
    "--html",
    "html_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the verdict to this file, as a page that prints on one sheet of A4.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@conformance_options
@click.pass_context
def verify(
    context: click.Context,
    source: str | None,
    *,
    terminator: Terminator | None,
    criteria: CriteriaWords,
    nonce: str | None,
    spki: str | None,
    at: str | None,
    save: Path | None,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Request the attestation of the guest at URL and check it against an image that you built, or that others did.

    Instead of a URL, a FILE can be checked: a bundle of `--save`, or a captured document. Nothing in a file proves to
    you that the guest still runs; the first line says whose nonce was used and as of which time. Exit status: 0
    accepted, 8 refused (with every reason), 9 malformed, 10 accepted but only as a simulation.

    With --via, one of the guests behind somebody else's TLS server is checked. The verdict is then about that guest's
    channel key, and says so: send what only that channel carries, as `proxy --via` does.

    \b
    Examples:
      privml-build verify https://127.0.0.1:8443 --expect out/demo-cpu
      privml-build verify https://HOST:8443 --expect out/demo-cpu \\
        --save bundle.json
      privml-build verify https://HOST:8443 --trust root.json demo-cpu
      privml-build verify https://HOST:8443 \\
        --trust root.json demo-cpu@2026.11.1 --index https://SERVER/measurements
      privml-build verify https://HOST:8443 \\
        --trust root.json demo-cpu --log-policy policy.txt
      privml-build verify https://HOST:8443 --expect out/demo-cpu \\
        --html verdict.html
      privml-build verify --via https://api.example --expect out/demo-cpu
      privml-build verify bundle.json --expect out/demo-cpu --at bundle
      privml-build verify doc.json --expect out/demo-cpu --nonce HEX --spki HEX
      privml-build verify doc.json --expect out/demo-cpu --policy policy.toml
      privml-build verify --explain tcb-status
      privml-build verify --conformance "their-verifier"
    """
    words = criteria.anchor()
    given = {"--nonce": _digits("--nonce", nonce), "--spki": _digits("--spki", spki)}
    if (source is None) is (terminator is None):
        raise UsageError("expected a URL, a FILE, or --via URL, and only one of them")
    if terminator is not None and save is not None:
        raise UsageError(
            "--save: a bundle is about the key of a connection; --via gives a verdict on the channel key"
        )
    source = source or ""
    remote = terminator is not None or source.startswith("https://")
    if remote and any(given.values()):
        raise UsageError("--nonce and --spki are for a captured document, not for a URL")
    if remote and at is not None:
        raise UsageError("--at is for a file; a guest is judged now")
    if not remote and not Path(source).is_file():
        raise UsageError(f"`{source}` is neither an https:// address nor a file")
    for option, file in (("--save", save), ("--html", html_file)):
        if file is not None and not file.parent.is_dir():
            raise UsageError(f"{option} {file}: there is no directory {file.parent}")
    policy = criteria.policy()
    now = int(time.time())
    try:
        expected = words.source()(now)
    except UntrustedError as error:
        # Whatever time a file is judged at, the index must count now.
        verdict = unproven(*words.wanted, error)
        if html_file is not None:
            write_atomic(html_file, verdict_page(verdict, None, f"As of {time_text(now)}").encode())
        if as_json:
            print_json({**verdict.to_dict(), "nonce_of": None, "judged_at": now})
        else:
            show_text(render(verdict))
            if error.hint:
                show(f"hint: {error.hint}", err=True)
        context.exit(verdict.exit_code)
    collateral = criteria.collateral(policy, file=not remote, past=at is not None)
    if remote:
        found, judgement = _live(source, terminator, expected, policy, now=now, collateral=collateral)
        judged_at = now
    else:
        data = _start_of(Path(source))
        try:
            found = subject.read(data, nonce=given["--nonce"], tls_spki_sha256=given["--spki"])
            judged_at = _time(at, found, now)
            if save is not None and found.bundled(judged_at, None) is None:
                raise UsageError("--save: a bundle needs the document's nonce and key; give --nonce and --spki")
            judgement = found.judge(expected, policy, at=judged_at, collateral=collateral)
        except EvidenceError as error:
            raise _not_a_document(source, data, error) from error
    verdict = judgement.verdict
    made = found.bundled(judged_at, attested.used(collateral, judgement.facts.header.tee))
    if save is not None and made is not None:
        write_atomic(save, made.encode())
        show(f"nonce {made.nonce.hex()}, spki {made.tls_spki_sha256.hex()}: {save}", err=True)
    about = "" if remote else found.about(judged_at, now)
    if html_file is not None:
        where = source if terminator is None else f"a guest behind {terminator.where.url}"
        when = f", as of {time_text(judged_at)}" if remote else about.removesuffix(" (now)")
        write_atomic(html_file, verdict_page(verdict, judgement, f"{where}{when}").encode())
    if as_json:
        print_json({**verdict.to_dict(), "nonce_of": found.nonce_of, "judged_at": judged_at})
    else:
        show_text(render(verdict, about))
    missing = [] if found.bundle is not None else [option for option, value in given.items() if value is None]
    if not remote and missing and not as_json:
        said = f"give {' and '.join(missing)}, which the document was fetched with; a bundle of `--save` holds both"
        show(f"hint: {said}", err=True)
    if found.bundle is not None and at is None and verdict.outcome is Outcome.REFUSED and not as_json:
        then = time_text(found.bundle.judged_at)
        show(f"hint: `--at bundle` judges as of {then}, when the bundle says that it was made", err=True)
    context.exit(verdict.exit_code)


def _live(
    url: str,
    terminator: Terminator | None,
    expected: Anchored,
    policy: Policy,
    *,
    now: int,
    collateral: attested.Collateral | None,
) -> tuple[Subject, Judgement]:
    """The document of the guest at ``url``, or of one behind ``terminator``, and its judgement."""
    if terminator is None:
        fetched = attested.attest(url, expected, policy, now=now, collateral=collateral)
        found = Subject(fetched.document, fetched.nonce, fetched.tls_spki_sha256, subject.CALLER)
        return found, fetched.judgement
    (offered,) = terminator.offered(limit=1)
    found = Subject(offered.document, offered.nonce, None, subject.CALLER)
    return found, attested.judge(
        offered.document,
        expected,
        policy,
        now=now,
        nonce=offered.nonce,
        tls_spki_sha256=None,
        channel_record=offered.record,
        collateral=collateral,
    )


def _time(text: str | None, found: Subject, now: int) -> int:
    """The time to judge ``found`` at: that of `--at`, or now."""
    if text is None:
        return now
    if text == "bundle":
        if found.bundle is None:
            raise UsageError("--at bundle: the file is a document without a time; give a time")
        return found.bundle.judged_at
    try:
        return subject.time_of(text)
    except ValueError as error:
        raise UsageError(f"--at {text}: expected a time like 2026-11-29T04:00:00Z, or `bundle`") from error


def _start_of(path: Path) -> bytes:
    """The content of ``path``, or one byte more than a file may have, which its decoder refuses."""
    try:
        return read_start(path, subject.MAX_FILE)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror or error}") from error


def _not_a_document(source: str, data: bytes, error: EvidenceError) -> EvidenceError:
    """The error for a file that cannot be judged, which names the verb for it if there is one."""
    if is_exchange(data):
        said = f"{source} is the receipt of an answer, expected an attestation document or a bundle"
        return EvidenceError(said, hint=f"`privml-build receipt verify {source}` checks it, with the document in it")
    bare = None if is_bundle(data) or f'"{ATTESTATION}"'.encode() in data else _bare(Path(source))
    if bare is not None:
        said = f"{source} is only {bare}, not a document: it proves no key and no freshness"
        return EvidenceError(said, hint=f"`privml-build inspect {source}` judges its signature and its values")
    hint = error.hint or f"`privml-build measure {source}` says what that file is"
    return EvidenceError(f"{source}: {error.message}", hint=hint)


def _bare(path: Path) -> str | None:
    """What the file at ``path`` is, if it is evidence without a document."""
    # Loaded here, because a good document does not need the readers of other files.
    from privml.readers import files

    try:
        found = files.read(path)
    except PrivmlError:
        return None
    bare = any(each is not None for each in (found.claimed, found.report, found.cca))
    return f"`{found.description.title}`" if bare else None


def _digits(option: str, text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return unhex(text, 32, what=option)
    except EvidenceError as error:
        raise UsageError(f"{option}: got `{text[:80]}`, expected 64 lower-case hex digits") from error
