"""Control data and fields of Binary HTTP messages: what is accepted in them.

Everything is printable ASCII and bounded. What would change the meaning of a message between two readers is refused:
fields of a connection, a length that is not that of the content, several lengths, names in upper case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.channel.varint import Cursor, Short, prefixed

Fields = tuple[tuple[str, str], ...]
"""Names in lower case and values, in order; names may repeat."""

_MAX_NAME = 128
_NAME = re.compile(r"\A[!#$%&'*+.^_`|~0-9a-z-]{1,128}\Z")
_VALUE = re.compile(r"\A(?:[!-~](?:[!-~ \t]*[!-~])?)?\Z")
_METHOD = re.compile(r"\A[!#$%&'*+.^_`|~0-9A-Za-z-]{1,16}\Z")
_SCHEME = re.compile(r"\A[a-z][a-z0-9+.-]{0,15}\Z")
_AUTHORITY = re.compile(r"\A[A-Za-z0-9._~:\[\]-]{0,255}\Z")
_PATH = re.compile(r"\A/[!-~]{0,8191}\Z")
_LENGTH = re.compile(r"\A(?:0|[1-9][0-9]{0,15})\Z")
_CONNECTION = ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")


@dataclass(frozen=True)
class Limits:
    """Bounds of one message, in bytes unless they count."""

    head: int = 64 * 1024
    """Control data and header fields; the same for trailer fields."""
    fields: int = 128
    """How many fields in each of the two sections."""
    content: int = 16 * 1024 * 1024
    pieces: int = 64 * 1024
    """How many pieces content of indeterminate length comes in."""
    padding: int = 64 * 1024


LIMITS = Limits()
"""Of a message that is held as a whole."""
STREAM_LIMITS = Limits(content=2**32, pieces=2**24)
"""Of a response that is passed on as it arrives."""


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{what}: byte {data[error.start]:#04x}, expected ASCII") from error


def checked_field(name: str, value: str, what: str) -> tuple[str, str]:
    """The field; ``EvidenceError`` if it may not be in a message."""
    if not _NAME.match(name):
        raise EvidenceError(f"{what}: field name `{name[:40]}`, expected a token in lower case")
    if name in _CONNECTION:
        raise EvidenceError(f"{what}: field `{name}` belongs to a connection, expected none of those")
    if not _VALUE.match(value):
        raise EvidenceError(f"{what}: value of `{name}`, expected printable ASCII without space around it")
    return name, value


@dataclass(frozen=True)
class RequestLine:
    """A request's control data."""

    method: str
    scheme: str
    authority: str
    path: str

    def __post_init__(self) -> None:
        for name, pattern in (("method", _METHOD), ("scheme", _SCHEME), ("authority", _AUTHORITY), ("path", _PATH)):
            if not pattern.match(getattr(self, name)):
                raise EvidenceError(f"request: {name} `{getattr(self, name)[:40]}` is not one")
        if self.method == "CONNECT" or "#" in self.path:
            raise EvidenceError(f"request: {self.method} `{self.path[:40]}`, expected a path without a fragment")

    def encode(self) -> bytes:
        """The control data's bytes."""
        return b"".join(prefixed(part.encode()) for part in (self.method, self.scheme, self.authority, self.path))

    @classmethod
    def read(cls, cursor: Cursor) -> RequestLine:
        """Read control data."""
        limits = (("method", 16), ("scheme", 16), ("authority", 255), ("path", 8192))
        return cls(*(_text(cursor.prefixed(limit, name), name) for name, limit in limits))


def checked_status(status: int) -> int:
    """The status; ``EvidenceError`` unless it ends a response."""
    if not 200 <= status <= 599:
        raise EvidenceError(f"response: status {status}, expected 200 to 599")
    return status


def encode_fields(fields: Fields) -> bytes:
    """Field lines, without length or end."""
    lines = []
    for name, value in fields:
        checked_field(name, value, "fields")
        lines.append(prefixed(name.encode()) + prefixed(value.encode()))
    return b"".join(lines)


def read_fields(cursor: Cursor, limits: Limits, *, known: bool, what: str) -> Fields:
    """Read a field section: after its length where that is ``known``, up to an empty name where it is not."""
    inside = Cursor(cursor.prefixed(limits.head, what), what) if known else cursor
    found: list[tuple[str, str]] = []
    while inside.left if known else True:
        try:
            name = _text(inside.prefixed(_MAX_NAME, "field name"), what)
            if not name and not known:
                break
            value = _text(inside.prefixed(limits.head, "field value"), what)
        except Short as error:
            if not known:
                raise
            raise EvidenceError(error.message) from error  # the section is whole: more data does not help
        found.append(checked_field(name, value, what))
        if len(found) > limits.fields:
            raise EvidenceError(f"{what}: more than {limits.fields} fields")
    return tuple(found)


def stated_length(fields: Fields) -> int | None:
    """The value of ``content-length``, None if there is none."""
    values = [value for name, value in fields if name == "content-length"]
    if not values:
        return None
    if len(values) > 1 or not _LENGTH.match(values[0]):
        raise EvidenceError(f"content-length: `{', '.join(values)[:40]}`, expected one number")
    return int(values[0])


def check_host(line: RequestLine, fields: Fields) -> None:
    """``EvidenceError`` if a ``host`` field differs from the authority or is given twice."""
    hosts = [value for name, value in fields if name == "host"]
    if len(hosts) > 1 or (hosts and line.authority not in ("", hosts[0])):
        raise EvidenceError(f"host: `{', '.join(hosts)[:40]}`, expected the authority `{line.authority}`")
