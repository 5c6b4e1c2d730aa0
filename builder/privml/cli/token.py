"""`token`: tokens for the callers of a guest whose recipe has `callers: tokens`."""

from __future__ import annotations

import time

import click

from privml.base.errors import UsageError
from privml.channel.token import SUBJECT, USAGE, Token
from privml.cli.anchor import CriteriaWords, anchor_options
from privml.cli.output import ask_secret, print_json, show, show_text
from privml.cli.usage import Verb
from privml.client import attested
from privml.client.tokens import clock_of, usage_of
from privml.publish import signer
from privml.statement.keys import ED25519
from privml.verify.judgement import AttestedKeys
from privml.verify.report import render

MAX_SECONDS = 30 * 24 * 3600
_ASKING = 60
"""Seconds for which the token that reads usage is good."""
_MAX_LINE = 10**15 - 1
"""Largest number of a line that a guest takes."""


@click.group(cls=Verb)
def token() -> None:
    """Let callers use guests that answer only those with a token of their issuer.

    A guest with `agent: {callers: tokens, issuer: KEY}` in its recipe answers requests to /v1/ and /x/ with a token
    that KEY signed for this very boot, until a number of seconds on the guest's own clock.

    \b
    Examples:
      privml-build token issue https://HOST:8443 --expect out/me \\
        --key issuer.pem --subject team-7 > token
      privml-build proxy https://HOST:8443 --expect out/me --caller-token token
      privml-build token usage https://HOST:8443 --expect out/me --key issuer.pem
    """


_key = click.option(
    "--key",
    "uri",
    metavar="URI",
    required=True,
    help="The issuer's private key (Ed25519): a file in PEM or OpenSSH's format, or pkcs11:...",
)


@token.command()
@click.argument("url")
@anchor_options
@_key
@click.option("--subject", metavar="NAME", required=True, help="Who gets the token: letters, digits, `.`, `_`, `-`.")
@click.option(
    "--seconds",
    metavar="N",
    type=click.IntRange(min=1, max=MAX_SECONDS),
    default=600,
    show_default=True,
    help="How long the token can be used. It ends with the guest's boot in any case.",
)
@click.option("--json", "as_json", is_flag=True, help="Print token, guest and end as JSON.")
def issue(url: str, *, uri: str, subject: str, seconds: int, as_json: bool, criteria: CriteriaWords) -> None:
    """Verify the guest at URL, read its clock, and print a token for it.

    The token is for this boot of this guest only. Whoever has it may use it, so hand it over in private. Nothing is
    signed for a guest that is refused.

    \b
    Examples:
      privml-build token issue https://HOST:8443 --expect out/me \\
        --key issuer.pem --subject team-7
      privml-build token issue https://HOST:8443 --trust root.json NAME \\
        --key pkcs11:token=ops --subject team-7 --seconds 3600 --json
    """
    if not SUBJECT.match(subject):
        raise UsageError(f"--subject {subject[:64]}: expected 1 to 64 letters, digits, `.`, `_` or `-`")
    keys, code = _judged(url, criteria)
    clock = clock_of(url, keys)
    until = clock.boot_seconds + seconds
    made = Token(keys.section_sha256, subject, until).sign(_issuer(uri).sign)
    if as_json:
        print_json(
            {
                "token": made,
                "keys_sha256": keys.section_sha256.hex(),
                "subject": subject,
                "until": until,
                "boot_seconds": clock.boot_seconds,
            }
        )
    else:
        show_text(made)
    show(f"for {subject}, {seconds} s, at this boot of {url}", err=True)
    click.get_current_context().exit(code)


@token.command()
@click.argument("url")
@anchor_options
@_key
@click.option(
    "--since",
    metavar="N",
    type=click.IntRange(min=0, max=_MAX_LINE),
    default=0,
    show_default=True,
    help="The first line to ask for.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines as JSON.")
def usage(url: str, *, uri: str, since: int, as_json: bool, criteria: CriteriaWords) -> None:
    """Verify the guest at URL, and print what each subject used.

    There is a line for each subject and minute, signed by the guest: requests, and the tokens of its engine. The
    guest keeps its last 16384 lines in memory, and none when it is stopped, so ask often, and next time from the
    number after the last line. At most 1000 lines are printed.

    \b
    Examples:
      privml-build token usage https://HOST:8443 --expect out/me --key issuer.pem
      privml-build token usage https://HOST:8443 --expect out/me \\
        --key issuer.pem --since 1000 --json
    """
    keys, code = _judged(url, criteria)
    until = clock_of(url, keys).boot_seconds + _ASKING
    found = usage_of(url, keys, Token(keys.section_sha256, "issuer", until, USAGE).sign(_issuer(uri).sign), since)
    if as_json:
        print_json(
            {
                "keys_sha256": found.keys_sha256.hex(),
                "boot_seconds": found.boot_seconds,
                "first": found.first,
                "next": found.next,
                "lines": [line.to_dict() for line in found.lines],
            }
        )
    else:
        for line in found.lines:
            counts = f"{line.requests} requests, {line.prompt_tokens} + {line.completion_tokens} tokens"
            show_text(f"{line.seq}  minute {line.minute}  {line.subject}  {counts}, {line.unreported} unreported")
    if 0 < since < found.first:
        why = "lines are not kept any more, or the guest's server was started again"
        show(f"warning: nothing from line {since} to line {found.first - 1}: {why}", err=True)
    show(f"next: --since {found.next}", err=True)
    click.get_current_context().exit(code)


def _judged(url: str, criteria: CriteriaWords) -> tuple[AttestedKeys, int]:
    """The attested keys of the guest at ``url`` and the verdict's exit code; ends the command if it is refused."""
    policy = criteria.policy()
    now = int(time.time())
    expected = criteria.anchor().source()(now)
    collateral = criteria.collateral(policy)
    judgement = attested.attest(url, expected, policy, now=now, collateral=collateral).judgement
    if judgement.keys is None:
        show_text(render(judgement.verdict))
        click.get_current_context().exit(judgement.verdict.exit_code)
    return judgement.keys, judgement.verdict.exit_code


def _issuer(uri: str) -> signer.Signer:
    found = signer.load(uri, ask_secret)
    if found.public.algorithm != ED25519:
        raise UsageError(f"--key: a key of {found.public.algorithm}, expected an Ed25519 key")
    return found
