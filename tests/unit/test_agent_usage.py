"""What the subjects of callers' tokens used: counted by minute, signed, and read by the issuer only."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from agent_guest import a_config
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_agent_fairness import Start, an_engine, start  # noqa: F401 - a fixture

from privml.agent import usage as ledgers
from privml.agent.answers import Answer, Asked, Denied
from privml.agent.receipts import Receipts
from privml.agent.usage import Ledger
from privml.base.errors import EvidenceError, Refused
from privml.channel.token import USAGE, Token
from privml.channel.usage import MAX_LINES, Line, Usage, read_usage
from privml.engines import usage as engine_usage

KEY = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
ISSUER = Ed25519PrivateKey.from_private_bytes(b"i" * 32)
KEYS = b"k" * 32
FIRST = 90 * 2048
"""The number of the first line of a ledger that started at `Clock`'s first second."""
JSON = [(b"content-type", b"application/json")]
COUNTED = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'
LINES = (Line(3, 1, "a", 2, 1, 10, 20), Line(4, 1, "b", 1), Line(5, 2, "a", 0, 0, 7, 7))


class Clock:
    def __init__(self) -> None:
        self.now = 90

    def __call__(self) -> int:
        return self.now


def answered(ledger: Ledger, subject: str, *pieces: bytes, read: int | None = None) -> None:
    """Take ``read`` of the pieces of a counted answer, by default to the end, and close it."""
    ledger.begin(subject)
    answer = ledger.counting(Answer(200, JSON, pieces), subject)
    given = iter(answer.pieces)
    if read is None:
        assert b"".join(given) == b"".join(pieces)
    else:
        for _ in range(read):
            next(given)
    answer.close()


# The ledger.


def test_a_minute_is_shown_when_it_is_over() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    answered(ledger, "b", COUNTED[:20], COUNTED[20:])
    answered(ledger, "a", COUNTED)
    answered(ledger, "a", b'{"choices":[]}')
    answered(ledger, "a", COUNTED[:30], COUNTED[30:], read=1)
    assert ledger.lines(0) == (FIRST, FIRST, ())
    clock.now += 60
    lines = Line(FIRST, 1, "a", 3, 2, 5, 7), Line(FIRST + 1, 1, "b", 1, 0, 5, 7)
    assert ledger.lines(0) == ledger.lines(FIRST) == (FIRST, FIRST + 2, lines)
    assert ledger.lines(FIRST + 1) == (FIRST, FIRST + 2, lines[1:])
    assert ledger.lines(FIRST + 2) == ledger.lines(FIRST + 99) == (FIRST, FIRST + 2, ())
    clock.now += 600
    assert ledger.lines(0) == (FIRST, FIRST + 2, lines)


def test_numbers_of_lines_grow_also_over_a_restart_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    last = 0
    for _ in range(3):
        ledger = Ledger(clock)
        for number in range(ledgers.SUBJECTS):
            ledger.begin(f"s{number}")
        clock.now = (clock.now // 60 + 1) * 60
        first, following, _ = ledger.lines(0)
        assert first > last
        last = first + ledgers.SUBJECTS
        assert ledger.lines(following)[1] == last
        clock.now += 1


def test_a_stream_that_was_cut_is_unreported() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.begin("a")
    events = [b"data: " + COUNTED + b"\n\n", b"data: [DONE]\n\n"]
    answer = ledger.counting(Answer(200, [(b"content-type", b"text/event-stream")], events), "a")
    given = iter(answer.pieces)
    next(given)
    answer.close()
    clock.now += 60
    assert ledger.lines(0)[2] == (Line(FIRST, 1, "a", 1, 1),)


def test_receipt_and_ledger_read_the_usage_of_an_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(engine_usage, "_usage", lambda text: read.append(text) or (5, 7))
    clock = Clock()
    ledger = Ledger(clock)
    receipts = Receipts(replace(a_config(), sha256="cc" * 32), KEY, b"the keys section")
    asked = Asked("POST", "/v1/completions", [], lambda _: b"{}")
    made = receipts.of(Answer(200, JSON, (COUNTED,)), asked, nonce=None, received=b"{}", forwarded=b"{}")
    ledger.begin("a")
    answer = ledger.counting(made, "a")
    with contextlib.closing(answer):
        assert b"".join(answer.pieces) == COUNTED and answer.trailers()
    clock.now += 60
    assert ledger.lines(0)[2] == (Line(FIRST, 1, "a", 1, 0, 5, 7),)
    assert read == [COUNTED]


def test_an_answer_counts_in_the_minute_in_which_it_ends() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.begin("a")
    answer = ledger.counting(Answer(200, JSON, (COUNTED,)), "a")
    clock.now += 60
    assert b"".join(answer.pieces) == COUNTED
    answer.close()
    clock.now += 60
    assert ledger.lines(0)[2] == (Line(FIRST, 1, "a", 1), Line(FIRST + 1, 2, "a", 0, 0, 5, 7))


def test_the_ledger_is_bounded_and_its_gap_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "SUBJECTS", 3)
    monkeypatch.setattr(ledgers, "KEPT", 4)
    clock = Clock()
    ledger = Ledger(clock)
    for minute in range(3):
        for subject in "abc":
            ledger.begin(subject)
        with pytest.raises(Denied) as caught:
            ledger.begin("d")
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "usage-full", 60)
        ledger.begin("a")
        clock.now += 60
        first, following, lines = ledger.lines(0)
        assert (following - FIRST, first - FIRST) == (3 * minute + 3, max(0, 3 * minute - 1))
        assert [line.seq for line in lines] == list(range(first, following))


