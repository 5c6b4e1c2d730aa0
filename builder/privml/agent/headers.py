"""Which headers pass between a caller and the engine or a service, in each direction."""

from __future__ import annotations

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_FORWARDED = frozenset((b"content-type", b"accept"))
_OWN = b"privml-"
"""The beginning of the names of headers that only this agent sets."""
_NOT_RETURNED = _HOP_BY_HOP | {b"server", b"date", b"set-cookie"}


def forwarded(headers: Headers) -> Headers:
    """The caller's headers that the engine or a service gets.

    Engines act on others: with ``X-Conversation-Id`` one keeps an answer for later, continues after the caller has
    left, and stops another answer under the same id.
    """
    shown = _FORWARDED - _named_by_connection(headers)
    return [(name, value) for name, value in headers if name in shown]


def returned(headers: Headers) -> Headers:
    """The headers of an answer that the caller gets."""
    dropped = _NOT_RETURNED | _named_by_connection(headers)
    return [(name, value) for name, value in headers if name not in dropped and not name.startswith(_OWN)]


def _named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Names of the hop-by-hop headers that the Connection header lists."""
    return {
        word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")
    }
