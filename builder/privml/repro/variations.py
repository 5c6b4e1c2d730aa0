"""What differed around two builds, as each of them saw it from inside; what did not move is said to be still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# What a leg writes down of its surroundings (``privml.repro.child``): key -> what a reader calls it.
NAMES = {
    "workspace": "workspace and output path",
    "file_system": "file system",
    "directory_order": "order in which a directory lists 64 names",
    "time_zone": "TZ and local time's offset",
    "locale": "LC_ALL",
    "umask": "umask",
    "home": "HOME",
    "host_name": "host name",
    "user": "user (id inside, map to the ids outside)",
    "processors": "processors that may be used",
    "hash_seed": "PYTHONHASHSEED, by the hash of a word",
    "store": "store of inputs",
    "tools": "tools tree",
    "tool_clock": "wall clock, as `date` in a tool of mkosi saw it",
    "script_clock": "wall clock, as maintainer scripts wrote it",
    "builder_clock": "wall clock, as privml-build and mkosi themselves saw it",
    "kernel": "kernel",
    "processor_model": "processor model",
    "python": "the host's Python",
}
_CLOCKS = ("tool_clock", "script_clock", "builder_clock")
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Variation:
    """One thing around the builds: what either saw, whether it moved, and why not."""

    name: str
    a: str
    b: str
    varied: bool
    why: str = ""

    def text(self) -> str:
        """One line for a person."""
        if self.varied:
            return f"varied: {self.name}: {self.a} | {self.b}"
        return f"not varied: {self.name}: {self.why} ({self.a})"

    def to_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {"name": self.name, "a": self.a, "b": self.b, "varied": self.varied, "why": self.why}


def variations(a: Mapping[str, str], b: Mapping[str, str], reasons: Mapping[str, str]) -> tuple[Variation, ...]:
    """What moved between two observations; ``reasons`` say why something could not.

    What was asked for counts for nothing here: only what either leg saw does.
    """
    found = []
    for key, name in NAMES.items():
        one, two = a.get(key, ""), b.get(key, "")
        if not one or not two:
            found.append(Variation(name, one or "?", two or "?", False, reasons.get(key, "a leg did not see it")))
            continue
        moved = _days_apart(one, two) if key in _CLOCKS else one != two
        found.append(Variation(name, one, two, moved, "" if moved else reasons.get(key, "both legs saw the same")))
    return tuple(found)


def _days_apart(a: str, b: str) -> bool:
    # Two legs run one after the other never see the same second: only another day is another time.
    try:
        one, two = (datetime.strptime(text[:10], "%Y-%m-%d").replace(tzinfo=UTC) for text in (a, b))
    except ValueError:
        return False
    return abs(one - two) > _DAY
