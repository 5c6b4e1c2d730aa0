"""Binary HTTP and its integers: the standard's examples, round trips, bounds, and every refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.channel_vectors import changes, vector

from privml.base.errors import EvidenceError
from privml.channel import varint
from privml.channel.bhttp import (
    Request,
    Response,
    content_piece,
    decode_request,
    decode_response,
    request_reader,
    response_end,
    response_head,
    response_reader,
)
from privml.channel.fields import LIMITS, Limits, RequestLine, encode_fields
from privml.channel.varint import Cursor, Short, encode, prefixed

LINE = RequestLine("POST", "https", "guest.invalid", "/v1/chat/completions")
REQUEST = Request(LINE, (("content-type", "application/json"), ("x", "")), b'{"a": 1}', (("t", "1"),))
RESPONSE = Response(
    200, (("content-type", "text/event-stream"),), b"data: 1\n\ndata: 2\n\n", (("privml-receipt", "x"),)
)
STREAMED = (
    response_head(200, RESPONSE.fields)
    + content_piece(b"data: 1\n\n")
    + content_piece(b"data: 2\n\n")
    + response_end(RESPONSE.trailers)
)
STREAMED_REQUEST = (
    b"\x02"
    + LINE.encode()
    + encode_fields(REQUEST.fields)
    + b"\0"
    + prefixed(REQUEST.content)
    + b"\0"
    + encode_fields(REQUEST.trailers)
    + b"\0"
)

# RFC 9000, appendix A.1.
INTEGERS = [
    (151288809941952652, "c2197c5eff14e88c"),
    (494878333, "9d7f3e7d"),
    (15293, "7bbd"),
    (37, "25"),
]


@pytest.mark.parametrize(("value", "text"), INTEGERS)
def test_the_integers_of_the_standard(value: int, text: str) -> None:
    assert encode(value).hex() == text
    assert Cursor(bytes.fromhex(text), "x").varint(shortest=True) == value


@given(st.integers(0, varint.MAX))
def test_an_integer_is_read_from_its_shortest_form_and_needs_all_of_it(value: int) -> None:
    data = encode(value)
    cursor = Cursor(data + b"z", "x")
    assert cursor.varint(shortest=True) == value
    assert cursor.left == 1
    with pytest.raises(Short, match=r"^x: ends at byte"):
        Cursor(data[:-1], "x").varint()


def test_integers_out_of_range_and_longer_forms_are_refused() -> None:
    for value in (-1, varint.MAX + 1):
        with pytest.raises(ValueError, match=r"expected 0 to"):
            encode(value)
    assert Cursor(b"\x40\x25", "x").varint() == 37
    with pytest.raises(EvidenceError, match=r"^x: 37 in 2 bytes, expected its shortest form$"):
        Cursor(b"\x40\x25", "x").varint(shortest=True)


def test_the_requests_and_responses_of_the_standards_are_read() -> None:
    example = vector("rfc9458-example")
    request = decode_request(bytes.fromhex(example["bhttp_request"]))
    assert request == Request(RequestLine("GET", "https", "example.com", "/"))
    assert decode_response(bytes.fromhex(example["bhttp_response"])) == Response(200)
    streamed = vector("chunked-ohttp-xwing-streamed")
    request = decode_request(bytes.fromhex(streamed["bhttp_request"]))
    assert request.line.path == "/v1/chat/completions"
    assert request.content.startswith(b"{")
    response = decode_response(bytes.fromhex("".join(streamed["bhttp_response_pieces"])))
    assert response.status == 200
    assert response.content.endswith(b"data: [DONE]\n\n")
    assert dict(response.trailers) == {"privml-receipt": "ZXhhbXBsZQ=="}
    assert request.encode() == bytes.fromhex(streamed["bhttp_request"])


TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).filter(
    lambda name: name not in ("connection", "keep-alive", "upgrade", "host")
)
VALUES = st.text("abc XYZ09;=/\t", max_size=40).map(str.strip)
FIELDS = st.lists(st.tuples(TOKENS, VALUES), max_size=5).map(tuple)
LINES = st.builds(
    RequestLine, st.sampled_from(["GET", "POST"]), st.just("https"), st.just("a.b:443"), st.just("/v1?x")
)


@given(st.builds(Request, LINES, FIELDS, st.binary(max_size=300), FIELDS), st.integers(1, 300))
def test_a_request_is_the_same_after_its_encoding_and_padding(request_: Request, pad: int) -> None:
    data = request_.encode(pad=pad)
    assert len(data) % pad == 0
    assert decode_request(data) == request_


@given(st.integers(200, 599), FIELDS, st.lists(st.binary(min_size=1, max_size=70), max_size=6), FIELDS, st.randoms())
def test_a_response_is_the_same_in_any_pieces(status, fields, pieces, trailers, dice) -> None:  # type: ignore[no-untyped-def]
    response = Response(status, fields, b"".join(pieces), trailers)
    streamed = response_head(status, fields) + b"".join(map(content_piece, pieces)) + response_end(trailers)
    for data in (response.encode(), streamed):
        assert decode_response(data) == response
        reader, content, at = response_reader(), b"", 0
        while at < len(data):
            size = dice.randint(1, 40)
            content += reader.feed(data[at : at + size])
            at += size
        reader.end()
        assert Response(reader.control or 0, reader.fields, content, reader.trailers) == response


def test_content_arrives_before_the_end_and_nothing_is_complete_before_it() -> None:
    reader = response_reader()
    assert reader.feed(response_head(200, ())) == b""
    assert reader.control == 200
    assert reader.feed(content_piece(b"token")[:3]) == b"to"
    assert reader.feed(content_piece(b"token")[3:]) == b"ken"
    with pytest.raises(EvidenceError, match=r"^response: ends inside its content$"):
        reader.end()
    with pytest.raises(EvidenceError, match=r"^response: ended or was refused before$"):
        reader.feed(response_end())


@pytest.mark.parametrize("data", [STREAMED, STREAMED_REQUEST, REQUEST.encode(), RESPONSE.encode()])
def test_a_message_cut_anywhere_is_refused_or_lacks_only_empty_parts(data: bytes) -> None:
    decode = decode_request if data[0] in (0, 2) else decode_response
    whole = decode(data)
    for size in range(len(data)):
        try:
            cut = decode(data[:size])
        except EvidenceError:
            continue
        # What RFC 9292 lets a sender leave out: nothing after the control data, or no trailers after whole content.
        assert (
            replace(cut, trailers=whole.trailers) == whole
            or (cut.fields, cut.content, cut.trailers) == ((), b"", ())
            or (cut.content, cut.trailers) == (b"", ())
        )


@pytest.mark.parametrize("data", [STREAMED, STREAMED_REQUEST, REQUEST.encode(), RESPONSE.encode()])
def test_every_change_of_a_message_is_refused_or_read_as_another_message(data: bytes) -> None:
    decode = decode_request if data[0] in (0, 2) else decode_response
    whole, read = decode(data), 0
    for changed in changes(data):
        try:
            other = decode(changed)
        except EvidenceError as error:
            assert error.message.startswith(
                ("request", "response", "fields", "content-length", "host", "method", "scheme", "authority", "path")
            )
            continue
        read += 1
        # The same message only with zeros after its end: nothing else in it is without meaning.
        assert other != whole or changed.rstrip(b"\0") == data.rstrip(b"\0")
        assert decode(other.encode()) == other
    assert read > 0


def framed(
    fields: bytes = b"\0", content: bytes = b"\0", line: bytes = LINE.encode(), trailers: bytes = b"\0"
) -> bytes:
    return b"\0" + line + fields + content + trailers


def field(name: bytes, value: bytes) -> bytes:
    return prefixed(prefixed(name) + prefixed(value))


def line(**changed: str) -> bytes:
    values = {"method": "GET", "scheme": "https", "authority": "a", "path": "/", **changed}
    return b"".join(prefixed(one.encode()) for one in values.values())


VALUE = "request header: value of `n`, expected printable ASCII without space around it"
CONNECTION = "request header: field `%s` belongs to a connection, expected none of those"
STREAM = b"\2" + LINE.encode()

REFUSED = [
    (b"", "request: ends inside its head"),
    (b"\x04", "request: framing 4, expected 0 or 2"),
    (b"\x40\x00" + LINE.encode(), "request: 0 in 2 bytes, expected its shortest form"),
    (REQUEST.encode() + b"\0\1", "request: bytes after the end, expected at most 65536 zeros"),
    (REQUEST.encode() + bytes(65537), "request: bytes after the end, expected at most 65536 zeros"),
    (framed(line=line(method="")), "request: method `` is not one"),
    (framed(line=line(method="G T")), "request: method `G T` is not one"),
    (framed(line=line(method="CONNECT")), "request: CONNECT `/`, expected a path without a fragment"),
    (framed(line=line(path="/#a")), "request: GET `/#a`, expected a path without a fragment"),
    (framed(line=line(path="*")), "request: path `*` is not one"),
    (framed(line=line(path="/a b")), "request: path `/a b` is not one"),
    (framed(line=line(path="/" + "a" * 8192)), "request: path of 8193 bytes, expected at most 8192"),
    (framed(line=line(scheme="HTTPS")), "request: scheme `HTTPS` is not one"),
    (framed(line=line(authority="a/b")), "request: authority `a/b` is not one"),
    (framed(line=line(authority="é")), "authority: byte 0xc3, expected ASCII"),
    (framed(field(b"", b"a")), "request header: field name ``, expected a token in lower case"),
    (framed(field(b"Name", b"a")), "request header: field name `Name`, expected a token in lower case"),
    (framed(field(b":path", b"/")), "request header: field name `:path`, expected a token in lower case"),
    (framed(field(b"n" * 129, b"")), "request header: field name of 129 bytes, expected at most 128"),
    (framed(field(b"n", b"a\r\nb: c")), VALUE),
    (framed(field(b"n", b" a")), VALUE),
    (framed(field(b"n", b"\xff")), "request header: byte 0xff, expected ASCII"),
    (framed(prefixed(b"\1n")), "request header: ends at byte 2, expected 1 more"),
    (framed(field(b"connection", b"close")), CONNECTION % "connection"),
    (framed(field(b"transfer-encoding", b"chunked")), CONNECTION % "transfer-encoding"),
    (framed(field(b"content-length", b"1")), "request: content-length 1, expected the 0 bytes of content"),
    (framed(field(b"content-length", b"01")), "content-length: `01`, expected one number"),
    (framed(prefixed(encode_fields((("content-length", "0"),) * 2))), "content-length: `0, 0`, expected one number"),
    (framed(field(b"host", b"other")), "host: `other`, expected the authority `guest.invalid`"),
    (framed(trailers=field(b"content-length", b"0")), "request: trailers with content-length or host, expected none"),
    (framed(prefixed((prefixed(b"n") + prefixed(b"")) * 129)), "request header: more than 128 fields"),
    (framed(encode(65537) + bytes(65537)), "request: request header of 65537 bytes, expected at most 65536"),
    (framed(content=encode(16 * 2**20 + 1)), "request: content above 16777216 bytes or 65536 pieces"),
    (framed(content=b"\5abc", trailers=b""), "request: ends inside its content"),
    (STREAM + b"\0" + b"\1a" * 65537, "request: content above 16777216 bytes or 65536 pieces"),
    (STREAM + b"\1n" + encode(65537), "request: field value of 65537 bytes, expected at most 65536"),
    (STREAM + b"\1n" + prefixed(b"a" * 60000) + b"\1n" + prefixed(b"a" * 60000), "request: head above 65536 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_no_request_may_have_is_refused_with_its_name(data: bytes, message: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        decode_request(data)
    assert caught.value.message == message


@pytest.mark.parametrize("status", [0, 100, 103, 199, 600, 16384])
def test_informational_and_unknown_statuses_are_refused(status: int) -> None:
    with pytest.raises(EvidenceError, match=rf"^response: status {status}, expected 200 to 599$"):
        decode_response(b"\1" + encode(status) + b"\0\0\0")
    with pytest.raises(EvidenceError, match=rf"^response: status {status}"):
        Response(status).encode()


def test_a_message_at_each_bound_is_accepted_and_one_above_is_not() -> None:
    limits = Limits(head=200, fields=3, content=10, pieces=2, padding=4)
    fits = Request(LINE, (("a", ""), ("b", ""), ("c", "")), b"0123456789")
    assert decode_request(fits.encode() + bytes(4), limits) == fits
    for data in (
        fits.encode() + bytes(5),
        replace(fits, content=b"01234567890").encode(),
        replace(fits, fields=(*fits.fields, ("d", ""))).encode(),
        replace(fits, fields=(("a", "v" * 200),)).encode(),
        replace(fits, trailers=(("a", "v" * 200),)).encode(),
    ):
        with pytest.raises(EvidenceError):
            decode_request(data, limits)
    head = b"\2" + LINE.encode() + b"\0"
    assert decode_request(head + b"\1a\1b\0\0", limits).content == b"ab"
    with pytest.raises(EvidenceError, match=r"2 pieces$"):
        decode_request(head + b"\1a\1b\1c\0\0", limits)
    for data, size in ((fits.encode(), len(fits.encode()) - 12), (head + b"\0\0", len(head))):
        assert decode_request(data, Limits(head=size)).line == LINE
        with pytest.raises(EvidenceError, match=rf"^request: head above {size - 1} bytes$"):
            decode_request(data, Limits(head=size - 1))
    reader = request_reader(limits)
    with pytest.raises(EvidenceError, match=r"^request: head above 200 bytes$"):
        for at in range(300):
            reader.feed((STREAM + b"\1n" + encode(200) + b"v" * 300)[at : at + 1])
    assert LIMITS.content == 16 * 2**20


def test_what_may_not_be_sent_is_not_encoded() -> None:
    for bad in ((("X", "a"),), (("x", "a\n"),), (("upgrade", "h2c"),)):
        with pytest.raises(EvidenceError):
            Request(LINE, bad).encode()
    with pytest.raises(EvidenceError):
        RequestLine("GET", "https", "a", "no-slash")
    assert content_piece(b"") == b""
