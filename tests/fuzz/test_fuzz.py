"""Each parser on mutations of its seed and on inputs that once crashed it; longer runs are in `tests/real`."""

from __future__ import annotations

import pytest
from tests.fuzz.targets import CRASHES, TARGETS, one_input, run


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_reads_its_seeds_and_survives_mutations(name: str) -> None:
    seed, parser = TARGETS[name]
    if name not in ("efivars", "fat"):  # seeds that only lead past the first check
        parser(seed)
    assert run(name, 0.03) > 0


def test_inputs_that_crashed_before_are_handled() -> None:
    for path in sorted(CRASHES.glob("*")):
        one_input(path.name.split(".")[0], path.read_bytes())
