"""Answers of the reader of GPUs: any of them ends in a reading or a clean refusal, and no change of one passes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from privml.agent.gpuanswer import Fabric, Question, Reading, failure, question_of, reading_of
from privml.agent.gpucheck import GpuRefused
from privml.agent.layout import Layout
from privml.agent.nvml import SIMULATION, State
from privml.base.errors import EvidenceError, HostError
from privml.base.strictjson import canonical, loads
from privml.events.gpus import Gpu, GpuFirmware
from privml.evidence.document import GPU, SWITCH, DeviceEvidence
from privml.sim import gpu as sim
from privml.sim import gpumachine

NUMBERS = st.integers(0, 2**32 - 1)
TRUTHS = st.lists(st.booleans(), max_size=16).map(tuple)


def devices(kind: str) -> st.SearchStrategy[tuple[DeviceEvidence, ...]]:
    one = st.builds(DeviceEvidence, st.just(kind), st.binary(max_size=0x2000), st.binary(max_size=0x1400))
    return st.lists(one, max_size=3).map(tuple)


FABRICS = st.builds(Fabric, TRUTHS, st.lists(st.integers(-1, 127), max_size=8).map(tuple), devices(SWITCH))
READINGS = st.one_of(
    st.builds(Reading, st.builds(State, NUMBERS, NUMBERS, NUMBERS), st.booleans(), TRUTHS, devices(GPU)),
    st.builds(
        Reading, st.builds(State, NUMBERS, NUMBERS, NUMBERS, NUMBERS), st.booleans(), TRUTHS, devices(GPU), FABRICS
    ),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["state", "persistent", "evidence", "fabric", "joined", "modes", "error", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
NONCES = tuple(bytes([number]) * 32 for number in (7, 8))
DECLARED = Gpu("nvidia", "hopper", 2, sim.DRIVER, (GpuFirmware(sim.DRIVER, sim.GPU_VBIOS),))
LINKED = dataclasses.replace(DECLARED, switches=2)
"""Two GPUs alone, and two that two switches link; each with its question and the honest answer to it."""
NOWHERE = Layout(run=Path("/nonexistent"))
CASES = {
    gpu: (asked, gpumachine.read(asked, gpu))
    for gpu, asked in ((DECLARED, Question(NONCES)), (LINKED, Question(NONCES, NONCES)))
}
MACHINES = st.sampled_from(list(CASES))
ENCODED = canonical(CASES[LINKED][1].encode())


def passes(found: Reading, gpu: Gpu) -> bool:
    try:
        checked = gpumachine.reader_of(gpu, NOWHERE).check(found, CASES[gpu][0])
        return len(checked) == gpu.count + gpu.switches
    except GpuRefused as refused:
        assert refused.message.startswith(f"gpu: {refused.code}: ") and refused.message.isprintable()
        return False


def read(data: bytes) -> Reading | None:
    try:
        return reading_of(loads(data))
    except (EvidenceError, HostError):
        return None


def test_the_honest_answer_passes() -> None:
    assert all(passes(honest, gpu) for gpu, (_, honest) in CASES.items())
    assert not passes(CASES[LINKED][1], DECLARED) and not passes(CASES[DECLARED][1], LINKED)


@given(READINGS)
def test_a_reading_survives_its_line(reading: Reading) -> None:
    assert reading_of(loads(canonical(reading.encode()))) == reading


@given(JSON)
def test_any_other_answer_is_refused_cleanly(value: object) -> None:
    try:
        found = reading_of(value)
    except (EvidenceError, HostError):
        return
    assert value == found.encode()


@given(st.text())
def test_the_words_of_a_failure_are_printable_and_bounded(why: str) -> None:
    try:
        reading_of(loads(canonical(failure(why))))
    except HostError as error:
        assert error.message.isprintable() and len(error.message) <= 500
    except EvidenceError:
        assert not failure(why)["error"].isascii()  # the strict reader bounds texts by bytes


@given(MACHINES, st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.integers(0, 2))
def test_no_changed_byte_of_an_answer_passes(gpu: Gpu, where: float, byte: int, kind: int) -> None:
    """Not one byte of it can differ: the signatures, the nonces and the declared state cover all."""
    honest = CASES[gpu][1]
    encoded = canonical(honest.encode())
    at = int(where * len(encoded))
    tail = encoded[at:] if kind == 2 else encoded[at + 1 :]
    changed = encoded[:at] + (b"" if kind == 0 else bytes([byte])) + tail
    found = read(changed)
    if changed != encoded and found is not None and found != honest:
        same = dataclasses.replace(found, ready=honest.ready)
        # Where there are switches, the mode says that the GPUs are confidential, and the feature is not looked at.
        same = dataclasses.replace(same, state=honest.state) if gpu.switches else same
        assert not passes(found, gpu) or same == honest


@given(READINGS)
def test_evidence_that_was_made_up_never_passes(reading: Reading) -> None:
    for gpu in CASES:
        state = State(SIMULATION, 1, 0, 1 if gpu.switches else 0)
        confidential = dataclasses.replace(reading, state=state, persistent=(True, True))
        assert not passes(reading, gpu) and not passes(confidential, gpu)


@given(
    st.lists(st.binary(min_size=32, max_size=32), max_size=16), st.none() | st.lists(st.just(NONCES[0]), max_size=8)
)
def test_a_question_survives_its_line(gpus: list[bytes], switches: list[bytes] | None) -> None:
    asked = Question(tuple(gpus), None if switches is None else tuple(switches))
    assert question_of(loads(canonical(asked.encode()))) == asked
