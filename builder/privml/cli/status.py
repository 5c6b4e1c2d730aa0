"""`status`: the boot stages of a guest, without a verdict."""

from __future__ import annotations

import time

import click

from privml.base.errors import EvidenceError, HostError
from privml.cli.output import print_json, show
from privml.client import stages
from privml.client.connection import Endpoint, endpoint
from privml.events.stagetable import Row, StageTable

UNVERIFIED = "unverified: whoever answers at this address can say this; `verify` checks a guest"
_PAUSE = 1.0


@click.command()
@click.argument("url", metavar="URL")
@click.option("--watch", is_flag=True, help="Show each stage when it ends, until the guest is ready or parked.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    help="Give up after this time [default: 10; with --watch: none].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def status(url: str, *, watch: bool, timeout: int | None, as_json: bool) -> None:
    """Show the boot stages of the guest at URL: which are done, how long each took, and which one failed and why.

    Nothing is verified and nothing is sent. A guest whose stage failed is parked: it serves nothing until it is
    started again. Exit status: 0 ready, 5 parked, not ready yet, or no answer.

    \b
    Examples:
      privml-build status https://127.0.0.1:8443
      privml-build status https://HOST:8443 --watch --timeout 600
    """
    where = endpoint(url)
    if not as_json:
        show(UNVERIFIED)
    found = _watched(where, timeout, quiet=as_json) if watch else stages.fetch(where, timeout or stages.TIMEOUT)
    parked = found.parked
    if as_json:
        print_json({"verified": False, **stages.table_json(found)})
    elif not watch:
        show(*map(_line, found.rows))
    if parked is not None:
        raise HostError(
            f"{where.url}: parked in stage {parked.name}: {parked.detail}", hint=stages.remedy(parked) or None
        )
    if not found.ready:
        running = next((row.name for row in found.rows if not row.ended), "none")
        raise HostError(f"{where.url}: not ready yet: stage {running}", hint="`--watch` waits")
    if not as_json:
        show(f"ready {found.seconds:.1f} s after the agent started")


def _watched(where: Endpoint, timeout: int | None, *, quiet: bool) -> StageTable:
    """The table once the guest is ready or parked. A guest that does not answer yet is asked again."""
    end = None if timeout is None else time.monotonic() + timeout
    shown: set[str] = set()
    last: Exception | None = None
    while True:
        left = stages.TIMEOUT if end is None else max(0.1, min(stages.TIMEOUT, end - time.monotonic()))
        try:
            found = stages.fetch(where, left)
        except (HostError, EvidenceError) as error:
            if last is None or left == stages.TIMEOUT:  # one that the limit cut short says less than the one before
                last = error
        else:
            for row in found.rows:
                # A running stage says what it waits for, if anything.
                news = row.name if row.ended else f"{row.name}: {row.detail}"
                if (row.ended or row.waits) and news not in shown:
                    shown.add(news)
                    if not quiet:
                        show(_line(row))
            if found.ready or found.parked is not None:
                return found
            last = HostError(f"{where.url}: not ready after {timeout} s", hint="its stages so far are above")
        if end is not None and time.monotonic() + _PAUSE > end:
            raise last
        time.sleep(_PAUSE)


def _line(row: Row) -> str:
    took = "" if row.seconds is None else f"{row.seconds:8.1f} s"
    times = "once" if row.restarts == 1 else f"{row.restarts} times"
    said = [text for text in (row.detail, f"restarted {times}" if row.restarts else "") if text]
    return f"{row.name:<10} {row.status:<8} {took:>10}  {', '.join(said)}".rstrip()
