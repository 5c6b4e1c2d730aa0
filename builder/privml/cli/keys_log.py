"""`keys log`: what a broker released and refused, and whether its log is whole."""

from __future__ import annotations

import json
from pathlib import Path

import click

from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start
from privml.base.strictjson import unhex
from privml.channel.release import MAX_RELEASE, LogHead, Release
from privml.cli.keystore import StoreWords, store_options
from privml.cli.output import print_json, show
from privml.cli.paths import Existing
from privml.cli.usage import Verb

_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group(cls=Verb)
def log() -> None:
    """Read a broker's log of releases, refusals and administration, and check that nothing is missing.

    \b
    Examples:
      privml-build keys log show --since 100
      privml-build keys log verify
    """


@log.command(name="show")
@store_options
@click.option(
    "--since", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="The first entry to show."
)
@_json
def show_log(*, words: StoreWords, since: int, as_json: bool) -> None:
    """Print the log's entries, one a line.

    \b
    Examples:
      privml-build keys log show
      privml-build keys log show --since 1000 --json
    """
    with words.opened() as store:
        rows = [json.loads(line) for line in store.lines()][since:]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        what = f"{row['resource']} {row['generation'] or ''}".strip()
        codes = ", ".join(row["codes"])
        show(f"{row['seq']}  {row['kind']}  {what}{f': {codes}' if codes else ''}")
        if row["document_sha256"]:
            show(f"   image {row['image']}, machine {row['ppid']}, quote {row['quote_sha256']}")


@log.command()
@store_options
@click.option(
    "--at",
    "known",
    metavar="SIZE:ROOT",
    multiple=True,
    help="A head that you kept: this many entries with this root (64 hex digits). The log must continue it.",
)
@click.option(
    "--release",
    "releases",
    metavar="FILE",
    multiple=True,
    type=Existing("a release that a courier carried"),
    help="A release, which has a head signed by the broker. The log must continue it.",
)
@click.option("--pin", is_flag=True, help="Pin the log as it is, after its pinned head was lost.")
@_json
def verify(
    *, words: StoreWords, known: tuple[str, ...], releases: tuple[Path, ...], pin: bool, as_json: bool
) -> None:
    """Read the log whole: no line was changed, removed or moved, and none was cut off since a head that is known.

    Known are the pinned head, those of --at, and those in releases. Exit status: 8 entries are missing or another log
    is there, 9 a line is changed.

    \b
    Examples:
      privml-build keys log verify
      privml-build keys log verify --release release.json
      privml-build keys log verify --at 1200:4b1f... --json
    """
    from privml.keybroker import entry, head

    heads = [_head(text) for text in known]
    with words.opened(pinned=not pin) as store:
        heads += [_of_release(path, store.public) for path in releases]
        if not pin:
            heads.append(head.read(store.head_path).log)
        checked = entry.check(store.lines(), heads)
        if pin:
            head.write(store.head_path, store.head)
    found = checked.head
    if as_json:
        print_json({"size": found.size, "root": found.root.hex(), "entries": checked.counts})
        return
    counts = ", ".join(f"{number} {kind}" for kind, number in checked.counts.items())
    show(f"{words.store}: {found.size} entries, all there: {counts}", f"head {found.size}:{found.root.hex()}")


def _head(text: str) -> LogHead:
    size, _, root = text.partition(":")
    wrong = f"--at {text[:100]}: expected SIZE:ROOT, as `keys log verify` prints it"
    if not (size.isascii() and size.isdecimal() and len(size) < 16):
        raise UsageError(wrong)
    try:
        return LogHead(int(size), unhex(root, 32))
    except EvidenceError as error:
        raise UsageError(wrong) from error


def _of_release(path: Path, broker: bytes) -> LogHead:
    found = Release.decode(read_start(path, MAX_RELEASE))
    return found.statement_by(lambda key: key == broker).log
