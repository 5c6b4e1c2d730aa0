"""The static site of a repository: pages, register look-up, feed and badges, as a table of paths and bytes.

Pages have no script and load nothing. They are a function of the repository's files: two runs give equal bytes, and
times are those that the repository's signers wrote. A repository that does not check is refused.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from privml.base import html, svg
from privml.base.errors import UsageError
from privml.base.files import directory_atomic, read_start
from privml.base.html import Html
from privml.base.strictjson import canonical
from privml.base.times import time_text
from privml.events import types
from privml.events.registers import REGISTERS, shown
from privml.output.repository import Held, fetch_from
from privml.publish import check as gate
from privml.publish import eventspicture
from privml.publish.catalogue import Listed, Published, Row, Since, catalogue
from privml.publish.repository import ROOT_FILE
from privml.repro.change import Change, Group, following
from privml.statement import metadata, rebuild
from privml.statement.index import Entry, State
from privml.statement.launch import Accepted, MeasuredLaunch
from privml.statement.lookup import Found, values_of
from privml.statement.metadata import MAX_METADATA, ROOT
from privml.statement.predicate import Predicate

FORMAT = "privml-registers/v1"
REGISTERS_FILE = "registers.json"
_SHORT = 12
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
    with directory_atomic(target) as made:
        for folder in sorted({(made / path).parent for path in files}):
            folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            (made / path).write_bytes(data)


def _is_site(target: Path) -> bool:
    path = target / REGISTERS_FILE
    return path.is_file() and f'"{FORMAT}"'.encode() in read_start(path, 256)


def state_words(entry: Entry, counts: bool, since: str = "") -> str:
    """The state of a version in words, with ``since`` (words, too) before its reason."""
    words = entry.state.value + (f" by {entry.replaced_by}" if entry.replaced_by else "") + since
    if entry.state.counts and not counts:
        words += ", and below the lowest serial that counts"
    return words + (f": {entry.reason}" if entry.reason else "")


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
            made[f"images/{name}.html"] = self._page(name, "image.html", _image(listed))
            newest = next((row for row in listed.rows if row.counts and row.entry.state is State.CURRENT), None)
            made[f"badges/{name}.svg"] = self._badge(name, newest)
            for number, row in enumerate(listed.rows):
                version = row.entry.version
                of = _version(listed, number)
                made[f"images/{name}/{version}.html"] = self._page(f"{name} {version}", "version.html", of)
                made[f"badges/{name}/{version}.svg"] = self._badge(f"{name} {version}", row)
        for two in prefixes:
            values = [(value, rows) for value, rows in by.items() if value.startswith(two)]
            facts = {"values": values, "state": state_words, "sizes": self._sizes}
            made[f"by/{two}.html"] = self._page(f"Registers that begin with {two}", "by.html", facts)
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

    def _page(self, title: str, template: str, facts: Mapping[str, Any]) -> bytes:
        body: str = self._templates[0].get_template(template).render(facts)
        return html.document(title, [body.strip()]).encode()

    def _text(self, template: str, **facts: Any) -> bytes:
        rendered: str = self._templates[1].get_template(template).render(facts)
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
            "images": [_overview(listed) for listed in self.listed],
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
                "title": f"{name} {row.entry.version}: {state_words(row.entry, row.counts)}",
                "id": _urn(row.entry.release_sha256),
                "updated": _day(row.entry),
                "page": f"images/{name}/{row.entry.version}.html",
                "summary": f"Serial {row.entry.serial}, rebuilt {_rebuilt(row)}.",
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


def _rebuilt(row: Row) -> str:
    published = row.published
    if published is None or not published.endorsements:
        return "by nobody yet"
    return f"by {len(published.identical)} of {len(published.endorsements)}"


def _badge_words(row: Row | None) -> tuple[str, str]:
    if row is None:
        return "no current version", svg.GREY
    if not row.counts:
        return row.entry.state.value if not row.entry.state.counts else "too old", _RED
    published = row.published
    rebuilt = published is not None and len(published.identical)
    differs = published is not None and len(published.identical) < len(published.endorsements)
    return f"rebuilt {_rebuilt(row)}", _AMBER if differs or not rebuilt else _GREEN


def _overview(listed: Listed) -> list[str]:
    """A row of the front page."""
    name, role = listed.image.name, listed.image.publishers
    current = [row for row in listed.rows if row.counts and row.entry.state is State.CURRENT]
    others = len(listed.rows) - len(current)
    links = [html.link(f"images/{name}/{row.entry.version}.html", row.entry.version) for row in current]
    return [
        html.link(f"images/{name}.html", name),
        Html(", ".join(links)) if links else "none",
        str(others),
        f"{role.threshold} of {len(role.keys)} must sign",
        _rebuilt(current[0]) if current else "",
    ]


def _image(listed: Listed) -> dict[str, Any]:
    image = listed.image
    return {
        "name": image.name,
        "minimum": image.index.minimum_serial,
        "threshold": image.publishers.threshold,
        "keys": [key.keyid for key in image.publishers.keys],
        "versions": [
            [
                html.link(f"{image.name}/{row.entry.version}.html", row.entry.version),
                str(row.entry.serial),
                _sentence(row),
                row.entry.since,
                _rebuilt(row),
            ]
            for row in listed.rows
        ],
    }


def _sentence(row: Row) -> str:
    words = state_words(row.entry, row.counts)
    return words if row.counts else f"{words} (a guest is refused)"


def _version(listed: Listed, number: int) -> dict[str, Any]:
    """The facts of a version's page."""
    row, name = listed.rows[number], listed.image.name
    entry = row.entry
    facts = {
        "name": name,
        "version": entry.version,
        "state": f"{_capital(state_words(entry, row.counts, f' since {entry.since}'))}. "
        f"A guest of it is {'accepted' if row.counts else 'refused'}.",
        "counts": row.counts,
        "kind": "differs" if not row.counts else "same" if entry.state is State.CURRENT else "wanted",
        "missing": row.missing,
        "later": listed.rows[number - 1].entry.version if number else "",
        "earlier": listed.rows[number + 1].entry.version if number + 1 < len(listed.rows) else "",
    }
    return facts if row.published is None else {**facts, **_published(row.published, listed)}


