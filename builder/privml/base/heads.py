"""Heads of HTTP/1.1 messages in their usual form: each is checked by one pattern, and its fields are split.

This reads less than HTTP/1.1 allows. What it does not read is no error: `request` and `response` give None, and the
caller hands the same bytes to h11, which decides. What they read h11 reads as the same message, with the same fields,
the same end and the same body (tests/property/test_heads.py). So nothing is accepted here that h11 refuses.

The usual form: lines end in CR LF, a field has one space after its colon, and then nothing or words of visible ASCII
with spaces between them; a body has a stated length; nothing asks for another protocol or for an answer in between.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

Fields = list[tuple[bytes, bytes]]
"""Names in lower case, in the order of the message."""

_FIELD = rb"[A-Za-z0-9_-]++: (?:[!-~]++(?: ++[!-~]++)*+)?+\r\n"
_REQUEST = re.compile(rb"(GET|POST|PUT|DELETE) ([!-~]++) HTTP/1\.1\r\n((?:" + _FIELD + rb")*+)\r\n")
_RESPONSE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [ -~]*+)?+\r\n((?:" + _FIELD + rb")*+)\r\n")
_LINES = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++: ?+[^\x00\r\n]*+\r\n)*+")
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"[0-9]{1,15}")
_UNUSUAL = frozenset((b"transfer-encoding", b"upgrade", b"expect"))
_WITHOUT_BODY = (204, 304)


class RequestHead(NamedTuple):
    """A request's head of ``size`` bytes. A body of ``length`` bytes follows; the connection may be kept."""

    size: int
    method: str
    target: str
    fields: Fields
    length: int


class ResponseHead(NamedTuple):
    """A response's head of ``size`` bytes; a body of ``length`` bytes follows."""

    size: int
    status: int
    fields: Fields
    length: int


def request(data: bytes, limit: int) -> RequestHead | None:
    """The head of at most ``limit`` bytes that ``data`` begins with; None if it is another or not all there."""
    end = data.find(_END, 0, limit)
    found = _REQUEST.fullmatch(data, 0, end + len(_END)) if end >= 0 else None
    if found is None:
        return None
    method, target, lines = found.groups()
    fields = _split(lines)
    names = [name for name, _ in fields]
    length = _length(fields, names)
    if length is None or names.count(b"host") != 1 or not _UNUSUAL.isdisjoint(names):
        return None
    if b"connection" in names and _connection(fields) - {b"keep-alive", b"te"}:
        return None
    return RequestHead(found.end(), method.decode("ascii"), target.decode("ascii"), fields, length)


def response(data: bytes, limit: int) -> ResponseHead | None:
    """The head of a final response to GET or POST that ``data`` begins with; None as in `request`."""
    end = data.find(_END, 0, limit)
    found = _RESPONSE.fullmatch(data, 0, end + len(_END)) if end >= 0 else None
    if found is None:
        return None
    status, lines = int(found[1]), found[2]
    fields = _split(lines)
    names = [name for name, _ in fields]
    length = _length(fields, names)
    if length is None or b"content-length" not in names or not _UNUSUAL.isdisjoint(names) or status in _WITHOUT_BODY:
        return None
    if b"connection" in names and _connection(fields) - {b"keep-alive", b"close"}:
        return None
    return ResponseHead(found.end(), status, fields, length)


def written_request(method: str, target: str, fields: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The head of a request; None if it is not of the usual form, or cannot be written at all."""
    try:
        line = f"{method} {target} HTTP/1.1\r\n".encode("ascii")
        head = line + written_fields(fields) + b"\r\n"
    except ValueError:  # also of characters that are not ASCII
        return None
    found = _REQUEST.fullmatch(head)
    return head if found is not None and found.end(2) == len(line) - len(b" HTTP/1.1\r\n") else None


def written_response(status: int, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The head of a response; ``ValueError`` if a field would end its line."""
    return b"HTTP/1.1 %d \r\n%s\r\n" % (status, written_fields(fields))


def written_fields(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Field lines; ``ValueError`` if a field would end its line."""
    lines = b"".join([b"%s: %s\r\n" % field for field in fields])
    # One pattern over all: a name or value with a line's end in it gives a line that is no field, or one too many.
    if lines.count(b"\n") != len(fields) or _LINES.fullmatch(lines) is None:
        raise ValueError("a header field that cannot be sent")
    return lines


def _split(lines: bytes) -> Fields:
    pairs = (line.split(b": ", 1) for line in lines.split(b"\r\n")[:-1])
    return [(name.lower(), value) for name, value in pairs]


def _length(fields: Fields, names: list[bytes]) -> int | None:
    """The stated length of the body, 0 without one; None if it is stated in an unusual way."""
    if b"content-length" not in names:
        return 0
    stated = [value for name, value in fields if name == b"content-length"]
    return int(stated[0]) if len(stated) == 1 and _LENGTH.fullmatch(stated[0]) else None


def _connection(fields: Fields) -> set[bytes]:
    """The options of the connection. A list of several is not split, and is none of those that are looked for."""
    return {value.lower() for name, value in fields if name == b"connection"}
