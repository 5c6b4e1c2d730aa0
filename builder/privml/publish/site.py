"""The static site of a repository: pages, register look-up, feed and badges, as a table of paths and bytes.

Pages have no script and load nothing. They are a function of the repository's files: two runs give equal bytes, and
times are those that the repository's signers wrote. A repository that does not check is refused.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from privml.base import html, svg
from privml.base.errors import UsageError
from privml.base.files import directory_atomic, read_start
from privml.base.strictjson import canonical
from privml.base.times import time_text
from privml.output.repository import Held, fetch_from
from privml.publish import check as gate
from privml.publish import pagefacts as facts
from privml.publish.catalogue import Listed, Row, catalogue
from privml.publish.repository import ROOT_FILE
from privml.statement import metadata
from privml.statement.index import Entry, State
from privml.statement.lookup import Found, values_of
from privml.statement.metadata import MAX_METADATA, ROOT

FORMAT = "privml-registers/v1"
REGISTERS_FILE = "registers.json"
_DEMONSTRATION = (
    "This is a demonstration: one person made all keys. Do not rely on it. `--allow-demonstration` lets the commands "
    "below accept it, as a simulation."
)
_LETTER = 7
"""Pixels of a badge's letter, roughly."""
_GREEN, _AMBER, _RED = "#1a7f37", "#8a4b00", "#b42318"
Files = dict[str, bytes]


def site(folder: Path) -> Files:
    """Every file of the site of the repository in ``folder``, by its path.

    ``Refused`` if anything in the repository is not as it was signed. What has expired is no reason: the site says
    until when the index is valid.
    """
    checked = gate.read(folder)
    return _Site(folder, checked.held, catalogue(folder, checked)).files()