def _published(made: Published, listed: Listed) -> dict[str, Any]:
    release, manifest, role = made.version.release, made.manifest, listed.image.publishers
    signers = ", ".join(keyid[:16] for keyid in made.version.signers)
    wanted = f"{release.name}@{release.version}"
    models = [f"{each.name}, {each.revision or 'no revision'}, {each.source}" for each in manifest.models]
    return {
        "serial": release.serial,
        "signers": f"{len(made.version.signers)} of {len(role.keys)} publishers ({signers})",
        "rebuilt": _rebuilt(Row(made.version.entry, True, made)),
        "models": "; ".join(models) or "none",
        "engine": "none" if manifest.engine is None else f"{manifest.engine.name} {manifest.engine.version}",
        "commit": release.commit,
        "tool": release.tool,
        "digests": [
            ("release", release.sha256.hex()),
            ("statement", release.statement_sha256.hex()),
            ("manifest", manifest.sha256.hex()),
            ("recipe", release.recipe_sha256.hex()),
            ("lock", release.lock_sha256.hex()),
            *((each.name, each.sha256.hex()) for each in made.version.statement.subjects),
        ],
        **_measured(made.predicate),
        "rebuild": "\n".join(
            (
                "git clone REPOSITORY privml-build && cd privml-build && make venv",
                f".venv/bin/privml-build endorse {wanted} --as YOU --key YOU.pem",
                f"git switch -c endorse-YOU && git add measurements && git commit -m '{wanted}: rebuilt by YOU'",
            )
        ),
        "since": None if made.since is None else _since(made.since),
        "endorsements": [
            [
                each.who,
                each.said.result if each.said.result == rebuild.DIFFERS or not each.objection else each.objection,
                each.keyid,
                time_text(each.said.finished)[:10],
                ", ".join((f"privml-build {each.said.tool}", *map(": ".join, each.said.surroundings.items()))),
                ", ".join(each.said.differences) or "none",
            ]
            for each in made.endorsements
        ],
    }


def _measured(predicate: Predicate) -> dict[str, Any]:
    """Registers of all sizes, and the events of the first one."""
    launches = predicate.launches
    names = [
        name
        for registers in REGISTERS.values()
        for name in registers
        if any(name in one.registers for one in launches)
    ]
    rows: dict[tuple[str, str], list[MeasuredLaunch]] = {}
    for launch in launches:
        for name in launch.registers:
            for value in launch.accepted(name):
                rows.setdefault((name, value.hex()), []).append(launch)
    first = launches[0]
    varied = [name for name in names if len({launch.accepted(name) for launch in launches}) > 1]
    agent = [event.name for event in predicate.agent_events]
    title = f"The measured events of {predicate.name} on {first.label}"
    picture = eventspicture.draw(title, first.events, agent, first.evidence(), inside=True)
    same = ", ".join(shown(*varied)) or "no register"
    return {
        "sizes_heads": ["machine size", *shown(*names)],
        "sizes": [[launch.label, *(_cell(launch, name) for name in names)] for launch in launches],
        "sizes_kinds": ["text", *(["value"] * len(names))],
        "values": [
            [shown(name)[0], value, _levels(name, of), _labels(of, launches)]
            for (name, value), of in sorted(rows.items(), key=lambda item: names.index(item[0][0]))
        ],
        "picture_of": first.label,
        "others": f"Registers that differ on other sizes: {same}." if len(launches) > 1 else "",
        "picture": Html(picture.render()),
        "events": [
            [
                str(number),
                shown(event.register)[0],
                types.type_name(event.type) if event.type else "agent's event",
                event.origin,
                event.evidence.value,
                event.digest.hex(),
            ]
            for number, event in enumerate(first.events, 1)
        ],
    }


def _cell(launch: MeasuredLaunch, name: str) -> str:
    """The values of a register, shortened, with links to their entries; and how they are known."""
    value = launch.registers[name]
    if not isinstance(value, Accepted):
        return "no value"
    links = (
        html.link(f"../../by/{digits[:2]}.html#{digits}", f"{digits[:_SHORT]}..")
        for digits in (each.hex() for each in value.values)
    )
    return Html(f"{'<br>'.join(links)}<br>{html.text(value.evidence.value)}")


def _levels(name: str, launches: Iterable[MeasuredLaunch]) -> str:
    return ", ".join(sorted({launch.evidence()[name].value for launch in launches}))


def _labels(some: Sequence[MeasuredLaunch], every: Sequence[MeasuredLaunch]) -> str:
    if len(some) == len(every) > 1:
        return f"all {len(every)}"
    return "; ".join(launch.label for launch in some)


def _since(since: Since) -> dict[str, Any]:
    groups = []
    for group in Group:
        of = [change for change in since.changes if change.group is group]
        if of:
            rows = [[each.title, each.before, each.after, _moves(each)] for each in of]
            groups.append((_capital(group.title), rows))
    moved = since.registers
    return {
        "before": since.before,
        "registers": None
        if moved is None
        else [[shown(name)[0], following(why) or "unexplained"] for name, why in moved.items()],
        "groups": groups,
        "untold": ", ".join(since.untold),
    }


def _moves(change: Change) -> str:
    effect = ", ".join(shown(*change.moves)) or "nothing"
    return effect if change.certain else f"perhaps {effect}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
