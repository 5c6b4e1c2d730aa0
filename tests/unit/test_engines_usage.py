"""The usage that an engine reports, found at the end of its answer whatever pieces that comes in."""

from __future__ import annotations

import json
import random

import pytest

from privml.engines.usage import MAX_END, MAX_JSON, UsageReader

JSON, EVENTS = "application/json; charset=utf-8", "text/event-stream"
USAGE = b'{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14}}'


def found(content_type: str, *pieces: bytes) -> tuple[int, int] | None:
    reader = UsageReader(content_type)
    for piece in pieces:
        reader.add(piece)
    return reader.usage()


def test_of_an_answer_as_json() -> None:
    assert found(JSON, USAGE) == (11, 3)
    assert found("Application/JSON", b'{"timings":{"ms":1.5e3},' + USAGE[1:]) == (11, 3)
    assert found("text/plain", USAGE) is None
    assert found("", USAGE) is None


@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n", b"\n", b"data: {}\n\ndata: [DONE]\n\n"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_of_an_answer_as_events(end: bytes, newline: bytes) -> None:
    text = b'data: {"choices":[]}\n\ndata: ' + USAGE + b"\n\n" + end
    assert found(EVENTS, text.replace(b"\n", newline)) == (11, 3)


def test_the_pieces_do_not_matter() -> None:
    data = b'data: {"choices":[]}\n\n' * 20 + b"data: " + USAGE + b"\n\ndata: [DONE]\n\n"
    chosen = random.Random(1)
    for _ in range(20):
        cuts = sorted(chosen.sample(range(len(data)), 9))
        pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, None], strict=True)]
        assert found(EVENTS, *pieces) == (11, 3)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": -1},
        {"prompt_tokens": 1, "completion_tokens": True},
        {"prompt_tokens": 1, "completion_tokens": 1.0},
        {"prompt_tokens": "1", "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 2**41},
    ],
    ids=str,
)
def test_anything_but_two_counts_is_none(usage: object) -> None:
    assert found(JSON, json.dumps({"usage": usage}).encode()) is None


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b'"usage"', b"\xff", b'{"usage":' + b"[" * 5000 + b"]" * 5000 + b"}",
        USAGE[:-1] + b',"usage":{}}', b'{"usage":{"prompt_tokens":' + b"1" * 6000 + b',"completion_tokens":1}}',
    ],
)  # fmt: skip
def test_what_is_not_plain_json_is_none(text: bytes) -> None:
    assert found(JSON, text) is None
    assert found(EVENTS, b"data: " + text + b"\n\n") is None


def test_usage_far_from_the_end_is_not_looked_for() -> None:
    assert found(EVENTS, b"data: " + USAGE + b"\n\n" + b"data: {}\n\n" * 4) is None


def test_memory_is_bounded() -> None:
    events, whole = UsageReader(EVENTS), UsageReader(JSON)
    piece = b'data: {"choices":[]}\n\n' * 3000
    for _ in range(40):
        events.add(piece)
        whole.add(piece)
        assert len(events._kept) <= 2 * MAX_END
        assert len(whole._kept) <= MAX_JSON
    events.add(b"data: " + USAGE + b"\n\n")
    assert events.usage() == (11, 3)
    assert whole.usage() is None
    whole.add(USAGE)
    assert whole.usage() is None
