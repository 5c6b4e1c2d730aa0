"""The rooms and what they import, read from every import statement of the package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise

from tests.unit.test_layers import BUILDER, PACKAGE, imports

from privml.base.svg import AMBER, BLUE, GREEN, PALE, Picture
from privml.lock.trees import AGENT_ROOTS, module_closure

_BOX, _GAP, _ROW, _TALL = 92, 26, 78, 34
CALLER = ("verify", "client")
Edges = Mapping[str, frozenset[str]]


@cache
def imported() -> Edges:
    """Room -> the rooms that its modules import."""
    found: dict[str, set[str]] = {}
    for path in sorted((BUILDER / PACKAGE).rglob("*.py")):
        parts = path.relative_to(BUILDER).parts
        if len(parts) < 3:
            continue
        room = found.setdefault(parts[1], set())
        for one in imports(BUILDER, path):
            names = one.name.split(".")
            if names[0] == PACKAGE and len(names) > 1:
                room.add(names[1])
    return {room: frozenset(used & found.keys() - {room}) for room, used in sorted(found.items())}


def needed(edges: Edges) -> Edges:
    """``edges`` without the transitive ones."""

    @cache
    def below(room: str) -> frozenset[str]:
        return edges[room].union(*(below(one) for one in edges[room]))

    return {
        room: frozenset(one for one in used if not any(one in below(other) for other in used - {one}))
        for room, used in edges.items()
    }


def levels(edges: Edges) -> dict[str, int]:
    """The longest import path from each room to a room that imports none."""

    @cache
    def level(room: str) -> int:
        return 1 + max((level(one) for one in edges[room]), default=-1)

    return {room: level(room) for room in edges}


def draw() -> Picture:
    """Rows from `cli` down to `base`; an arrow means "imports", including everything the other room imports."""
    everything = imported()
    edges = needed(everything)
    level = levels(everything)
    top = max(level.values())
    rows: list[list[str]] = [[] for _ in range(top + 1)]
    for room in sorted(level):
        rows[level[room]].append(room)
    chains = []
    for room in sorted(edges):
        for used in sorted(edges[room]):
            # An edge over several rows passes each of them at a place of its own.
            bends = [f"{room}>{used}>{number}" for number in range(level[room] - 1, level[used], -1)]
            for bend in bends:
                rows[int(bend.rpartition(">")[2])].append(bend)
            chains.append((room, *bends, used))
    near: dict[str, set[str]] = defaultdict(set)
    for chain in chains:
        for upper, lower in pairwise(chain):
            near[upper].add(lower)
            near[lower].add(upper)
    place = _places(rows, near)
    width = int(max(place.values())) + _BOX // 2 + 20
    picture = Picture(max(width, 620), (top + 1) * _ROW + 46, "Rooms of privml and what they import")

    def y(row: int) -> float:
        return 16 + (top - row) * _ROW

    row_of = {name: number for number, row in enumerate(rows) for name in row}
    for chain in chains:
        points = [(place[chain[0]], y(row_of[chain[0]]) + _TALL)]
        for bend in chain[1:-1]:
            points += [(place[bend], y(row_of[bend]) - 4), (place[bend], y(row_of[bend]) + _TALL + 4)]
        points.append((place[chain[-1]], y(row_of[chain[-1]])))
        picture.line(points)
    guest = {file.split("/")[1] for file in module_closure(BUILDER, AGENT_ROOTS) if file.count("/") > 1}
    for room in sorted(level):
        fill = GREEN if room in guest else AMBER if room == "sim" else BLUE if room in CALLER else PALE
        picture.box(place[room] - _BOX / 2, y(level[room]), _BOX, _TALL, [room], fill)
    legend = (
        (GREEN, "parts in every guest"),
        (AMBER, "in development guests"),
        (BLUE, "judges a guest"),
        (PALE, "the rest"),
    )
    for number, (fill, words) in enumerate(legend):
        picture.box(20 + 195 * number, picture.height - 28, 16, 14, [], fill)
        picture.text(42 + 195 * number, picture.height - 17, words, anchor="start")
    return picture


def _places(rows: Sequence[list[str]], near: Mapping[str, set[str]]) -> dict[str, float]:
    """The x of each name: rows are sorted by the positions of their neighbours a few times, then spread."""
    place = {name: float(number) for row in rows for number, name in enumerate(row)}
    for sweep in range(8):
        ordered = rows if sweep % 2 else list(reversed(rows))
        for row in ordered:
            wanted = {
                name: sum(place[one] for one in sorted(near[name])) / len(near[name]) if near[name] else place[name]
                for name in row
            }
            row.sort(key=lambda name: (round(wanted[name], 6), name))
            _spread(row, wanted, place)
    least = min(place[name] - (0 if ">" in name else 0.5) for row in rows for name in row)
    return {name: 20 + (_BOX + _GAP) * (x - least) for name, x in place.items()}


def _spread(row: Sequence[str], wanted: Mapping[str, float], place: dict[str, float]) -> None:
    """Give each name of a sorted row a place near the wanted one, with room between neighbours."""
    space = [0.35 if ">" in name else 1.0 for name in row]
    positions: list[float] = []
    for number, name in enumerate(row):
        least = positions[-1] + (space[number - 1] + space[number]) / 2 if positions else -1e9
        positions.append(max(wanted[name], least))
    shift = sum(wanted[name] - x for name, x in zip(row, positions, strict=True)) / len(row)
    for name, x in zip(row, positions, strict=True):
        place[name] = x + shift
