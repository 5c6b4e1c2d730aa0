"""A received field test as a golden test: capture and facts, and what the comparison of today's code must give."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

from tests.field import facts
from tests.field.record import FACTS

from privml.base.strictjson import canonical
from privml.measure.compare import Difference
from privml.readers import contents
from privml.readers.replay import Replayed, replay

FOLDER = Path(__file__).resolve().parents[1] / "vectors/field"
"""One folder for each field test that was received."""
SIMULATED = FOLDER.with_name("simulated-field")
"""A field test that no TD ran: `tests/unit/field_fake.py` made it up, and README does not name it."""
PACKED, EXPECTED = "capture.tar.xz", "expected.json"


def replayed(capture: bytes, facts_json: bytes) -> Replayed:
    """Predict for the captured machine with the code of this tree, and compare with the TD's log and quote."""
    uki, firmware, events = facts.decode(facts_json)
    file = contents.identify(Path(PACKED), capture)
    return replay(uki, firmware, file, origins={}, agent_events=events)


def summary(found: Replayed) -> dict[str, Any]:
    """What must stay: the number of equal events, where the others are, and what the quote does not confirm."""
    return {
        "matched": dict(found.comparison.matched),
        "differences": [_place(one) for one in found.comparison.differences],
        "problems": [problem.partition(":")[0] for problem in found.problems],
    }


def _place(one: Difference) -> dict[str, Any]:
    return {"register": one.register, "position": one.position, "kind": one.kind}


def files(capture: bytes, facts_json: bytes, about: dict[str, Any]) -> dict[str, bytes]:
    """The files of the golden test."""
    expected = {**about, **summary(replayed(capture, facts_json))}
    return {
        PACKED: lzma.compress(capture),
        FACTS: facts_json,
        EXPECTED: json.dumps(expected, indent=2, sort_keys=True).encode() + b"\n",
    }


def changes(folder: Path) -> list[str]:
    """What of today's comparison differs from what ``folder`` expects."""
    expected = json.loads((folder / EXPECTED).read_bytes())
    capture = lzma.decompress((folder / PACKED).read_bytes())
    found = summary(replayed(capture, (folder / FACTS).read_bytes()))
    return [
        f"{folder.name}: {name}: got {canonical(found[name]).decode()}, expected {canonical(expected[name]).decode()}"
        for name in found
        if found[name] != expected[name]
    ]


def problems(folder: Path, readme: str) -> list[str]:
    """The ``changes`` of a received field test, and a row that README lacks."""
    row = [] if link(folder.name) in readme else [f"{folder.name}: README: no row with {link(folder.name)}"]
    return [*changes(folder), *row]


def link(name: str) -> str:
    """README's link to the golden test ``name``."""
    return f"[`tests/vectors/field/{name}`](tests/vectors/field/{name})"
