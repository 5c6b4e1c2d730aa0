"""What is read without h11 is read as h11 reads it: fixed messages, and those of the usual form mutated and cut."""

from __future__ import annotations

from contextlib import suppress
from itertools import product

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privml.agent.headers import Headers
from privml.agent.incoming import AnyRequest, Incoming, PlainRequest
from privml.base import heads

LIMIT = 32 * 1024
MANY = settings(max_examples=200)
"""The rules are tested by fixed messages; these look for what nobody thought of."""

# --- fixed messages -------------------------------------------------------------------------------------------------

USUAL_REQUESTS = [
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\ncontent-length: 3\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: te\r\nte: trailers\r\nx-empty: \r\n\r\n",
    b"PUT * HTTP/1.1\r\nx_y: (b;  c=1)\r\nHOST: \r\nConnection: Keep-Alive\r\nContent-Length: 003\r\n\r\n",
    b"DELETE http://a/?b#c HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999\r\n\r\n",
]
USUAL_RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 3\r\n\r\n",
    b"HTTP/1.1 404\r\nConnection: Close\r\nContent-Length: 0\r\nx: \r\n\r\n",
    b"HTTP/1.1 599   two  words \r\nContent-Length: 03\r\nconnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 205 \r\nContent-Length: 3\r\n\r\n",
]
FOLLOWING = [b"", b"ab", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"abcGET / HTTP/1.1\r\nhost: a\r\n\r\n"]
ODD_FIELDS = [
    b"Transfer-Encoding: chunked", b"transfer-encoding: identity", b"Upgrade: h2c", b"Expect: 100-continue",
    b"Connection: x", b"Connection: keep-alive, close", b"connection: upgrade",
    b"Content-Length: +3", b"Content-Length: 3, 3", b"Content-Length: 3 3", b"Content-Length: ",
    b"Content-Length: 0x3", b"Content-Length: 1234567890123456", b"Content-Length: 3\r\ncontent-length: 3",
    b"x : a", b"x:a", b"x:  a", b"x:\ta", b"x: a ", b"x: a\tb", b"x: a\x7f", b"x: \xe9", b"x: a\0", b"x: a\r\n b",
    b"x: a\ny: b", b"x: a\ry: b", b": a", b"x y: a", b"x", b" x: a", b"a.b: c", b"x: a\r",
]  # fmt: skip
ODD_REQUESTS = [
    *(
        b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % field
        for field in (*ODD_FIELDS, b"host: a", b"Connection: close")
    ),
    *(
        line + b"\r\nHost: a\r\n\r\n"
        for line in (
            b"HEAD / HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"get / HTTP/1.1", b"GET / HTTP/1.0",
            b"GET / HTTP/1.10", b"GET / http/1.1", b"GET / HTTP/1.1 ", b"GET  / HTTP/1.1", b" GET / HTTP/1.1",
            b"GET /", b"GET /a b HTTP/1.1", b"GET /\xe9 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"\r\nGET / HTTP/1.1",
        )
    ),
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    b"GET / HTTP/1.1\nHost: a\r\n\r\n",
]  # fmt: skip
ODD_RESPONSES = [
    *(
        b"HTTP/1.1 200 OK\r\n%b%b\r\n\r\n" % (b"" if b"ontent-" in field else b"Content-Length: 3\r\n", field)
        for field in ODD_FIELDS
    ),
    *(
        line + b"\r\nContent-Length: 3\r\n\r\n"
        for line in (
            b"HTTP/1.1 204 OK", b"HTTP/1.1 304 OK", b"HTTP/1.1 100 OK", b"HTTP/1.1 101 OK", b"HTTP/1.1 600 OK",
            b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 200OK", b"HTTP/1.1 200 a\tb", b"HTTP/1.1 200 \xe9",
            b"HTTP/1.0 200 OK", b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"\r\nHTTP/1.1 200 OK",
        )
    ),
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\n",
]  # fmt: skip


def test_what_is_not_of_the_usual_form_is_left_to_h11() -> None:
    assert [data for data in ODD_REQUESTS if heads.request(data, LIMIT) is not None] == []
    assert [data for data in ODD_RESPONSES if heads.response(data, LIMIT) is not None] == []
    assert [data for data in USUAL_REQUESTS if heads.request(data, LIMIT) is None] == []
    assert [data for data in USUAL_RESPONSES if heads.response(data, LIMIT) is None] == []


def test_fixed_messages_are_those_that_h11_reads() -> None:
    for head, following in product(USUAL_REQUESTS, FOLLOWING):
        assert reads_as_h11_a_request(head + following)
    for head, following in product(USUAL_RESPONSES, FOLLOWING):
        assert reads_as_h11_a_response(head + following)


