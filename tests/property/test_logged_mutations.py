"""Every byte of a proof next to a release, and of a policy for logs: no change is taken, or it is another policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit import logged_fake
from tests.unit.logged_fake import UNWITNESSED, WITNESSED, WITNESSES, policy_text, prove

from privml.base.errors import EvidenceError
from privml.statement import logpolicy
from privml.statement.logpolicy import LogPolicy
from privml.statement.tlog import Proof

ENTRY = b'{"format":"privml-log-entry/v1"}'
PROOF = prove(ENTRY, ("w1", "w2"))
ALL_THREE = logged_fake.policy("group all all w1 w2 w3")


def code(data: bytes, policy: LogPolicy, entry: bytes = ENTRY) -> str:
    """What a verdict would say of a proof."""
    try:
        _, witnesses = policy.check(Proof.decode(data), entry)
    except EvidenceError:
        return "not-logged"
    return "" if policy.met(witnesses) else "witnesses"


def flipped(data: bytes) -> list[tuple[int, bytes]]:
    return [
        (at, data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]) for at in range(len(data)) for mask in (1, 32)
    ]


def test_the_controls_are_accepted() -> None:
    assert code(PROOF, WITNESSED) == code(PROOF, UNWITNESSED) == ""
    assert code(PROOF, ALL_THREE) == "witnesses"
    assert code(prove(ENTRY, WITNESSES), ALL_THREE) == ""


def test_no_changed_byte_of_a_proof_is_accepted() -> None:
    """Up to the cosignatures the release is not logged; with a changed name or id, a witness is an unknown one."""
    first = PROOF.index("— w1.example/w".encode())
    found = {(at < first, code(data, WITNESSED)) for at, data in flipped(PROOF)}
    assert found == {(True, "not-logged"), (False, "not-logged"), (False, "witnesses")}


def test_where_no_witness_is_asked_the_log_s_own_part_must_still_be_whole() -> None:
    first = PROOF.index("— w1.example/w".encode())
    for at, data in flipped(PROOF):
        if at < first:
            assert code(data, UNWITNESSED) == "not-logged", at


@pytest.mark.parametrize("line", range(PROOF.count(b"\n")))
def test_no_line_of_a_proof_can_be_left_out_doubled_or_swapped(line: int) -> None:
    lines = PROOF.splitlines(keepends=True)
    without = lines[:line] + lines[line + 1 :]
    assert code(b"".join(without), WITNESSED) in ("not-logged", "witnesses")
    assert code(b"".join([*lines[:line], lines[line], *lines[line:]]), WITNESSED) == "not-logged"
    if line + 1 < len(lines) - 2:
        swapped = [*lines[:line], lines[line + 1], lines[line], *lines[line + 2 :]]
        assert code(b"".join(swapped), WITNESSED) == "not-logged"


def test_no_part_of_a_proof_is_accepted() -> None:
    assert {code(PROOF[:end], WITNESSED) for end in range(len(PROOF))} == {"not-logged", "witnesses"}
    assert code(PROOF + b"x", WITNESSED) == code(PROOF + b"\n", WITNESSED) == "not-logged"


@given(st.binary(max_size=60), st.integers(0, 20), st.integers(0, 20))
def test_a_proof_is_of_its_entry_alone(other: bytes, before: int, after: int) -> None:
    data = prove(ENTRY, ("w1", "w2"), before, after)
    assert code(data, WITNESSED) == ""
    assert other == ENTRY or code(data, WITNESSED, other) == "not-logged"


POLICY = policy_text().encode()


def test_a_changed_byte_of_a_policy_is_malformed_or_another_threshold() -> None:
    """Keys carry an id, names are referred to, and words are few; so only a number can become another one."""
    base = logpolicy.decode(POLICY, "policy")
    taken = {}
    for at, data in flipped(POLICY):
        try:
            found = logpolicy.decode(data, "policy")
        except EvidenceError:
            continue
        assert found != base
        taken[at] = found.groups["all"].threshold
    assert taken == {POLICY.index(b"all 2") + 4: 3}


@pytest.mark.parametrize("line", range(POLICY.count(b"\n")))
def test_a_line_of_a_policy_that_is_left_out_or_doubled_is_noticed(line: int) -> None:
    lines = POLICY.splitlines(keepends=True)
    with pytest.raises(EvidenceError):
        logpolicy.decode(b"".join(lines[:line] + lines[line + 1 :]), "policy")
    with pytest.raises(EvidenceError):
        logpolicy.decode(b"".join([*lines[:line], lines[line], *lines[line:]]), "policy")


def test_a_policy_that_was_cut_is_malformed() -> None:
    for end in range(len(POLICY)):
        with pytest.raises(EvidenceError):
            logpolicy.decode(POLICY[:end], "policy")


@given(st.one_of(st.binary(max_size=80), st.text("lognewitrupqa# \t\n123", max_size=80).map(str.encode)))
def test_a_reader_gives_a_record_or_says_malformed(data: bytes) -> None:
    for read in (lambda: logpolicy.decode(POLICY + data + b"\n", "x"), lambda: logpolicy.decode(data, "x")):
        try:
            read()
        except EvidenceError:
            continue
    try:
        Proof.decode(data)
    except EvidenceError:
        return
