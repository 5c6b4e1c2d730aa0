"""A request to this machine and its answer, apart from what carries them.

A connection reads an `Asked` from its bytes, `routes.Routes` answers it, and the connection writes the `Answer`. A
request that cannot be answered ends in `Denied`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from privml.agent.headers import Headers
from privml.base.errors import PrivmlError
from privml.base.strictjson import canonical


def _none() -> Headers:
    return []


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Asked:
    """One request: its method, its target, its headers (names in lower case), and how to read its body.

    ``read`` returns the whole body and raises `Denied` when it has more bytes than its argument. It is called at most
    once, and only when the request may be answered: a caller that waits for that sends no byte of it before.
    ``channel`` is what protected the request on its way, ``enc_sha256`` the SHA-256 of a sealed request's
    encapsulated key.
    """

    method: str
    target: str
    headers: Headers
    read: Callable[[int], bytes]
    channel: Literal["tls", "ohttp", "wrapped"] = "tls"
    enc_sha256: bytes | None = None

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query of the target, without the question mark; empty if there is none."""
        return self.target.partition("?")[2]


@dataclass(frozen=True)
class Answer:
    """The answer to one request: ``pieces`` are the body, given out as they are made.

    ``trailers`` is called after the last piece. ``close`` is called exactly once, whether or not all was sent: it
    gives back what the answer occupies. A piece may end in `PrivmlError`: the answer is then incomplete.
    """

    status: int
    headers: Headers
    pieces: Iterable[bytes]
    trailers: Callable[[], Headers] = _none
    close: Callable[[], None] = _nothing


class Denied(PrivmlError):
    """End of a request with a status and an error as JSON. ``more`` is added beside the error."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.more = more

    def answer(self) -> Answer:
        """The answer that says so."""
        error = {"code": self.code, "message": self.message, "type": "privml"}
        return json_answer(self.status, canonical({"error": error, **self.more}) + b"\n")


def json_answer(status: int, body: bytes) -> Answer:
    """An answer of this machine itself."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    return Answer(status, headers, (body,))
