"""Comparison of a log with a prediction: equal, extra, missing and different events, and named differences."""

import hashlib

import pytest

from privml.base.errors import EvidenceError
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR0, RTMR1, RTMR2
from privml.events.tcg import ALG_SHA256, ALG_SHA384, LogEntry
from privml.events.types import EV_EFI_ACTION, EV_EVENT_TAG, EV_IPL
from privml.measure.compare import KNOWN, compare


def digest(text: str) -> bytes:
    return hashlib.sha384(text.encode()).digest()


def event(text: str, register: str = RTMR1, kind: int = EV_EFI_ACTION) -> Event:
    return Event(register, kind, digest(text), f"input {text}", Evidence.SOURCE)


def entry(text: str, index: int = 2, kind: int = EV_EFI_ACTION) -> LogEntry:
    return LogEntry(index, kind, {ALG_SHA384: digest(text)}, text.encode())


PREDICTED = [event("a"), event("b"), event("c")]


def kinds(*log: LogEntry) -> list[tuple[str, int]]:
    return [(one.kind, one.position) for one in compare(PREDICTED, log, tpm=False).differences]


def test_equal_extra_missing_and_different_events_are_found() -> None:
    a, b, c, x = entry("a"), entry("b"), entry("c"), entry("x")
    assert kinds(a, b, c) == []
    assert kinds(a, x, b, c) == [("extra", 2)]
    assert kinds(a, c) == [("missing", 2)]
    assert kinds(a, x, c) == [("differs", 2)]
    assert kinds(a, b) == [("missing", 3)]
    assert kinds() == [("missing", 1)] * 3


def test_a_replaced_stretch_pairs_events_of_one_type() -> None:
    log = [entry("a"), entry("y", kind=EV_IPL), entry("x"), entry("c")]
    first, second = compare(PREDICTED, log, tpm=False).differences
    assert (first.kind, first.logged) == ("extra", log[1])
    assert (second.kind, second.predicted) == ("differs", PREDICTED[1])


def test_registers_are_compared_one_by_one() -> None:
    log = [entry("z", 1), entry("a"), entry("b"), entry("c")]
    comparison = compare([*PREDICTED, event("z", RTMR0)], log, tpm=False)
    assert comparison.equal and comparison.matched == {RTMR0: 1, RTMR1: 3, RTMR2: 0}


def test_a_tpm_log_is_mapped() -> None:
    assert compare(PREDICTED, [entry("a", 4), entry("b", 5), entry("c", 2), entry("v", 0)], tpm=True).equal


def test_a_repeated_exit_boot_services_is_named() -> None:
    again = entry("Exit Boot Services Returned with Failure")
    (difference,) = compare(PREDICTED, [entry("a"), again, entry("b"), entry("c")], tpm=False).differences
    assert difference.known is not None and difference.known.id == "exit-boot-services-retried"
    assert "Returned with Failure" in difference.text()
    assert difference.to_dict()["known"] == "exit-boot-services-retried"


def test_a_changed_command_line_is_named() -> None:
    data = b"\xed\x22\x3b\x8f\x1a\0\0\0LOADED_IMAGE::LoadOptions\0"
    logged = LogEntry(3, EV_EVENT_TAG, {ALG_SHA384: digest("evil")}, data)
    predicted = [event("good", RTMR2, EV_EVENT_TAG)]
    (difference,) = compare(predicted, [logged], tpm=False).differences
    assert difference.known is not None and difference.known.id == "other-command-line"


@pytest.mark.parametrize("name", ["Credentials", "Global credentials", "System extension", "Global system extension"])
def test_what_the_stub_found_on_the_boot_disk_is_named(name: str) -> None:
    logged = LogEntry(3, EV_IPL, {ALG_SHA384: digest("its bytes")}, f"{name} initrd\0".encode("utf-16-le"))
    (difference,) = compare([], [logged], tpm=False).differences
    assert difference.known is not None and difference.known.id == "stub-companions"


def test_every_named_difference_has_a_unique_id() -> None:
    ids = [known.id for known, _ in KNOWN]
    assert len(set(ids)) == len(ids)
    assert all(known.meaning and known.source for known, _ in KNOWN)


def test_a_log_without_sha384_cannot_be_compared() -> None:
    with pytest.raises(EvidenceError):
        compare(PREDICTED, [LogEntry(2, 4, {ALG_SHA256: bytes(32)}, b"")], tpm=False)
