"""What is read without h11 is read as h11 reads it: messages of the usual form, mutated, cut and joined."""

from __future__ import annotations

from contextlib import suppress

import h11
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from privml.agent.headers import Headers
from privml.agent.incoming import AnyRequest, Incoming, PlainRequest
from privml.base import heads

LIMIT = 32 * 1024
MANY = settings(max_examples=120, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
"""What is not of the usual form is filtered out: h11 reads it anyway."""


def mostly(usual: list[str], odd: list[str]) -> st.SearchStrategy[str]:
    """One of ``usual`` nine times out of ten."""
    return st.sampled_from((usual * len(odd) * 9)[: len(odd) * 9] + odd)


NAMES = mostly(
    ["Content-Type", "Accept", "te", "x_y", "Connection", "keep-alive", "x-z", "Trailer"],
    ["Host", "Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "x y", "", "x:", "connection"],
)
ENDED = ["", " a", "a ", "a\tb", "\x7f", "\xe9", "a\r\n b"]
VALUES = st.one_of(
    mostly(
        ["a", "12", "0", "keep-alive", "close", "te", "trailers", "a  b", "(x; y=1)"],
        ["007", "12, 12", "+3", "1" * 16, "1" * 21, "Close, te", "chunked", "gzip, chunked", "100-continue", *ENDED],
    ),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8),
)
SEPARATORS = mostly([": "], [":", ":  ", " : ", ":\t"])
ENDS = mostly(["\r\n"] * 20, ["\n", "\r", "\r\r\n", ""])
MEANT = [
    "connection: close",
    "Connection: Keep-Alive, close",
    "connection: te",
    "expect: 100-continue",
    "Upgrade: h2c",
]
LENGTHS = [
    "content-length: 1 2",
    "content-length: 3",
    "Content-Length: 03",
    "content-length: +3",
    "content-length: 0x3",
]
CODINGS = ["transfer-encoding: chunked", "transfer-encoding: identity", "Transfer-Encoding: chunked, chunked"]
FIELD = st.tuples(NAMES, SEPARATORS, VALUES, ENDS).map("".join)
FIELDS = st.lists(FIELD | st.sampled_from([*MEANT, *LENGTHS, *CODINGS]).map("{}\r\n".format), max_size=3)
GOOD = st.sampled_from([["Host: a\r\n"], ["host: a\r\n", "content-length: 3\r\n"], []])
METHODS = mostly(["GET", "POST", "PUT", "DELETE"], ["HEAD", "CONNECT", "OPTIONS", "get", "P ST"])
TARGETS = mostly(["/", "/v1/x?a=b", "*", "http://a/"], ["/a b", "", "/\xe9", "/\x00"])
VERSIONS = mostly(["HTTP/1.1"], ["HTTP/1.0", "HTTP/2.0", "HTTP/1.10", "http/1.1", "HTTP/1.1 "])
STATUSES = mostly(["200", "404", "500"], ["100", "101", "204", "304", "600", "099", "20", "2000", "2x0"])
REASONS = mostly([" OK", "", " ", "  two  "], [" a\tb", " \xe9", "OK"])
BODIES = st.sampled_from([b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"abcGET / HTTP/1.1\r\nhost: a\r\n\r\n"])


def mutated(data: bytes, at: int, byte: int, kind: int) -> bytes:
    """``data`` with one byte replaced, removed or put in, or as it is."""
    if kind == 0 or not data:
        return data
    at %= len(data)
    return data[:at] + (bytes([byte]) if kind != 2 else b"") + data[at + (kind != 3) :]


MUTATIONS = (
    st.integers(0, 400),
    st.sampled_from(list(b"\r\n\t :,;\x00\x7f\x80aG/1")),
    st.sampled_from([0, 0, 1, 2, 3]),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    line = f"{draw(METHODS)} {draw(TARGETS)} {draw(VERSIONS)}{draw(ENDS)}"
    head = "".join([line, *draw(GOOD), *draw(FIELDS), "\r\n"]).encode("latin-1")
    return mutated(head, *(draw(one) for one in MUTATIONS)) + draw(BODIES)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    line = f"{draw(VERSIONS)} {draw(STATUSES)}{draw(REASONS)}{draw(ENDS)}"
    length = draw(st.sampled_from([[], ["content-length: 3\r\n"], ["Content-Length: 0\r\n"]]))
    head = "".join([line, *length, *draw(FIELDS), "\r\n"]).encode("latin-1")
    return mutated(head, *(draw(one) for one in MUTATIONS)) + draw(BODIES)


def as_h11(http: h11.Connection, data: bytes) -> tuple[h11.Event, bytes]:
    """The head of what h11 reads in ``data``, and its body as far as it is there, by a length and not in chunks."""
    http.receive_data(data)
    head = http.next_event()
    assert isinstance(head, h11.Request | h11.Response), head
    body = b""
    while isinstance(event := http.next_event(), h11.Data):
        assert not event.chunk_start
        body += event.data
    assert event is h11.NEED_DATA or isinstance(event, h11.EndOfMessage)
    return head, body


@MANY
@given(requests())
def test_a_request_of_the_usual_form_is_the_one_that_h11_reads(data: bytes) -> None:
    found = heads.request(data, LIMIT)
    assume(found is not None)
    assert found is not None
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT)
    head, body = as_h11(http, data)
    assert isinstance(head, h11.Request)
    assert (head.method.decode(), head.target.decode(), list(head.headers), head.http_version) == (
        found.method, found.target, found.fields, b"1.1",
    )  # fmt: skip
    after = data[found.size :]
    assert body == after[: found.length]
    if len(after) >= found.length:
        assert http.trailing_data[0] == after[found.length :]
    assert not http.they_are_waiting_for_100_continue
    assert http.our_state is h11.SEND_RESPONSE and http.their_state in (h11.SEND_BODY, h11.DONE)  # not MUST_CLOSE


@MANY
@given(responses())
def test_a_response_of_the_usual_form_is_the_one_that_h11_reads(data: bytes) -> None:
    found = heads.response(data, LIMIT)
    assume(found is not None)
    assert found is not None
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target="/", headers=[("host", "a"), ("content-length", "0")]))
    http.send(h11.EndOfMessage())
    head, body = as_h11(http, data)
    assert isinstance(head, h11.Response)
    assert (head.status_code, list(head.headers)) == (found.status, found.fields)
    after = data[found.size :]
    assert body == after[: found.length]
    if len(after) >= found.length:
        assert http.trailing_data[0] == after[found.length :]


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\ncontent-length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: te\r\nte: trailers\r\nx-empty: \r\n\r\n",
    ],
)
def test_the_usual_form_is_that_of_usual_clients(data: bytes) -> None:
    assert heads.request(data, LIMIT) is not None
    assert heads.request(data[:-1] if data.endswith(b"\n") else data[:-5], LIMIT) is None  # not all there
    assert heads.request(data, 20) is None


