"""`inspect` of a model file: what it is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

from privml.cli.output import print_json, show
from privml.engines.registry import ENGINES
from privml.lock.modelfacts import facts_of


def inspect_model(path: Path, kind: str, *, as_json: bool) -> None:
    """Describe the model file at ``path``, which is of format ``kind``; an error if it is not whole."""
    found = facts_of(path, kind)
    engines = sorted(engine.name for engine in ENGINES.values() if engine.model_format == found.kind)
    if as_json:
        print_json({"file": str(path), **vars(found), "engines": engines})
        return
    show(f"{path}: {found.title}, {found.size / 1e6:.1f} MB")
    for name, value in found.facts.items():
        show(f"  {name}: {value}")
    show(f"  read by: {', '.join(engines)}" if engines else "  no engine of this version reads this format")
