"""Compare the steps of two launch digests.

The digest of a step depends on every step before it, so digests alone show only the first step that differs. Here two
steps are the same if they add the same pages, which their notes say (`measure.snp.launch`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from privml.events.align import align
from privml.events.event import Event


def moved(left: Sequence[Event], right: Sequence[Event]) -> Iterator[tuple[Event | None, Event | None, int]]:
    """The steps that the two launches do not share, as (of ``left``, of ``right``, position in ``right`` from 1)."""
    rows = [[(step.type, _pages(step)) for step in steps] for steps in (left, right)]
    for a, b, position in align(*rows):
        if a is None or b is None or rows[0][a] != rows[1][b]:
            yield None if a is None else left[a], None if b is None else right[b], position


def _pages(step: Event) -> bytes:
    """What identifies the pages that a step adds."""
    return hashlib.sha384(f"{step.type} {step.gpa} {step.count} {step.note}".encode()).digest()


def line(left: Event | None, right: Event | None, names: tuple[str, str]) -> str:
    """One line about a step that differs, or that only one side has; ``names`` are the two sides."""
    if left is not None and right is not None:
        said = ", ".join(f"{_what(step)} ({name})" for step, name in zip((left, right), names, strict=True))
        where = _name(right) if _name(left) == _name(right) else f"{_name(left)} and {_name(right)}"
        return f"LAUNCH: difference in {where}: {said}"
    step, name = (left, names[0]) if left is not None else (right, names[1])
    assert step is not None, "a difference has a side"
    return f"LAUNCH: only {name} has {_name(step)}, {_what(step)}"


def _name(step: Event) -> str:
    """``vCPU 3`` or ``the kernel hashes``, without the recipe line."""
    return step.origin.partition(" (")[0]


def _what(step: Event) -> str:
    pages = f"{step.count} pages at 0x{step.gpa or 0:x}" if step.count != 1 else f"a page at 0x{step.gpa or 0:x}"
    return step.note or pages
