"""The stages of a boot on a time line, from the table that guest and builder read."""

from __future__ import annotations

from privml.base.svg import AMBER, BLUE, GREEN, GREY, Picture
from privml.events.stages import STAGES

_WIDE, _GAP = 104, 12


def draw() -> Picture:
    """A box for each stage; below it the events that it extends and the purposes that can be quoted from there."""
    width = 30 + len(STAGES) * (_WIDE + _GAP)
    picture = Picture(width, 226, "The stages of a boot")
    picture.line([(16, 34), (width - 12, 34)])
    picture.text(16, 22, "time", anchor="start", fill=GREY)
    for number, stage in enumerate(STAGES):
        x = 20 + number * (_WIDE + _GAP)
        picture.box(x, 46, _WIDE, 32, [stage.name], BLUE)
        for line, name in enumerate(stage.events):
            picture.box(x + 4, 96 + 30 * line, _WIDE - 8, 24, [name], AMBER, bold=False)
        if stage.events:
            picture.line([(x + _WIDE / 2, 78), (x + _WIDE / 2, 95)])
        for purpose in stage.purposes:
            picture.box(x, 158, _WIDE, 26, [f"quotes: {purpose}"], GREEN)
    for number, (fill, words) in enumerate(
        (
            (BLUE, "stage"),
            (AMBER, "event extended into RTMR3 when the stage's work is done"),
            (GREEN, "from here on a caller's nonce gets a quote"),
        )
    ):
        x = (20, 110, 500)[number]
        picture.box(x, 202, 16, 14, [], fill)
        picture.text(x + 22, 213, words, anchor="start")
    return picture
