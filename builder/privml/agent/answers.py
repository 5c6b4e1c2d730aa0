"""A request to this machine and its answer, apart from what carries them.

A connection reads an `Asked` from its bytes, `routes.Routes` answers it, and the connection writes the `Answer`. A
request that cannot be answered ends in `Denied`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

from privml.agent.headers import Headers
from privml.base.errors import PrivmlError
from privml.base.strictjson import canonical
from privml.engines.usage import UsageReader

BODILESS = (204, 304)
"""Statuses of answers that have no body, and so no trailers."""


def _none() -> Headers:
    return []


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Asked:
    """One request: its method, its target, its headers (names in lower case), and how to read its body.

    ``read`` returns the whole body and raises `Denied` when it has more bytes than its argument. It is called at most
    once, and only when the request may be answered: a caller that waits for that sends no byte of it before.
    ``share`` gives a block, within which the connection keeps its place (`admission`); it raises ``OSError`` if the
    place is lost. Whoever answers enters it for as long as the request holds a share.
    ``once`` is called when the request was admitted, before anything is done for it; it raises if the same sealed
    request was admitted before.
    ``channel`` is what protected the request on its way, ``enc_sha256`` the SHA-256 of a sealed request's
    encapsulated key. ``address`` is what limits per address apply to (`base.peers.group`), empty if no connection
    carries the request by itself. ``caller`` is the descriptor of the connection, whose end ends the work for it;
    None if nobody waits.
    """

    method: str
    target: str
    headers: Headers
    read: Callable[[int], bytes]
    channel: Literal["tls", "ohttp", "wrapped"] = "tls"
    enc_sha256: bytes | None = None
    caller: int | None = None
    address: str = ""
    share: Callable[[], AbstractContextManager[None]] = nullcontext
    once: Callable[[], None] = _nothing

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query of the target, without the question mark; empty if there is none."""
        return self.target.partition("?")[2]

    def header(self, name: bytes) -> list[bytes]:
        """The values of one header, in order."""
        return [value for each, value in self.headers if each == name]


@dataclass(frozen=True)
class Answer:
    """The answer to one request: ``pieces`` are the body, given out as they are made.

    ``trailers`` is called after the last piece; it gives the fields that ``announced`` names. ``close`` is called
    exactly once, whether or not all was sent: it gives back what the answer occupies. A piece may end in
    `PrivmlError`: the answer is then incomplete. ``usage`` gives the tokens that the engine reported in what was
    sent so far; None if nobody reads them (`reading_usage`).

    The first piece of an answer that is ``ready`` follows its head at once, and is sent together with it.
    ``last`` is called once after the pieces: its bytes end the body, and are sent together with the message's end.
    """

    status: int
    headers: Headers
    pieces: Iterable[bytes]
    trailers: Callable[[], Headers] = _none
    close: Callable[[], None] = _nothing
    announced: tuple[bytes, ...] = ()
    usage: Callable[[], tuple[int, int] | None] | None = None
    ready: bool = False
    last: Callable[[], bytes] = bytes

    @property
    def content_type(self) -> str:
        """The first content type; empty if there is none."""
        return next((value.decode("latin-1") for name, value in self.headers if name == b"content-type"), "")


class Denied(PrivmlError):
    """End of a request with a status and an error as JSON. ``more`` is added beside the error.

    ``retry_after`` is how many seconds a caller should wait before it asks again; every 429 and 503 has one.
    ``methods`` are those that are allowed; every 405 has them.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        *,
        methods: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.methods = methods
        self.more = more

    def answer(self) -> Answer:
        """The answer that says so."""
        error = {"code": self.code, "message": self.message, "type": "privml"}
        answer = json_answer(self.status, canonical({"error": error, **self.more}) + b"\n")
        if self.retry_after is not None:
            answer.headers.append((b"retry-after", str(self.retry_after).encode()))
        if self.methods:
            answer.headers.append((b"allow", ", ".join(self.methods).encode()))
        return answer


READING = ("GET", "HEAD")


def expect_method(method: str, methods: tuple[str, ...], place: str) -> None:
    """Raise `Denied` with 405 unless ``method`` is one of ``methods``; ``place`` is what expects one of them."""
    if method not in methods:
        expected = " or ".join(each for each in methods if each != "HEAD")
        raise Denied(405, "method", f"{place} expects {expected}", methods=methods)


def reading_usage(answer: Answer) -> tuple[Answer, Callable[[], tuple[int, int] | None]]:
    """``answer`` and its ``usage``, which is read only once however many ask for it."""
    if answer.usage is not None:
        return answer, answer.usage
    reader = UsageReader(answer.content_type)

    def pieces(given: Iterable[bytes]) -> Iterator[bytes]:
        for piece in given:
            yield piece
            reader.add(piece)  # it was sent: whoever sends it asks for the next one only then

    return replace(answer, pieces=pieces(answer.pieces), usage=reader.usage), reader.usage


def json_answer(status: int, *pieces: bytes) -> Answer:
    """An answer of this machine itself: complete JSON."""
    return own_answer(status, b"application/json", *pieces)


def own_answer(status: int, content_type: bytes, *pieces: bytes) -> Answer:
    """An answer of this machine itself, whose body is complete."""
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(sum(map(len, pieces))).encode()),
        (b"cache-control", b"no-store"),
    ]
    return Answer(status, headers, pieces, ready=True)