@pytest.mark.parametrize("data", USUAL_REQUESTS[:2])
def test_a_head_must_be_whole_and_within_its_limit(data: bytes) -> None:
    assert heads.request(data, len(data)) is not None
    assert heads.request(data[:-1], LIMIT) is None  # not all there
    assert heads.request(data, len(data) - 1) is None


# --- messages of the usual form, mutated ----------------------------------------------------------------------------


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


def reads_as_h11_a_request(data: bytes) -> bool:
    """Whether ``data`` begins with a request of the usual form; it must be the one that h11 reads."""
    found = heads.request(data, LIMIT)
    if found is None:
        return False
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
    return True


def reads_as_h11_a_response(data: bytes) -> bool:
    """The same for a response."""
    found = heads.response(data, LIMIT)
    if found is None:
        return False
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
    return True


@MANY
@given(requests())
def test_a_request_of_the_usual_form_is_the_one_that_h11_reads(data: bytes) -> None:
    reads_as_h11_a_request(data)


@MANY
@given(responses())
def test_a_response_of_the_usual_form_is_the_one_that_h11_reads(data: bytes) -> None:
    reads_as_h11_a_response(data)


TARGET_FIELDS = st.lists(
    st.tuples(st.binary(max_size=6) | st.just(b"a"), st.binary(max_size=6) | st.sampled_from([b"a b", b"a\r\nb: c"])),
    max_size=3,
)


@MANY
@given(
    st.sampled_from(["GET", "POST", "G T", "GET / HTTP/1.1\r\n"]),
    st.text(st.characters(max_codepoint=0x17F), max_size=6) | st.just("/v1"),
    TARGET_FIELDS,
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


@MANY
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


STATUSES_SENT = [200, 204, 304, 404]
FIELDS_SENT: list[Headers] = [
    [],
    [(b"content-length", b"2")],
    [(b"content-length", b"3")],
    [(b"content-length", b"9")],
    [(b"content-length", b"3"), (b"connection", b"close")],
    [(b"connection", b"close")],
]
BODIES_SENT: list[list[bytes]] = [[], [b"abc"], [b"a", b"", b"bc"]]


def are_answered_alike(data: bytes, size: int, status: int, fields: Headers, body: list[bytes]) -> bool:
    """Whether ``data`` is of the usual form; both kinds of requests must then be read and answered alike."""
    end = data.find(b"\r\n\r\n") + 4
    first, later = data[: end + size % 3], data[end + size % 3 :]
    found = heads.request(first, LIMIT)
    if found is None:
        return False
    pieces = [later[at : at + size] for at in range(0, len(later), size)]
    other = AnyRequest(first, LIMIT)
    assert other.read_head() is True
    plain = PlainRequest(found, first[found.size :])
    assert seen(plain, pieces, status, fields, body) == seen(other, pieces, status, fields, body)
    return True


@MANY
@given(
    requests(),
    st.integers(1, 60),
    st.sampled_from(STATUSES_SENT),
    st.sampled_from(FIELDS_SENT),
    st.sampled_from(BODIES_SENT),
)
def test_both_kinds_of_requests_are_answered_alike(
    data: bytes, size: int, status: int, fields: Headers, body: list[bytes]
) -> None:
    are_answered_alike(data, size, status, fields, body)


def test_both_kinds_of_fixed_requests_are_answered_alike() -> None:
    for answer in product((1, 2, 60), STATUSES_SENT, FIELDS_SENT, BODIES_SENT):
        assert are_answered_alike(USUAL_REQUESTS[0] + FOLLOWING[-1], *answer)
    for head, following in product(USUAL_REQUESTS, FOLLOWING):
        assert are_answered_alike(head + following, 2, 200, FIELDS_SENT[2], BODIES_SENT[2])


@pytest.mark.parametrize(
    ("length", "body", "said"),
    [
        (b"2", [b"abc"], "more"),  # and no byte of it is sent
        (b"2", [b"ab", b"c"], "more"),
        (b"4", [b"abc"], "less"),
        (b"1", [], "less"),
    ],
)
def test_an_answer_of_another_length_than_stated_is_an_error(length: bytes, body: list[bytes], said: str) -> None:
    found = heads.request(USUAL_REQUESTS[1], LIMIT)
    assert found is not None
    asked = PlainRequest(found, b"")
    asked.head(200, [(b"content-length", length)])
    with pytest.raises(h11.LocalProtocolError, match=f"{said} than the stated length"):
        for piece in body:
            asked.data(piece)
        asked.end([])
    assert not asked.kept


@pytest.mark.parametrize("arrived", [b"", b"ab", b"abc"])
def test_a_connection_is_not_kept_after_a_body_that_was_not_read(arrived: bytes) -> None:
    found = heads.request(USUAL_REQUESTS[0], LIMIT)
    assert found is not None
    asked = PlainRequest(found, arrived)
    asked.head(413, [(b"content-length", b"0")])
    asked.end([])
    assert not asked.kept
