"""Draw the measured events of a launch: one column for each register, time running down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privml.base.errors import printable
from privml.base.svg import AMBER, BLUE, GREEN, Picture
from privml.events import origin
from privml.events.event import Event, Evidence
from privml.events.registers import MRTD, RTMR3, RTMRS

_WIDE, _GAP, _LINE = 176, 16, 16
_FILL = {
    Evidence.HARDWARE: GREEN,
    Evidence.ENDORSED: GREEN,
    Evidence.TPM_BOOT: BLUE,
    Evidence.SOURCE: AMBER,
    Evidence.LEARNT: AMBER,
}
_LONGEST = 27


def draw(
    title: str,
    events: Sequence[Event],
    agent: Sequence[str],
    levels: Mapping[str, Evidence],
    *,
    inside: bool = False,
) -> Picture:
    """The picture of ``events`` and of the ``agent``'s, by name; ``levels`` say how well MRTD and RTMR3 are known.

    Neighbours of one register are in one box. With ``inside``, it is for an HTML page.
    """
    groups: list[tuple[str, list[Event]]] = []
    for event in events:
        if event.register == RTMR3 or origin.is_name(event.origin):
            continue
        if not groups or groups[-1][0] != event.register:
            groups.append((event.register, []))
        groups[-1][1].append(event)
    columns = [MRTD, *RTMRS]
    height = 120 + sum(_LINE * len(rows) + 22 for _, rows in groups) + _LINE * len(agent) + 76
    picture = Picture(20 + len(columns) * (_WIDE + _GAP), height, title, inside=inside)
    x = {register: 18 + number * (_WIDE + _GAP) for number, register in enumerate(columns)}
    for register in columns:
        picture.text(x[register] + _WIDE / 2, 22, register.upper(), bold=True, size=14)
        picture.line(
            [(x[register] + _WIDE / 2, 30), (x[register] + _WIDE / 2, height - 44)], arrow=False, dashed=True
        )
    picture.box(
        x[MRTD], 40, _WIDE, 54, ["firmware's code", "page by page, before", "the TD starts"], _FILL[levels[MRTD]]
    )
    y = 104.0
    for register, rows in groups:
        tall = _LINE * len(rows) + 14
        weakest = min((row.evidence for row in rows), key=lambda each: each.strength)
        picture.box(x[register], y, _WIDE, tall, [_short(row.origin) for row in rows], _FILL[weakest], bold=False)
        y += tall + 8
    picture.box(x[RTMR3], y, _WIDE, _LINE * (len(agent) + 1) + 14, ["agent's events", *agent], _fill(levels, RTMR3))
    there = {*levels.values(), *(event.evidence for event in events)}
    legend = (
        (GREEN, "seen on TDX hardware" + (", or endorsed" if Evidence.ENDORSED in there else "")),
        (BLUE, "at least one seen under a software TPM only"),
        (AMBER, "at least one known from source only" + (", or learnt" if Evidence.LEARNT in there else "")),
    )
    for number, (fill, words) in enumerate(legend):
        picture.box(20 + 300 * number, height - 28, 16, 14, [], fill)
        picture.text(42 + 300 * number, height - 17, words, anchor="start")
    return picture


def _fill(levels: Mapping[str, Evidence], register: str) -> str:
    return _FILL[levels.get(register, Evidence.SOURCE)]


def _short(text: str) -> str:
    what = origin.short(origin.split(printable(text))[0])
    return what if len(what) <= _LONGEST else f"{what[: _LONGEST - 2]}.."