TARGET_FIELDS = st.lists(
    st.tuples(st.binary(max_size=6) | st.just(b"a"), st.binary(max_size=6) | st.sampled_from([b"a b", b"a\r\nb: c"])),
    max_size=3,
)


@given(
    st.sampled_from(["GET", "POST", "G T", "GET / HTTP/1.1\r\n"]), st.text(max_size=6) | st.just("/v1"), TARGET_FIELDS
)
def test_a_request_is_written_only_as_it_will_be_read(method: str, target: str, fields: Headers) -> None:
    fields = [(b"host", b"a"), *fields]
    written = heads.written_request(method, target, fields)
    if written is not None:
        found = heads.request(written, LIMIT)
        if found is not None:  # a field may still have a meaning that is left to h11
            assert (found.size, found.method, found.target) == (len(written), method, target)
            assert found.fields == [(name.lower(), value) for name, value in fields]
        assert written.count(b"\r\n") == written.count(b"\n") == len(fields) + 2


@given(TARGET_FIELDS)
def test_no_field_of_an_answer_ends_its_line(fields: Headers) -> None:
    with suppress(ValueError):
        lines = heads.written_fields(fields)
        assert lines.split(b"\r\n") == [name + b": " + value for name, value in fields] + [b""]


# --- both kinds of requests, as a connection uses them --------------------------------------------------------------


def seen(incoming: Incoming, pieces: list[bytes], status: int, fields: Headers, body: list[bytes]) -> object:
    """All that a connection sees of a request that arrives in ``pieces``, and the bytes of an answer to it."""
    rest = list(pieces)
    content = b""
    try:
        while (piece := incoming.piece()) != b"":
            if piece is None:
                incoming.receive(rest.pop(0) if rest else b"")
            else:
                content += piece
    except h11.RemoteProtocolError:
        return (incoming.method, incoming.target, incoming.headers, incoming.length, incoming.unanswered)
    sent: list[bytes] = [incoming.awaited()]
    try:
        sent.append(incoming.head(status, fields))
        sent += [incoming.data(piece) for piece in body]
        sent.append(incoming.end([]))
    except h11.LocalProtocolError:
        return (incoming.method, content, "not sent")
    shown = (incoming.method, incoming.target, incoming.headers, incoming.length, incoming.has_trailers)
    return (shown, content, b"".join(sent), incoming.kept, incoming.rest, len(rest), incoming.unanswered)


@MANY
@given(
    requests(),
    st.integers(1, 60),
    st.sampled_from([200, 204, 304, 404]),
    st.sampled_from([[], [(b"content-length", b"3")], [(b"content-length", b"9")], [(b"connection", b"close")]]),
    st.sampled_from([[], [b"abc"], [b"a", b"", b"bc"]]),
)
def test_both_kinds_of_requests_are_answered_alike(
    data: bytes, size: int, status: int, fields: Headers, body: list[bytes]
) -> None:
    end = data.find(b"\r\n\r\n") + 4
    first, later = data[: end + size % 3], data[end + size % 3 :]
    found = heads.request(first, LIMIT)
    assume(found is not None)
    assert found is not None
    pieces = [later[at : at + size] for at in range(0, len(later), size)]
    other = AnyRequest(first, LIMIT)
    assert other.read_head() is True
    plain = PlainRequest(found, first[found.size :])
    assert seen(plain, pieces, status, fields, body) == seen(other, pieces, status, fields, body)
