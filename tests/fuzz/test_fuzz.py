"""Each parser meets a few changes of its seed, and every input that once broke it; longer runs: `tests/real`."""

from __future__ import annotations

import pytest
from tests.fuzz.targets import CRASHES, TARGETS, one_input, run


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read_and_a_few_changes_answered(name: str) -> None:
    seed, parser = TARGETS[name]
    if name not in ("efivars", "fat"):  # seeds that only lead past the first check
        parser(seed)
    assert run(name, 0.03) > 0


def test_past_crashes_are_answered() -> None:
    for path in sorted(CRASHES.glob("*")):
        one_input(path.name.split(".")[0], path.read_bytes())
