"""The differences between the environments of two builds, as observed from inside; also what was not varied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# What a leg records about its environment (``privml.repro.child``): key -> name in reports.
NAMES = {
    "workspace": "workspace and output path",
    "file_system": "file system",
    "directory_order": "order of a directory with 64 names",
    "time_zone": "TZ and offset of local time",
    "locale": "LC_ALL",
    "umask": "umask",
    "home": "HOME",
    "host_name": "host name",
    "user": "user (id inside, uid map)",
    "processors": "usable processors",
    "hash_seed": "PYTHONHASHSEED (hash of a word)",
    "store": "input store",
    "tools": "tools tree",
    "tool_clock": "wall clock of mkosi's tools (`date`)",
    "script_clock": "wall clock of maintainer scripts",
    "builder_clock": "wall clock of privml-build and mkosi",
    "kernel": "kernel",
    "processor_model": "processor model",
    "python": "the host's Python",
}
_CLOCKS = ("tool_clock", "script_clock", "builder_clock")
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Variation:
    """One property of the environment: both observed values, whether it varied, and if not, why."""

    name: str
    a: str
    b: str
    varied: bool
    why: str = ""

    def text(self) -> str:
        """One line of text."""
        if self.varied:
            return f"varied: {self.name}: {self.a} | {self.b}"
        return f"not varied: {self.name}: {self.why} ({self.a})"

    def to_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {"name": self.name, "a": self.a, "b": self.b, "varied": self.varied, "why": self.why}


def variations(a: Mapping[str, str], b: Mapping[str, str], reasons: Mapping[str, str]) -> tuple[Variation, ...]:
    """Compare two observations; ``reasons`` say why something could not be varied.

    Only observed values count, not the requested settings.
    """
    found = []
    for key, name in NAMES.items():
        one, two = a.get(key, ""), b.get(key, "")
        if not one or not two:
            found.append(Variation(name, one or "?", two or "?", False, reasons.get(key, "a leg did not observe it")))
            continue
        moved = _days_apart(one, two) if key in _CLOCKS else one != two
        found.append(
            Variation(name, one, two, moved, "" if moved else reasons.get(key, "both legs observed the same"))
        )
    return tuple(found)


def _days_apart(a: str, b: str) -> bool:
    # The legs run one after the other, so only a different day counts as a different time.
    try:
        one, two = (datetime.strptime(text[:10], "%Y-%m-%d").replace(tzinfo=UTC) for text in (a, b))
    except ValueError:
        return False
    return abs(one - two) > _DAY