def test_a_record_has_so_many_lines() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    for _ in range(2):
        for number in range(ledgers.SUBJECTS):
            ledger.begin(f"s{number}")
        clock.now += 60
    first, following, lines = ledger.lines(0)
    assert (first, following, len(lines)) == (FIRST, FIRST + MAX_LINES, MAX_LINES)
    data = Usage(KEYS, 1, first, following, lines).sign(KEY.sign)
    assert read_usage(data, receipt_key=PUBLIC, keys_sha256=KEYS).lines == lines
    _, last, more = ledger.lines(following)
    assert (more[0].seq, last) == (following, FIRST + 2 * MAX_LINES)


# The record.


def test_a_record_round_trips_and_is_of_one_guest() -> None:
    record = Usage(KEYS, 200, 1, 6, LINES)
    data = record.sign(KEY.sign)
    assert read_usage(data, receipt_key=PUBLIC, keys_sha256=KEYS) == record
    with pytest.raises(Refused, match="of keys section"):
        read_usage(data, receipt_key=PUBLIC, keys_sha256=b"x" * 32)
    with pytest.raises(Refused, match="not signed"):
        read_usage(data, receipt_key=ISSUER.public_key().public_bytes_raw(), keys_sha256=KEYS)


def test_no_altered_byte_of_a_record_is_accepted() -> None:
    data = Usage(KEYS, 200, 1, 6, LINES).sign(KEY.sign)
    made = random.Random(16)
    for at in made.sample(range(len(data)), 60):
        altered = data[:at] + bytes([data[at] ^ (1 << made.randrange(8))]) + data[at + 1 :]
        with pytest.raises((EvidenceError, Refused)):
            read_usage(altered, receipt_key=PUBLIC, keys_sha256=KEYS)


@pytest.mark.parametrize(
    "record",
    [
        Usage(KEYS, 200, 1, 7, LINES),
        Usage(KEYS, 200, 1, 6, LINES[::-1]),
        Usage(KEYS, 200, 1, 6, (LINES[0], LINES[2])),
        Usage(KEYS, 200, 1, 6, (*LINES[:2], Line(5, 2, "a b"))),
        Usage(KEYS, -1, 1, 6, LINES),
    ],
)
def test_lines_are_read_strictly(record: Usage) -> None:
    with pytest.raises(EvidenceError):
        read_usage(record.sign(KEY.sign), receipt_key=PUBLIC, keys_sha256=KEYS)


# The server.


@pytest.fixture
def counted(start: Start) -> Iterator[tuple[object, Clock, bytes]]:  # noqa: F811
    running = start(callers="tokens", issuer=ISSUER.public_key().public_bytes_raw())
    clock = Clock()
    running.server._routes._ledger = Ledger(clock)
    section = running.server._routes._callers._keys_sha256
    with an_engine(running):
        yield running, clock, section


def test_usage_is_for_the_issuer_only(counted) -> None:  # type: ignore[no-untyped-def]
    running, clock, section = counted
    body = json.dumps({"model": "tiny", "messages": []}).encode()
    inference = Token(section, "team-7", 1 << 39).sign(ISSUER.sign)
    reading = Token(section, "issuer", 1 << 39, USAGE).sign(ISSUER.sign)

    def ask(method: str, path: str, token: str) -> tuple[int, bytes]:
        headers = {"authorization": f"Bearer {token}"}
        status, _, answer = running.ask(method, path, body if method == "POST" else None, headers=headers)
        return status, answer

    assert ask("POST", "/v1/chat/completions", inference)[0] == 200
    assert ask("POST", "/v1/chat/completions", reading)[0] == 401
    assert ask("GET", "/v1/usage", inference)[0] == 401
    clock.now += 60
    status, data = ask("GET", "/v1/usage?since=0", reading)
    key = running.server._routes._callers._key.public_key().public_bytes_raw()
    found = read_usage(data, receipt_key=key, keys_sha256=section)
    assert status == 200 and found.lines == (Line(FIRST, 1, "team-7", 1, 1),)
    assert ask("GET", "/v1/usage", reading)[0] == 200
    for query in ("?since=", "?since=-1", "?since=1&since=2", "?x=1", "?since=1" + "0" * 20):
        assert ask("GET", f"/v1/usage{query}", reading)[0] == 400
    assert ask("POST", "/v1/usage", reading)[0] == 405
