"""A request to a judged guest and the guest's answer, apart from the way between them.

`client.guests.Guests.send` chooses a guest and hands the request to that guest's `Way`. What wraps requests and
answers (receipts) needs this module only. The names are those of the guest's side (`agent.answers`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from privml.base.errors import HostError
from privml.client.connection import Endpoint
from privml.client.gate import Decision

Header = tuple[bytes, bytes]
Headers = tuple[Header, ...]
"""Names in lower case."""


class Unsent(HostError):
    """The request was surely not processed: it may be sent again, also to another guest."""


@dataclass(frozen=True)
class Asked:
    """One request with its whole body. The way adds what its protocol needs (``host``, ``content-length``)."""

    method: str
    target: str
    headers: Headers = ()
    body: bytes = b""

    def adding(self, *headers: Header) -> Asked:
        """The same request with more headers."""
        return replace(self, headers=(*self.headers, *headers))


@dataclass(frozen=True)
class Judged:
    """An address, and the open decision about the guest there that permits a request."""

    where: Endpoint
    decision: Decision


def _no_headers() -> Headers:
    return ()


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Answer:
    """The answer to one request; ``judged`` is the guest that gave it.

    ``pieces`` gives the body out as it arrives, all that is ready at once, and raises ``HostError`` if the answer
    ends before it is whole. ``trailers()`` is complete after the last piece. ``close()`` must be called at the end,
    also twice: it ends the work of a guest whose answer nobody waits for any more.
    """

    judged: Judged
    status: int
    headers: Headers
    pieces: AsyncIterator[bytes]
    trailers: Callable[[], Headers] = _no_headers
    close: Callable[[], None] = _nothing

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; None if there is none."""
        return next((value for key, value in self.headers if key == name), None)


class Way(Protocol):
    """How requests reach one guest. Used on one event loop."""

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        """Send ``asked`` to the guest that was ``judged``, and to nobody else; the head of its answer has arrived.

        ``Refused`` if the guest has other keys now (no byte of the request was sent), `Unsent` if the request was
        surely not processed, ``HostError`` for every other failure.
        """
        ...

    def settled(self, decision: Decision) -> None:
        """Take note of the decision now in force: nothing that another one permitted may be used again."""
        ...

    def close(self) -> None:
        """Close what is kept."""
        ...
