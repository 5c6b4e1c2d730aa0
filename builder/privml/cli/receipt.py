"""`receipt`: check the receipts of answers that `proxy --receipts` kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click

from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start
from privml.base.strictjson import unhex
from privml.base.times import time_text
from privml.channel.receipt import NONCE_SIZE, Body, Receipt
from privml.cli.anchor import CriteriaWords, anchor_options
from privml.cli.output import print_json, show, show_text
from privml.cli.usage import Verb
from privml.client import exchange, subject
from privml.client.exchange import Exchange
from privml.statement.untrusted import UntrustedError
from privml.verify.publication import unproven
from privml.verify.report import render

_body_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Verb, subcommand_metavar="VERB ...")
def receipt() -> None:
    """Check the receipt of an answer: which measured guest gave it, to which request, with which model.

    `proxy --receipts DIR` keeps one file for each answer. docs/VERIFYING.md says what a receipt proves and what not.

    \b
    Examples:
      privml-build receipt verify receipts/ID.json --expect out/demo-cpu \\
        --request receipts/ID.request --response receipts/ID.response
      privml-build receipt verify receipts/ID.json --expect out/demo-cpu \\
        --hashes-only
    """


@receipt.command()
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--request",
    "request_file",
    metavar="FILE",
    type=_body_file,
    help="The body of the request, byte for byte as the client sent it.",
)
@click.option(
    "--response",
    "response_file",
    metavar="FILE",
    type=_body_file,
    help="The body of the answer, byte for byte as it was received, events included.",
)
@click.option("--hashes-only", is_flag=True, help="Accept without a request or an answer to compare.")
@click.option("--nonce", metavar="HEX", help="Your nonce (64 hex digits) of this request, instead of the file's.")
@anchor_options
@click.option(
    "--at",
    metavar="TIME",
    help="Judge as of this time (Unix seconds, 2026-11-29T04:00:00Z, or `bundle`: the file's own) instead of now, "
    "with the file's collateral.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.pass_context
def verify(
    context: click.Context,
    file: Path,
    *,
    request_file: Path | None,
    response_file: Path | None,
    hashes_only: bool,
    nonce: str | None,
    criteria: CriteriaWords,
    at: str | None,
    as_json: bool,
) -> None:
    """Judge the attestation document in FILE, and check its receipt against that guest, the request and the answer.

    FILE is one that `proxy --receipts` wrote. It is judged now, by your clock and with collateral from your cache or,
    failing that, FILE's own. With --at it is judged as of another time and with FILE's collateral, and the first line
    says that this rests on the word of whoever gave you FILE. No network is used unless --collateral-service names
    one. Exit status: 0 accepted, 8 refused (with every reason), 9 malformed, 10 accepted but only as a simulation.

    \b
    Examples:
      privml-build receipt verify ID.json --expect out/demo-cpu \\
        --request ID.request --response ID.response
      privml-build receipt verify ID.json --trust root.json demo-cpu \\
        --request ID.request --response ID.response --at bundle
      privml-build receipt verify ID.json --expect out/demo-cpu --hashes-only
      privml-build verify --explain receipt-keys
    """
    words = criteria.anchor()
    own_nonce = _nonce(nonce)
    policy = criteria.policy()
    found = _kept(file)
    now = int(time.time())
    judged_at = _time(at, found, now)
    try:
        expected = words.source()(now)
    except UntrustedError as error:
        # Whatever time a receipt is judged at, the index must count now.
        verdict = unproven(*words.wanted, error)
        if as_json:
            print_json({**verdict.to_dict(), "judged_at": now, "receipt": None})
        else:
            show_text(render(verdict))
            if error.hint:
                show(f"hint: {error.hint}", err=True)
        context.exit(verdict.exit_code)
    request = None if request_file is None else exchange.body_of(request_file)
    response = None if response_file is None else exchange.body_of(response_file)
    judged = exchange.judge(
        found,
        expected,
        policy,
        at=judged_at,
        collateral=criteria.collateral(policy, file=True, past=at is not None),
        request=request,
        response=response,
        hashes_only=hashes_only,
        request_nonce=own_nonce,
    )
    if as_json:
        payload = None if judged.receipt is None else judged.receipt.to_dict()
        print_json({**judged.verdict.to_dict(), "judged_at": judged_at, "receipt": payload})
    else:
        whose = " (now)" if at is None else ", on the presenter's word"
        show_text(render(judged.verdict, f", as of {time_text(judged_at)}{whose}"))
        if judged.receipt is not None:
            show(*_lines(judged.receipt, request, response))
        _hint(file, request, response, hashes_only=hashes_only)
    context.exit(judged.verdict.exit_code)


def _kept(file: Path) -> Exchange:
    try:
        return exchange.decode(read_start(file, exchange.MAX_EXCHANGE))
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read: {error.strerror or error}") from error
    except EvidenceError as error:
        hint = "expected the file ID.json that `proxy --receipts` wrote for this answer"
        raise EvidenceError(f"{file}: {error.message}", hint=hint) from error


def _lines(found: Receipt, request: Body | None, response: Body | None) -> Iterator[str]:
    """What a receipt with a good signature says."""
    yield f"  receipt: {found.id.hex()}, number {found.seq} in the guest's boot, over {found.channel}"
    yield f"  request: {found.method} {found.path}, {_compared(request, found.request)}"
    end = "complete" if found.complete else f"CUT after {found.response.size} bytes"
    kind = f" {found.content_type}" if found.content_type else ""
    yield f"  answer: {found.status}{kind}, {end}, {_compared(response, found.response)}"
    if found.usage is not None:
        counted = f"{found.usage.prompt_tokens} tokens of prompt, {found.usage.completion_tokens} of completion"
        yield f"  usage: {counted}, as the engine counted them"


def _compared(shown: Body | None, stated: Body) -> str:
    if shown is None:
        return f"not compared: sha256 {stated.sha256.hex()} of {stated.size} bytes"
    return "equal to the one given" if shown == stated else "not the one given"


def _hint(file: Path, request: Body | None, response: Body | None, *, hashes_only: bool) -> None:
    """Say how to compare what was not compared."""
    names = [name for name, body in (("request", request), ("response", response)) if body is None]
    if not names or hashes_only:
        return
    kept = [f"--{name} {path}" for name in names if (path := file.with_suffix(f".{name}")).is_file()]
    options = kept or [f"--{name} FILE" for name in names]
    show(f"hint: give {' '.join(options)}, or --hashes-only to accept without", err=True)


def _time(text: str | None, found: Exchange, now: int) -> int:
    if text is None:
        return now
    if text == "bundle":
        return found.judged_at
    try:
        return subject.time_of(text)
    except ValueError as error:
        raise UsageError(f"--at {text}: expected a time like 2026-11-29T04:00:00Z, or `bundle`") from error


def _nonce(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return unhex(text, NONCE_SIZE, what="--nonce")
    except EvidenceError as error:
        raise UsageError(f"--nonce: got `{text[:80]}`, expected 64 lower-case hex digits") from error
