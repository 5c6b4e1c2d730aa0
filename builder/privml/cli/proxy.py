"""`proxy`: a local OpenAI endpoint that forwards only to a verified guest."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from privml.base.errors import UsageError
from privml.cli.anchor import CriteriaWords, anchor_options, refuse_demonstration
from privml.cli.output import show
from privml.cli.paths import listen_address
from privml.cli.via import via_options
from privml.client import attested
from privml.client.behind import guests_behind
from privml.client.callers import Callers, allowed_origins, token_of
from privml.client.environment import client_variables, detour_warning
from privml.client.guests import Guests
from privml.client.proxy import serve
from privml.client.receipts import Receipts
from privml.client.terminator import Terminator
from privml.client.tokens import GuestTokens
from privml.verify.judgement import Judgement


@click.command()
@click.argument("upstreams", metavar="[URL...]", nargs=-1)
@via_options
@anchor_options
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="The address to listen on, of this machine only.  [default: 127.0.0.1:8000]",
)
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Listen on a Unix socket that only you can open, and on no port.",
)
@click.option(
    "--token",
    "token_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take requests only with the token in FILE, as the API key. A missing file is made, with a new token.",
)
@click.option(
    "--caller-token",
    "guest_tokens",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Show a guest the token in FILE that is for it. One token a line; the file is read again when it changes.",
)
@click.option(
    "--allow-origin",
    "origins",
    metavar="URL",
    multiple=True,
    help="Take requests of web pages of this origin, such as https://app.example. By default of none.",
)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="Verify the guest again after this time.",
)
@click.option(
    "--max-age",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    default=600,
    show_default=True,
    help="Use no judgement longer than this, also while the guest cannot be verified again.",
)
@click.option(
    "--receipts",
    "receipts_folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Ask for a receipt of each answer, check it, and keep it in DIR for `receipt verify`.",
)
@click.option(
    "--keep-bodies", is_flag=True, help="With --receipts: keep requests and answers, too. They hold prompts in clear."
)
def proxy(
    upstreams: tuple[str, ...],
    *,
    terminator: Terminator | None,
    criteria: CriteriaWords,
    listen: str | None,
    socket_path: Path | None,
    token_file: Path | None,
    guest_tokens: Path | None,
    origins: tuple[str, ...],
    interval: int,
    max_age: int,
    receipts_folder: Path | None,
    keep_bodies: bool,
) -> None:
    """Serve a local OpenAI-compatible endpoint that forwards to URL while the guest there passes verification.

    With several URLs, each guest is verified by itself, and a request goes to one that passes. When verification
    fails, clients are answered 403 with every reason, and no byte of a prompt is sent. While a guest is verified
    again, the last judgement stays in force until --max-age; without one, clients are answered 503.

    Requests are sealed for a key inside the guest, if it has one. With --via they go through somebody else's TLS
    server that way: it learns when and how much is sent, and nothing else. All guests behind it are found, and
    each one that passes can answer each request.

    \b
    Examples:
      privml-build proxy https://127.0.0.1:8443 --expect out/demo-cpu
      privml-build proxy https://HOST:8443 --trust root.json demo-cpu
      privml-build proxy https://HOST:8443 --expect out/demo-cpu --max-age 120
      privml-build proxy https://ONE:8443 https://TWO:8443 --expect out/demo-cpu
      privml-build proxy --via https://api.example --expect out/demo-cpu
      privml-build proxy https://HOST:8443 --expect out/demo-cpu --token token
      privml-build proxy https://HOST:8443 --expect out/demo-cpu --socket guest
      privml-build proxy https://HOST:8443 --expect out/demo-cpu \\
        --receipts receipts --keep-bodies
      NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost \\
        OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none your-program

    Without NO_PROXY, a client that finds HTTP_PROXY or ALL_PROXY in its environment sends prompts in clear to that
    proxy. The variables for the real address are printed at start.

    Every user and program of this machine can use the port; web pages cannot. --token and --socket restrict it.

    A browser at http://127.0.0.1:8000/ shows the guests with their verdicts and measured events, and asks for the
    token as password if there is one; /privml/guests and /privml/verdict are the same as JSON.
    """
    if bool(upstreams) is (terminator is not None):
        raise UsageError("expected one or more URLs, or --via URL, and not both")
    if listen is not None and socket_path is not None:
        raise UsageError("--listen and --socket: expected one of them")
    if keep_bodies and receipts_folder is None:
        raise UsageError("--keep-bodies is for receipts: it needs --receipts DIR")
    where = socket_path or listen_address(listen or "127.0.0.1:8000")
    allowed = allowed_origins(origins)
    policy = criteria.policy()
    expected = criteria.anchor().source()
    # What is wrong with the anchor is said now, not to the first client.
    refuse_demonstration(expected(int(time.time())), policy)
    collateral = criteria.collateral(policy)
    # Last, because a missing folder or token's file is made.
    receipts = None if receipts_folder is None else Receipts(receipts_folder, keep_bodies=keep_bodies)
    callers = Callers(allowed, None if token_file is None else token_of(token_file))
    logging.getLogger("privml").setLevel(logging.INFO)

    def check(document: bytes, nonce: bytes, shown: bytes) -> Judgement:
        now = int(time.time())
        # Read again each time, so that a revocation reaches a proxy that runs.
        return attested.judge(
            document,
            expected(now),
            policy,
            now=now,
            nonce=nonce,
            tls_spki_sha256=shown if terminator is None else None,
            channel_record=None if terminator is None else shown,
            collateral=collateral,
        )

    def listening(port: int) -> None:
        if isinstance(where, Path):
            show(f"listening on {where}; ask it with", err=True)
            show(f"  curl --unix-socket {shlex.quote(str(where))} http://localhost/v1/models", err=True)
            return
        host = where[0]
        variables = client_variables(host, port)
        if token_file is not None:
            # The file's name and not its content: the command line of a program is public.
            variables["OPENAI_API_KEY"] = f'"$(cat {shlex.quote(str(token_file))})"'
        show(f"listening on {variables['OPENAI_BASE_URL']}; start a client with", err=True)
        show(f"  {' '.join(f'{name}={value}' for name, value in variables.items())} your-program", err=True)
        page = variables["OPENAI_BASE_URL"].removesuffix("v1")
        password = "" if token_file is None else " (any user name, and the token as password)"
        show(f"the guests and their verdicts, for a browser: {page}{password}", err=True)
        if warning := detour_warning(os.environ, host, port):
            show(f"warning: {warning}", err=True)

    def used(judgement: Judgement) -> Mapping[str, Mapping[str, Any]] | None:
        return attested.used(collateral, judgement.facts.header.tee)

    checked = check if receipts is None else receipts.watching(check, used)
    if terminator is None:
        guests = Guests.at(upstreams, checked, interval=interval, max_age=max_age)
    else:
        guests = guests_behind(terminator, checked, interval=interval, max_age=max_age)
    if guest_tokens is not None:
        guests.present = GuestTokens(guest_tokens).present
    serve(where, guests, callers=callers, listening=listening, receipts=receipts)
