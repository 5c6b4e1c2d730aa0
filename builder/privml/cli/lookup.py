"""`lookup`: find the published versions that have a register or a digest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from privml.base.errors import Differs, UsageError
from privml.base.times import time_text
from privml.cli.output import print_json, show
from privml.cli.trusted import repository_options
from privml.output.repository import MEASUREMENTS, held
from privml.statement import image
from privml.statement import lookup as search
from privml.statement.image import Image
from privml.statement.lookup import MIN_DIGITS, Found
from privml.statement.update import Update

_SHOWN = 8


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")(command)
    command = repository_options(command)
    for option in (
        click.option(
            "--trust",
            metavar="ROOT",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Search measurements that are checked under this root (root.json), which you trust.",
        ),
        click.option(
            "--in",
            "folder",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help=f"Without --trust: the folder of the published measurements.  [default: {MEASUREMENTS}]",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("value", metavar="HEX")
@_options
def lookup(
    value: str, *, trust: Path | None, index: str | None, trust_state: Path | None, folder: Path | None, as_json: bool
) -> None:
    """Find which published images, versions and machine sizes have the value HEX.

    HEX is a register as a quote, a report or a log has it (MRTD, RTMR0 to RTMR3, an SNP guest's launch digest), or
    the SHA-256 of an artefact, of a published file or of a signed statement; its first eight digits or more will do.
    Without --trust, the folder is checked only from its own first root, and the first line says so. Exit status: 0
    found, 1 no version has it, 8 the repository is not what was signed.

    \b
    Examples:
      privml-build lookup 518be1da777c9dfd
      privml-build lookup 518be1da777c9dfd --in checkout/measurements
      privml-build lookup 518be1da777c9dfd --trust root.json \\
        --index https://SERVER/measurements
    """
    digits = search.digits_of(value)
    if trust is None:
        given = {"--index": index, "--trust-state": trust_state}
        if wrong := [option for option, word in given.items() if word is not None]:
            raise UsageError(
                f"{wrong[0]} needs --trust", hint="without a trusted root, name the folder with --in DIR"
            )
        read = _folder(Path(MEASUREMENTS) if folder is None else folder)
    elif folder is not None:
        raise UsageError("--in and --trust are both given, expected one", hint="with --trust, say --index DIR|URL")
    else:
        read = _trusted(trust, index, trust_state)
    found = search.lookup(read.images, digits)
    if as_json:
        facts = {"verified": read.verified, "source": read.source, "root_sha256": read.root_sha256}
        print_json({"value": digits, **facts, "notes": list(read.notes), "found": [each.to_dict() for each in found]})
    else:
        show(read.said, *_lines(found))
        for note in read.notes:
            show(f"warning: {note}", err=True)
    if not found:
        raise Differs(f"no published version has {_short(digits)}, of {read.counted}")


@dataclass(frozen=True)
class Read:
    """What is searched. ``verified`` is True for a repository under a root that the caller trusts."""

    source: str
    root_sha256: str
    verified: bool
    images: tuple[Image, ...]
    notes: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """The first line."""
        if self.verified:
            return f"in {self.source}, verified under the root that you trust (SHA-256 {self.root_sha256})"
        return (
            f"in {self.source}, checked only from its own first root (SHA-256 {self.root_sha256}), "
            "not under a root that you trust: --trust ROOT does that"
        )

    @property
    def counted(self) -> str:
        """How much was searched."""
        versions = sum(len(each.index.versions) for each in self.images)
        return f"{versions} version{'' if versions == 1 else 's'} of {', '.join(each.name for each in self.images)}"


def _folder(folder: Path) -> Read:
    found = held(folder)
    return Read(str(folder), found.root_sha256, False, found.images, (*_marked(found.update), *_unread(found.images)))


def _trusted(root: Path, index: str | None, state: Path | None) -> Read:
    # Loaded here, because a search in a folder needs no client.
    from privml.client.trust import trusted

    repository = trusted(root, index, state=state)
    with repository.followed() as (update, fetch, first):
        images = tuple(image.read(update, fetch, name) for name in sorted(update.published))
    now = int(time.time())
    ended = tuple(
        f"{role} was valid until {time_text(end)}: this copy may hide later revocations"
        for role, end in update.expiries.items()
        if end <= now
    )
    digest = hashlib.sha256(repository.root).hexdigest()
    return Read(repository.source, digest, True, images, (*_marked(update), *first, *ended, *_unread(images)))


def _marked(update: Update) -> tuple[str, ...]:
    return ("a demonstration: one person made all keys",) if update.demonstration else ()


def _unread(images: Iterable[Image]) -> tuple[str, ...]:
    return tuple(
        f"{each.name} {version} counts no more and was not searched: {why}"
        for each in images
        for version, why in each.unread.items()
    )


def _lines(found: Iterable[Found]) -> Iterator[str]:
    """Each version once, then its places."""
    for _, group in groupby(found, lambda each: (each.name, each.entry.version)):
        rows = list(group)
        yield f"{rows[0].name} {rows[0].entry.version} ({_state(rows[0])})"
        for each in rows:
            yield f"  {each.title} {each.value}"
            yield from (f"    {shape}" for shape in each.shapes[:_SHOWN])
            if len(each.shapes) > _SHOWN:
                yield f"    {len(each.shapes) - _SHOWN} more: see --json"


def _state(found: Found) -> str:
    entry = found.entry
    words = [f"serial {entry.serial}", entry.state.value + (f" by {entry.replaced_by}" if entry.replaced_by else "")]
    if entry.reason:
        words[-1] += f": {entry.reason}"
    if not found.counts:
        words.append("a guest of it is refused")
    return ", ".join(words)


def _short(digits: str) -> str:
    return digits if len(digits) <= 2 * MIN_DIGITS else f"{digits[: 2 * MIN_DIGITS]}.."
