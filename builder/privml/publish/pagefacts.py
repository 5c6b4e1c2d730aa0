"""What the pages of an image and of a version say, as templates take it: rows of tables, words and commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from privml.base import html
from privml.base.html import Html
from privml.base.times import time_text
from privml.events import types
from privml.events.registers import LAUNCH, REGISTERS, shown
from privml.publish import eventspicture
from privml.publish.catalogue import Endorsed, Listed, Published, Row, Since
from privml.repro.change import Change, Group, following
from privml.statement import rebuild
from privml.statement.index import Entry, State
from privml.statement.launch import Accepted, MeasuredLaunch
from privml.statement.predicate import Predicate

_SHORT = 12
"""Digits of a shortened value."""
_TEES = {"tdx": "Intel TDX", "snp": "AMD SEV-SNP"}
_YEAR_3000 = 32503680000


def state_words(entry: Entry, counts: bool, since: str = "") -> str:
    """The state of a version in words, with ``since`` (words, too) before its reason."""
    words = entry.state.value + (f" by {entry.replaced_by}" if entry.replaced_by else "") + since
    if entry.state.counts and not counts:
        words += ", and below the lowest serial that counts"
    return words + (f": {entry.reason}" if entry.reason else "")


def rebuilt(row: Row) -> str:
    """How many of those who endorsed a version got the same."""
    published = row.published
    if published is None or not published.endorsements:
        return "by nobody yet"
    return f"by {len(published.identical)} of {len(published.endorsements)}"


def overview(listed: Listed) -> list[str]:
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
        rebuilt(current[0]) if current else "",
    ]


def image(listed: Listed) -> dict[str, Any]:
    """The facts of an image's page."""
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
                rebuilt(row),
            ]
            for row in listed.rows
        ],
    }


def _sentence(row: Row) -> str:
    words = state_words(row.entry, row.counts)
    return words if row.counts else f"{words} (a guest is refused)"


def version(listed: Listed, number: int) -> dict[str, Any]:
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
        "rebuilt": rebuilt(Row(made.version.entry, True, made)),
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
        "measured": _measured(made.predicate),
        "rebuild": "\n".join(
            (
                "git clone REPOSITORY privml-build && cd privml-build && make venv",
                f".venv/bin/privml-build endorse {wanted} --as YOU --key YOU.pem",
                f"git switch -c endorse-YOU && git add measurements && git commit -m '{wanted}: rebuilt by YOU'",
            )
        ),
        "since": None if made.since is None else _since(made.since),
        "endorsements": [_endorsement(each) for each in made.endorsements],
    }


def _endorsement(each: Endorsed) -> list[str]:
    said = each.said
    return [
        each.who,
        said.result if said.result == rebuild.DIFFERS or not each.objection else each.objection,
        each.keyid,
        time_text(said.finished)[:10] if said.finished < _YEAR_3000 else "no time that could be",
        ", ".join((f"privml-build {said.tool}", *map(": ".join, said.surroundings.items()))),
        ", ".join(said.differences) or "none",
    ]


def _measured(predicate: Predicate) -> list[dict[str, Any]]:
    """For each TEE: registers of all sizes, and the events of the first one."""
    by: dict[str, list[MeasuredLaunch]] = {}
    for launch in predicate.launches:
        by.setdefault(launch.tee, []).append(launch)
    several = len(by) > 1
    return [
        {"of": f" under {_TEES[tee]}" if several else "", **_of_tee(predicate, tee, launches)}
        for tee, launches in by.items()
    ]


def _of_tee(predicate: Predicate, tee: str, launches: Sequence[MeasuredLaunch]) -> dict[str, Any]:
    names, first = REGISTERS[tee], launches[0]
    rows: dict[tuple[str, str], list[MeasuredLaunch]] = {}
    for launch in launches:
        for name in launch.registers:
            for value in launch.accepted(name):
                rows.setdefault((name, value.hex()), []).append(launch)
    varied = [name for name in names if len({launch.accepted(name) for launch in launches}) > 1]
    same = ", ".join(shown(*varied)) or "no register"
    return {
        "sizes_heads": ["machine size", *shown(*names)],
        "sizes": [[launch.label, *(_cell(launch, name) for name in names)] for launch in launches],
        "sizes_kinds": ["text", *(["value"] * len(names))],
        "rows": [
            [shown(name)[0], value, _levels(name, of), _labels(of, launches)]
            for (name, value), of in sorted(rows.items(), key=lambda item: names.index(item[0][0]))
        ],
        "events_of": first.label,
        "others": f"Registers that differ on other sizes: {same}." if len(launches) > 1 else "",
        **(_pages(first) if LAUNCH in names else _extends(predicate, first)),
    }


def _extends(predicate: Predicate, launch: MeasuredLaunch) -> dict[str, Any]:
    """The events of registers that are extended, drawn and as a table."""
    agent = [event.name for event in predicate.agent_events]
    title = f"The measured events of {predicate.name} on {launch.label}"
    picture = eventspicture.draw(title, launch.events, agent, launch.evidence(), inside=True)
    return {
        "picture": Html(picture.render()),
        "events_heads": ["event", "register", "type", "what is measured", "known from", "digest"],
        "events_kinds": ["", "", "", "text", "", "value"],
        "events": [
            [
                str(number),
                shown(event.register)[0],
                types.type_name(event.type) if event.type else "agent's event",
                event.origin,
                event.evidence.value,
                event.digest.hex(),
            ]
            for number, event in enumerate(launch.events, 1)
        ],
    }


def _pages(launch: MeasuredLaunch) -> dict[str, Any]:
    """The steps of a launch digest, which is computed page by page before the guest starts."""
    return {
        "picture": "",
        "events_heads": ["step", "address", "pages", "what is measured", "known from", "digest after it"],
        "events_kinds": ["", "value", "", "text", "", "value"],
        "events": [
            [
                str(number),
                "" if event.gpa is None else f"0x{event.gpa:x}",
                "" if event.count is None else str(event.count),
                event.origin,
                event.evidence.value,
                event.digest.hex(),
            ]
            for number, event in enumerate(launch.events, 1)
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
