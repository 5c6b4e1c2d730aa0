"""Whatever a courier or a disk gives a broker is read, or refused by one kind of error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_channel_release import RELEASE, REQUEST, SAID

from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import canonical, loads
from privml.channel.release import Release, Request, Statement
from privml.client.courier import read_error
from privml.keybroker import entry
from privml.keybroker.head import Head
from privml.keybroker.policy import Owners, ReleasePolicy
from privml.keybroker.snprelease import SnpRelease
from privml.verify.snptcb import TcbFloor

FAST = settings(max_examples=60, deadline=None)
SNP = SnpRelease((TcbFloor("Genoa", bl=1), TcbFloor("Turin")), allow_unmeasured_acpi=True, chips=(bytes(64),))
POLICY = ReleasePolicy(
    "model/a", bytes(32), 1, (bytes(32),), 1_800_000_000, platforms=(bytes(16),), max_releases=3, snp=SNP
)
LINE = entry.Entry(entry.REFUSE, "model/a", 1, ("rtmr2",), "11" * 32, "22" * 32, "33" * 16, "44" * 32, "").line(
    0, entry.START
)
HEAD = Head(bytes(16), 1, SAID.log)
READERS: dict[str, tuple[bytes, Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "statement": (SAID.encode(), Statement.decode, Statement.encode),
    "release": (RELEASE.encode(), Release.decode, Release.encode),
    "request": (REQUEST.encode(), lambda data: Request.decode(data, limit=1 << 20), Request.encode),
    "policy": (POLICY.encode(), ReleasePolicy.decode, ReleasePolicy.encode),
    "line": (LINE, lambda data: entry.parse(data, 0, entry.START), lambda made: made.line(0, entry.START)),
    "head": (HEAD.encode(), lambda data: Head.decode(data, "head"), Head.encode),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef_", max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", READERS)
@FAST
@given(data=st.data())
def test_any_value_of_any_field_is_read_or_refused(name: str, data: st.DataObject) -> None:
    good, read, write = READERS[name]
    assert write(read(good)) == good
    fields = loads(good)
    field = data.draw(st.sampled_from(sorted(fields)))
    fields[field] = data.draw(VALUES)
    with contextlib.suppress(ValueError, EvidenceError):
        bent = canonical(fields)
        assert write(read(bent)) == bent


@pytest.mark.parametrize("name", READERS)
@FAST
@given(data=st.data())
def test_any_changed_byte_is_read_or_refused(name: str, data: st.DataObject) -> None:
    good, read, write = READERS[name]
    at = data.draw(st.integers(0, len(good) - 1))
    bent = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 2)) :]
    try:
        found = read(bent)
    except EvidenceError:
        return
    if name in ("statement", "policy", "line"):
        assert write(found) == bent, "one encoding only"


@FAST
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_an_error_text(data: bytes) -> None:
    code, message, _ = read_error(data)
    assert code.isprintable() and message.isprintable()
    for read in (*(each[1] for each in READERS.values()), Owners.decode):
        with contextlib.suppress(EvidenceError):
            read(data)


@FAST
@given(st.integers(0, 6), st.integers(0, 6), st.binary(min_size=1, max_size=2))
def test_any_change_of_a_log_is_found(at: int, cut: int, put: bytes) -> None:
    lines, prev = [], entry.START
    for seq in range(7):
        lines.append(entry.Entry(entry.RELEASE, "model/a", 1).line(seq, prev))
        prev = entry.digest(lines[-1])
    head = entry.check(lines).head
    bent = [line if n != at else line[:cut] + put + line[cut + len(put) :] for n, line in enumerate(lines)]
    if bent != lines:
        with pytest.raises((EvidenceError, Refused)):
            entry.check(bent, [head])
    with pytest.raises((EvidenceError, Refused)):
        entry.check(lines[:at] + lines[at + 1 :], [head])
