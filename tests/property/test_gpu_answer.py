"""Answers of the reader of GPUs: any of them ends in a reading or a clean refusal, and no change of one passes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from privml.agent.gpuanswer import Reading, failure, nonces_of, question, reading_of
from privml.agent.gpucheck import GpuRefused
from privml.agent.layout import Layout
from privml.agent.nvml import SIMULATION, State
from privml.base.errors import EvidenceError, HostError
from privml.base.strictjson import canonical, loads
from privml.events.configuration import Gpu, GpuFirmware
from privml.evidence.document import GPU, DeviceEvidence
from privml.sim import gpu as sim
from privml.sim import gpumachine

NUMBERS = st.integers(0, 2**32 - 1)
DEVICES = st.builds(DeviceEvidence, st.just(GPU), st.binary(max_size=0x2000), st.binary(max_size=0x1400))
READINGS = st.builds(
    Reading,
    st.builds(State, NUMBERS, NUMBERS, NUMBERS),
    st.booleans(),
    st.lists(st.booleans(), max_size=16).map(tuple),
    st.lists(DEVICES, max_size=3).map(tuple),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["state", "persistent", "evidence", "error", "x"]), inner, max_size=4),
    ),
    max_leaves=12,
)
NONCES = tuple(bytes([number]) * 32 for number in (7, 8))
DECLARED = Gpu("nvidia", "hopper", 2, sim.DRIVER, (GpuFirmware(sim.DRIVER, sim.GPU_VBIOS),))
HONEST = gpumachine.read(NONCES, DECLARED)
ENCODED = canonical(HONEST.encode())
READER = gpumachine.reader_of(DECLARED, Layout(run=Path("/nonexistent")))


def passes(found: Reading) -> bool:
    try:
        return len(READER.check(found, NONCES)) == DECLARED.count
    except GpuRefused as refused:
        assert refused.message.startswith(f"gpu: {refused.code}: ") and refused.message.isprintable()
        return False


def read(data: bytes) -> Reading | None:
    try:
        return reading_of(loads(data))
    except (EvidenceError, HostError):
        return None


def test_the_honest_answer_passes() -> None:
    assert passes(HONEST)


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


@given(st.integers(0, len(ENCODED) - 1), st.integers(0, 255), st.integers(0, 2))
def test_no_changed_byte_of_an_answer_passes(at: int, byte: int, kind: int) -> None:
    """Not one byte of it can differ: the signatures, the nonces and the declared state cover all."""
    tail = ENCODED[at:] if kind == 2 else ENCODED[at + 1 :]
    changed = ENCODED[:at] + (b"" if kind == 0 else bytes([byte])) + tail
    found = read(changed)
    if changed != ENCODED and found is not None and found != HONEST:
        assert not passes(found) or dataclasses.replace(found, ready=HONEST.ready) == HONEST


@given(READINGS)
def test_evidence_that_was_made_up_never_passes(reading: Reading) -> None:
    confidential = dataclasses.replace(reading, state=State(SIMULATION, 1, 0), persistent=(True, True))
    assert not passes(reading) and not passes(confidential)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=16))
def test_a_question_survives_its_line(nonces: list[bytes]) -> None:
    assert nonces_of(loads(canonical(question(nonces)))) == tuple(nonces)
