"""Upload objects to a pool at an address: a repository of an OCI registry, or a server that takes files by PUT.

What is there already is not sent. A registry gets each blob in one piece (distribution specification 1.1, "Pushing
blobs"); when the connection breaks, it is asked how much it has, and gets the rest. Logins are those of this host.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from privml.base.errors import EvidenceError, HostError, UsageError, printable
from privml.base.files import CHUNK
from privml.base.http import Connections, base_address
from privml.base.steps import progress
from privml.base.strictjson import loads
from privml.base.wayout import host_way_out
from privml.store import registry
from privml.store.mirrors import configured_addresses
from privml.store.pools import OCI_REGISTRY, Pool
from privml.store.registry import TokenError, Tokens

ATTEMPTS = 5
TIMEOUT = 120.0
"""Seconds for each wait for the server, which may hash a large file before it answers."""
_ANSWER = 64 * 1024
_LONGEST_WAIT = 8.0
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,15})")
_TEMPORARY = (408, 416, 425, 429, 500, 502, 503, 504)
_LOGIN = "log in to the registry on this host, as with `podman login` or `docker login`, with a right to write"
_PASSWORD = "put the login into /etc/apt/auth.conf.d (machine https://HOST/PATH login NAME password WORD)"  # noqa: S105
_TAKES_PUT = (
    "the server must take files by PUT, and make folders by itself (nginx: dav_methods PUT, create_full_put_path); "
    "else fill a directory and copy it there"
)


@dataclass(frozen=True)
class Piece:
    """An object to upload: its SHA-256 (hex), size and name for messages; ``open`` gives its bytes, checked."""

    sha256: str
    size: int
    name: str
    open: Callable[[], BinaryIO]


class _Broken(Exception):
    """It failed for now: what was sent may be continued, or sent again."""


class _Denied(Exception):
    """Trying again is pointless; ``hint`` says what to do."""

    def __init__(self, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.hint = hint


def target(text: str) -> Pool:
    """The pool to fill at an address; ``UsageError`` for none, or for plain HTTP to another machine."""
    if text.partition("://")[0].lower() == registry.SCHEME:
        return Pool(registry.address(text, "the pool"), OCI_REGISTRY)
    base = base_address(text, "pool")
    parts = urllib.parse.urlsplit(base)
    if parts.scheme == "http" and parts.hostname not in registry.LOCAL:
        raise UsageError(f"`{printable(text)[:80]}` is plain HTTP, expected https:// for an upload")
    return Pool(base)


def upload(
    pool: Pool, pieces: Iterable[Piece], *, attempts: int = ATTEMPTS, sleep: Callable[[float], object] = time.sleep
) -> tuple[int, int]:
    """Send what ``pool`` does not have; returns the number and size of what was sent.

    ``HostError`` names the object and what the server answered. What was sent before stays there.
    """
    wanted = {piece.sha256: piece for piece in pieces}
    sent = size = 0
    meter = _Meter(len(wanted), sum(piece.size for piece in wanted.values()))
    with _sender(pool) as sender:
        for piece in wanted.values():
            with _named(f"{piece.name} (sha256:{piece.sha256})", pool):
                if _put(sender, piece, meter, attempts, sleep):
                    sent, size = sent + 1, size + piece.size
    meter.show(final=True)
    return sent, size


def tag(pool: Pool, name: str, kind: str, digest: str, data: bytes) -> None:
    """Store an OCI manifest in a registry under a tag, so that the registry keeps its blobs.

    ``digest`` is that of ``data``, as ``sha256:HEX``. ``HostError`` if the tag is of another manifest, or refused.
    """
    url = f"{pool.place}/manifests/{name}"
    with _sender(pool) as sender, _named(f"manifest `{name}`", pool):
        if not isinstance(sender, _Registry):
            raise _Denied("it is not a registry")
        try:
            answer = sender.send("HEAD", url, {"Accept": kind})
            known = answer.headers.get("Docker-Content-Digest")
            if answer.status == 200 and known == digest:
                return
            if answer.status == 200 and known is not None:
                raise _Denied(f"the tag is {printable(known)[:80]}, expected {digest}", "remove that tag first")
            headers = {"Content-Type": kind, "Content-Length": str(len(data))}
            sender.send("PUT", url, headers, data).expect(201)
        except _Broken as error:
            raise _Denied(str(error)) from error


@contextlib.contextmanager
def _named(what: str, pool: Pool) -> Iterator[None]:
    try:
        yield
    except _Denied as error:
        raise HostError(f"{what} could not be uploaded to {pool.place}: {error}", hint=error.hint) from error


@contextlib.contextmanager
def _sender(pool: Pool) -> Iterator[_Registry | _Static]:
    with Connections(host_way_out(configured_addresses()), TIMEOUT) as connections:
        yield (_Registry if pool.layout.tokens else _Static)(pool, connections)


def _put(
    sender: _Registry | _Static, piece: Piece, meter: _Meter, attempts: int, sleep: Callable[[float], object]
) -> bool:
    """Send a piece unless it is there; False if it was. `_Denied` with the last failure after so many attempts."""
    said = ""
    for attempt in range(attempts):
        if attempt:
            sleep(min(_LONGEST_WAIT, 0.25 * 2 ** (attempt - 1)))
        try:
            if sender.has(piece):
                meter.finished(piece)
                return attempt > 0  # an answer may be lost, and what it answered done
            with piece.open() as file:
                sender.put(piece, file, meter)
        except _Broken as error:
            said = str(error)
        else:
            meter.finished(piece)
            return True
    raise _Denied(f"{said} ({attempts} attempts)")


@dataclass(frozen=True)
class _Answer:
    """Status, headers and the begin of the body of an answer to ``request``."""

    request: str
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    hint: str

    def expect(self, *statuses: int) -> _Answer:
        """This answer if it has one of these statuses, else `_Broken` or `_Denied`."""
        if self.status in statuses:
            return self
        said = f"{self.request}: HTTP {self.status}{self._reason()}, expected {' or '.join(map(str, statuses))}"
        if self.status in _TEMPORARY:
            raise _Broken(said)
        raise _Denied(said, self.hint if self.status in (401, 403, 404, 405, 409, 501) else None)

    def _reason(self) -> str:
        """What a registry says of an error, one line of it."""
        try:
            found: Any = loads(self.body, what="answer", limit=_ANSWER)
            first = found["errors"][0]
            return f" ({printable(str(first['code']))[:40]}: {printable(str(first['message']))[:120]})"
        except (EvidenceError, LookupError, TypeError):
            return ""


class _Static:
    """A server whose files are written by PUT."""

    _hint = _TAKES_PUT

    def __init__(self, pool: Pool, connections: Connections) -> None:
        self._pool = pool
        self._connections = connections

    def has(self, piece: Piece) -> bool:
        """True if a file of this name and size is there. Whoever fetches it compares its digest."""
        answer = self.send("HEAD", self._url(piece))
        length = answer.headers.get("Content-Length")
        return answer.status == 200 and (length is None or length == str(piece.size))

    def put(self, piece: Piece, file: BinaryIO, meter: _Meter) -> None:
        """Send the file."""
        self.send("PUT", self._url(piece), _of_size(piece.size), _Read(file, piece.size, meter)).expect(200, 201, 204)

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: _Read | bytes | None = None
    ) -> _Answer:
        """The answer to a request; `_Broken` if there is none."""
        path = urllib.parse.urlsplit(url).path
        try:
            with self._sent(method, url, headers or {}, body) as response:
                begin = response.read(_ANSWER)
                if body is not None or not response.isclosed():
                    self._connections.drop(url)
        except TokenError as error:
            raise _Denied(f"{method} {path}: {error}", self._hint) from error
        except (OSError, http.client.HTTPException) as error:
            self._connections.drop(url)
            raise _Broken(f"{method} {path}: {printable(str(error)) or type(error).__name__}") from error
        hint = _PASSWORD if response.status in (401, 403) and self._hint is _TAKES_PUT else self._hint
        return _Answer(f"{method} {path}", response.status, response.headers, begin, hint)

    def _sent(
        self, method: str, url: str, headers: dict[str, str], body: _Read | bytes | None
    ) -> http.client.HTTPResponse:
        return self._connections.send(method, url, headers, _body(body))

    def _url(self, piece: Piece) -> str:
        return self._pool.url(piece.sha256) or _never()


class _Registry(_Static):
    """A repository of a registry."""

    _hint = _LOGIN

    def __init__(self, pool: Pool, connections: Connections) -> None:
        super().__init__(pool, connections)
        self._home = str(pool.place)
        self._tokens = Tokens(push=True)
        self._begun: tuple[str, str] | None = None

    def has(self, piece: Piece) -> bool:
        """True if the blob is there. Some registries redirect to where it is."""
        answer = self.send("HEAD", self._url(piece))
        if answer.status == 200 and answer.headers.get("Content-Length", str(piece.size)) != str(piece.size):
            raise _Denied(f"it has {printable(answer.headers['Content-Length'])[:20]} bytes, expected {piece.size}")
        if answer.status in _TEMPORARY:
            answer.expect(200)
        return answer.status in (200, 301, 302, 303, 307, 308)

    def put(self, piece: Piece, file: BinaryIO, meter: _Meter) -> None:
        """Send the blob, or the rest of it if a part of it was sent before and the registry has kept that."""
        try:
            self._put(piece, file, meter)
        except _Denied:
            self._begun = None
            raise

    def _put(self, piece: Piece, file: BinaryIO, meter: _Meter) -> None:
        place, have = self._continued(piece)
        file.seek(have)
        rest = piece.size - have
        if have and rest:
            # The rest of what was begun is a chunk of its own.
            headers = {**_of_size(rest), "Content-Range": f"{have}-{piece.size - 1}"}
            answer = self.send("PATCH", place, headers, _Read(file, rest, meter)).expect(202, 204)
            place, rest = self._location(place, answer), 0
        joint = "&" if urllib.parse.urlsplit(place).query else "?"
        url = f"{place}{joint}digest=sha256:{piece.sha256}"
        self.send("PUT", url, _of_size(rest), _Read(file, rest, meter)).expect(201, 204)
        self._begun = None

    def _continued(self, piece: Piece) -> tuple[str, int]:
        """Where to send the blob to, and how much of it is there; a new upload if none was begun that goes on."""
        if self._begun is not None and self._begun[0] == piece.sha256:
            place, self._begun = self._begun[1], None
            answer = self.send("GET", place)
            match = _RANGE.fullmatch(answer.headers.get("Range", ""))
            if answer.status == 204 and match is not None and 0 < int(match[1]) < piece.size:
                place = self._location(place, answer)
                self._begun = (piece.sha256, place)
                return place, int(match[1]) + 1
        url = f"{self._home}/blobs/uploads/"
        place = self._location(url, self.send("POST", url, _of_size(0)).expect(202))
        self._begun = (piece.sha256, place)
        return place, 0

    def _location(self, url: str, answer: _Answer) -> str:
        """The address to go on with. It may be of another server, which gets no login."""
        given = answer.headers.get("Location", "")
        try:
            parts = urllib.parse.urlsplit(urllib.parse.urljoin(url, given))
            good = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in registry.LOCAL)
        except ValueError:
            parts, good = urllib.parse.urlsplit(""), False
        if not given or not good or "@" in parts.netloc:
            raise _Denied(f"{answer.request}: it names no place for the upload, expected an https address")
        return urllib.parse.urlunsplit(parts._replace(fragment=""))

    def _sent(
        self, method: str, url: str, headers: dict[str, str], body: _Read | bytes | None
    ) -> http.client.HTTPResponse:
        make = None if body is None else lambda: _body(body) or _never()
        return self._tokens.send(self._connections, self._home, (method, url), headers, make)


def _of_size(size: int) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Content-Length": str(size)}


class _Read:
    """The bytes of a file from where it stands, counted while they are sent; read again from there if need be."""

    def __init__(self, file: BinaryIO, size: int, meter: _Meter) -> None:
        self._file = file
        self._start = file.tell()
        self._size = size
        self._left = size
        self._meter = meter

    def begin(self) -> _Read:
        """This, from its start."""
        self._file.seek(self._start)
        self._meter.at(self._start)
        self._left = self._size
        return self

    def read(self, _: int = -1, /) -> bytes:
        """The next bytes; ``OSError`` if the file ends early."""
        block = self._file.read(min(CHUNK, self._left))
        if not block and self._left:
            raise OSError(f"the file ended {self._left} bytes early")
        self._left -= len(block)
        self._meter.add(len(block))
        return block


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, _: int = -1, /) -> bytes:
        data, self._data = self._data, b""
        return data


def _body(body: _Read | bytes | None) -> _Read | _Bytes | None:
    return body.begin() if isinstance(body, _Read) else None if body is None else _Bytes(body)


def _never() -> NoReturn:
    raise AssertionError("a pool at an address has addresses")


class _Meter:
    """Shows how much was sent."""

    def __init__(self, pieces: int, size: int) -> None:
        self._pieces = pieces
        self._size = size
        self._done = self._before = self._now = 0

    def at(self, have: int) -> None:
        """So much of the current piece is there."""
        self._now = have

    def add(self, count: int) -> None:
        self._now += count
        self.show()

    def finished(self, piece: Piece) -> None:
        self._done, self._before, self._now = self._done + 1, self._before + piece.size, 0
        self.show()

    def show(self, *, final: bool = False) -> None:
        mib = 1 << 20
        done = (self._before + self._now) / mib
        progress(f"uploaded {self._done}/{self._pieces} files, {done:.1f} of {self._size / mib:.1f} MiB", final=final)
