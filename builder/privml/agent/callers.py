"""Who may use the engine and the services, as the measured configuration says.

``open``: whoever connects. ``outer``: whoever a TLS terminator in front admits; it sees who and how much, and never
what, because only sealed requests are answered. ``tokens``: whoever has a token of the issuer, in `Authorization:
Bearer`, inside the sealed channel if there is one. Attestation, health and stages are for everybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from privml.agent.answers import Asked, Denied
from privml.base.errors import EvidenceError, Refused
from privml.channel.token import INFERENCE, Clock, Token, read_token
from privml.channel.usage import Line, Usage
from privml.events.configuration import OUTER, Config

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SCHEME = "bearer "


def boot_seconds() -> int:
    """Whole seconds since the machine started, also those in which it was suspended."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


class Callers:
    """Admits requests. ``keys_sha256`` is of this boot's keys section, ``key`` signs what it says of its clock."""

    def __init__(
        self,
        config: Config,
        key: Ed25519PrivateKey,
        keys_sha256: bytes,
        clock: Callable[[], int] = boot_seconds,
    ) -> None:
        self._sealed_only = config.callers == OUTER
        self._issuer = config.issuer
        self._key = key
        self._keys_sha256 = keys_sha256
        self._now = clock

    @property
    def issues(self) -> bool:
        """Whether there is an issuer of tokens, who needs to know this machine's clock."""
        return self._issuer is not None

    def clock(self) -> bytes:
        """The signed statement of this machine's clock."""
        return Clock(self._keys_sha256, self._now()).sign(self._key.sign)

    def usage(self, first: int, following: int, lines: tuple[Line, ...]) -> bytes:
        """A signed record of usage lines."""
        return Usage(self._keys_sha256, self._now(), first, following, lines).sign(self._key.sign)

    def admit(self, asked: Asked, use: str = INFERENCE) -> str:
        """The subject that a request is for, empty without tokens; `Denied` if it may not be answered."""
        if self._sealed_only and asked.channel == "tls":
            text = "this machine answers sealed requests only: open ones can be read in front of it"
            raise Denied(403, "sealed-only", text)
        if self._issuer is None:
            return ""
        token = self._token(asked, self._issuer)
        if token.keys_sha256 != self._keys_sha256:
            raise Denied(401, "token-guest", "the token is for another boot of this or another machine")
        if self._now() > token.until:
            raise Denied(401, "token-expired", "the token has expired")
        if token.use != use:
            raise Denied(401, "token-use", f"the token is for {token.use}, expected one for {use}")
        return token.subject

    def _token(self, asked: Asked, issuer: bytes) -> Token:
        values = [value.decode("latin-1") for name, value in asked.headers if name == b"authorization"]
        if len(values) != 1 or not values[0].lower().startswith(_SCHEME):
            text = "this machine expects one `Authorization: Bearer` header with a token of its issuer"
            raise Denied(401, "token-missing", text)
        try:
            return read_token(values[0][len(_SCHEME) :], issuer)
        except Refused as refused:
            raise Denied(401, "token-signature", refused.message) from refused
        except EvidenceError as error:
            raise Denied(401, "token-malformed", "the token is not one of format privml-token/v1") from error
