"""Callers' tokens, `privml-token/v1`: an issuer lets a subject use one guest until a time on that guest's own clock.

A guest trusts no clock of its host, so a token names no date. It names the guest's keys section, which is new at each
boot, and a number of seconds since that boot. The guest states its own seconds in a signed record, `privml-clock/v1`.
A token is a bearer's: whoever has it may use it, at that guest and until then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import Fields, b64, canonical, loads, unb64
from privml.channel.signed import payload_of, seal

FORMAT = "privml-token/v1"
PAYLOAD_TYPE = "application/vnd.privml.token+json"
CLOCK_FORMAT = "privml-clock/v1"
CLOCK_TYPE = "application/vnd.privml.clock+json"
CLOCK_PATH = "/.well-known/privml-clock"
INFERENCE, USAGE = "inference", "usage"
USES = (INFERENCE, USAGE)
MAX_TEXT = 2048
MAX_SECONDS = 1 << 40
SUBJECT = re.compile(r"\A[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?\Z")
_DIGEST_SIZE = 32


@dataclass(frozen=True)
class Token:
    """A token's claims: the guest by its keys section, who, until when in seconds since that boot, and what for.

    ``use`` is `INFERENCE`, for requests to engine and services, or `USAGE`, for reading what all subjects used.
    """

    keys_sha256: bytes
    subject: str
    until: int
    use: str = INFERENCE

    def __post_init__(self) -> None:
        if not SUBJECT.match(self.subject):
            raise EvidenceError(
                f"token: subject `{self.subject[:64]}`, expected 1 to 64 letters, digits, `.`, `_` or `-`"
            )

    def encode(self) -> bytes:
        """The bytes that are signed."""
        fields = {
            "format": FORMAT,
            "keys_sha256": self.keys_sha256.hex(),
            "subject": self.subject,
            "until": self.until,
            "use": self.use,
        }
        return canonical(fields)

    def sign(self, sign: Callable[[bytes], bytes]) -> str:
        """The token as text, for an `Authorization: Bearer` header."""
        return b64(seal(PAYLOAD_TYPE, self.encode(), sign))


@dataclass(frozen=True)
class Clock:
    """What a guest says of its clock: whole seconds since its boot, which nothing sets back."""

    keys_sha256: bytes
    boot_seconds: int

    def encode(self) -> bytes:
        """The bytes that are signed."""
        return canonical(
            {"format": CLOCK_FORMAT, "keys_sha256": self.keys_sha256.hex(), "boot_seconds": self.boot_seconds}
        )

    def sign(self, sign: Callable[[bytes], bytes]) -> bytes:
        """The record in a DSSE envelope, signed by the guest's receipt key."""
        return seal(CLOCK_TYPE, self.encode(), sign)


def read_token(text: str, issuer: bytes) -> Token:
    """The claims of a token; ``Refused`` unless the ``issuer`` (an Ed25519 public key) signed it."""
    data = unb64(text, what="token", limit=MAX_TEXT)
    by = "key of the issuer"
    return _claims(payload_of(data, PAYLOAD_TYPE, key=issuer, limit=MAX_TEXT, what="token", by=by))


def guest_of(text: str) -> bytes:
    """The keys section (its SHA-256) that a token is for, as the token itself says: for choosing among several.

    ``EvidenceError`` if the text is not a token. Its signature is not checked.
    """
    envelope = dsse.decode(unb64(text, what="token", limit=MAX_TEXT), what="token")
    return _claims(envelope.payload).keys_sha256


def read_clock(data: bytes, *, receipt_key: bytes, keys_sha256: bytes) -> Clock:
    """The clock record of the guest with these keys; ``Refused`` for another's."""
    payload = payload_of(data, CLOCK_TYPE, key=receipt_key, limit=MAX_TEXT, what="clock", by="receipt key")
    fields = Fields(loads(payload, what="clock", limit=MAX_TEXT), "clock")
    fields.text("format", one_of=(CLOCK_FORMAT,))
    found = Clock(
        fields.hexadecimal("keys_sha256", _DIGEST_SIZE), fields.integer("boot_seconds", low=0, high=MAX_SECONDS)
    )
    fields.end()
    if found.keys_sha256 != keys_sha256:
        raise Refused(f"clock: of keys section {found.keys_sha256.hex()[:16]}, expected {keys_sha256.hex()[:16]}")
    return found


def _claims(payload: bytes) -> Token:
    fields = Fields(loads(payload, what="token", limit=MAX_TEXT), "token")
    fields.text("format", one_of=(FORMAT,))
    found = Token(
        fields.hexadecimal("keys_sha256", _DIGEST_SIZE),
        fields.text("subject", limit=64),
        fields.integer("until", low=0, high=MAX_SECONDS),
        fields.text("use", one_of=USES),
    )
    fields.end()
    return found