def write(files: Files, target: Path) -> None:
    """Write the site in place of an earlier one; ``UsageError`` for a directory with anything else in it."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file, expected a directory for the site")
    if target.is_dir() and any(target.iterdir()) and not _is_site(target):
        raise UsageError(f"{target} has files that are not of a site", hint="name a new or empty directory")
    with directory_atomic(target.absolute()) as made:
        for folder in sorted({(made / path).parent for path in files}):
            folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            (made / path).write_bytes(data)


def _is_site(target: Path) -> bool:
    path = target / REGISTERS_FILE
    return path.is_file() and f'"{FORMAT}"'.encode() in read_start(path, 256)


@dataclass(frozen=True)
class _Site:
    folder: Path
    held: Held
    listed: tuple[Listed, ...]

    def files(self) -> Files:
        made: Files = {}
        by = self._registers()
        prefixes = sorted({value[:2] for value in by})
        for listed in self.listed:
            name = listed.image.name
            made[f"images/{name}.html"] = self._page(name, "image.html", facts.image(listed))
            newest = next((row for row in listed.rows if row.counts and row.entry.state is State.CURRENT), None)
            made[f"badges/{name}.svg"] = self._badge(name, newest)
            for number, row in enumerate(listed.rows):
                version = row.entry.version
                of = facts.version(listed, number)
                made[f"images/{name}/{version}.html"] = self._page(f"{name} {version}", "version.html", of)
                made[f"badges/{name}/{version}.svg"] = self._badge(f"{name} {version}", row)
        for two, values in groupby(by.items(), lambda item: item[0][:2]):
            of = {"values": values, "state": facts.state_words, "sizes": self._sizes}
            made[f"by/{two}.html"] = self._page(f"Registers that begin with {two}", "by.html", of)
        made[REGISTERS_FILE] = self._registers_file(by)
        feed = self._feed()
        if feed is not None:
            made["feed.xml"] = feed
        front = self._front(prefixes, feed is not None)
        made["index.html"] = self._page("Published measurements", "front.html", front)
        return made

    @cached_property
    def _templates(self) -> tuple[Any, Any]:
        """The environments for HTML and for XML; both escape whatever is not `Html`."""
        import jinja2  # only the site needs it

        made = []
        for finalize in (lambda value: html.text(_as_text(value)), lambda value: html.attribute(_as_text(value))):
            environment = jinja2.Environment(
                loader=jinja2.PackageLoader("privml.publish"),
                autoescape=True,
                undefined=jinja2.StrictUndefined,
                finalize=finalize,
                trim_blocks=True,
                lstrip_blocks=True,
            )
            environment.globals |= {
                "attribute": html.attribute,
                "link": html.link,
                "pre": html.pre,
                "table": html.table,
            }
            made.append(environment)
        return made[0], made[1]

    def _page(self, title: str, template: str, of: Mapping[str, Any]) -> bytes:
        body: str = self._templates[0].get_template(template).render(of)
        marked = (
            [f'<p class="verdict differs">{html.text(_DEMONSTRATION)}</p>'] if self.held.update.demonstration else []
        )
        return html.document(title, [*marked, body.strip()]).encode()

    def _text(self, template: str, **of: Any) -> bytes:
        rendered: str = self._templates[1].get_template(template).render(of)
        return rendered.encode()

    def _badge(self, label: str, row: Row | None) -> bytes:
        words, colour = _badge_words(row)
        left, right = (_LETTER * len(text) + 16 for text in (label, words))
        return self._text("badge.svg", label=label, words=words, colour=colour, left=left, right=right)

    def _registers(self) -> dict[str, tuple[Found, ...]]:
        """Each value of a register, and where it stands."""
        found: dict[str, list[Found]] = {}
        for listed in self.listed:
            for each in values_of(listed.image):
                if each.shapes:
                    found.setdefault(each.value, []).append(each)
        return {value: tuple(found[value]) for value in sorted(found)}

    def _sizes(self, found: Found) -> str:
        image = next(listed.image for listed in self.listed if listed.image.name == found.name)
        every = image.versions[found.entry.version].statement.predicate.launches
        return f"all {len(every)} sizes" if len(found.shapes) == len(every) > 1 else "; ".join(found.shapes)

    def _registers_file(self, by: Mapping[str, tuple[Found, ...]]) -> bytes:
        rows = {value: [_register(each) for each in found] for value, found in by.items()}
        return canonical({"format": FORMAT, "first_root_sha256": self.held.root_sha256, "registers": rows})

    def _front(self, prefixes: Sequence[str], feed: bool) -> dict[str, Any]:
        data = fetch_from(self.folder)(ROOT_FILE, MAX_METADATA)
        assert data is not None  # it was checked
        root, memory = metadata.decode(metadata.Root, data, ROOT_FILE).body, self.held.update.memory
        return {
            "images": [facts.overview(listed) for listed in self.listed],
            "root": {
                "sha256": hashlib.sha256(data).hexdigest(),
                "version": root.version,
                "threshold": root.roles[ROOT].threshold,
                "holders": len(root.roles[ROOT].keys),
                "first": self.held.root_sha256,
                "serial": memory.timestamp,
                "valid": time_text(min(self.held.update.expiries.values())),
            },
            "by": prefixes,
            "feed": feed,
        }

    def _feed(self) -> bytes | None:
        """The feed: an entry for each version, of the day on which its state was signed; None without a version."""
        rows = [(listed.image.name, row) for listed in self.listed for row in listed.rows]
        if not rows:
            return None
        rows.sort(key=lambda pair: (pair[1].entry.since, pair[0], pair[1].entry.serial), reverse=True)
        entries = [
            {
                "title": f"{name} {row.entry.version}: {facts.state_words(row.entry, row.counts)}",
                "id": _urn(row.entry.release_sha256),
                "updated": _day(row.entry),
                "page": f"images/{name}/{row.entry.version}.html",
                "summary": f"Serial {row.entry.serial}, rebuilt {facts.rebuilt(row)}.",
            }
            for name, row in rows
        ]
        identity = _urn(bytes.fromhex(self.held.root_sha256))
        return self._text("feed.xml", id=identity, updated=entries[0]["updated"], entries=entries)


def _register(found: Found) -> dict[str, Any]:
    return {
        "name": found.name,
        "version": found.entry.version,
        "serial": found.entry.serial,
        "state": found.entry.state.value,
        "counts": found.counts,
        "register": found.what,
        "shapes": list(found.shapes),
    }


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _urn(digest: bytes) -> str:
    """A name in a feed that stays whatever server has it: a UUID of version 8 (RFC 9562), from a digest."""
    made = bytearray(digest[:16])
    made[6], made[8] = made[6] & 0x0F | 0x80, made[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(made)).urn


def _day(entry: Entry) -> str:
    return f"{entry.since}T00:00:00Z"


def _badge_words(row: Row | None) -> tuple[str, str]:
    if row is None:
        return "no current version", svg.GREY
    if not row.counts:
        return row.entry.state.value if not row.entry.state.counts else "too old", _RED
    published = row.published
    rebuilt = published is not None and len(published.identical)
    differs = published is not None and len(published.identical) < len(published.endorsements)
    return f"rebuilt {facts.rebuilt(row)}", _AMBER if differs or not rebuilt else _GREEN
