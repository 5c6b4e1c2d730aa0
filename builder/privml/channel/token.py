"""Callers' tokens, `privml-token/v1`: an issuer lets a subject use one guest until a time on that guest's own clock.

A guest trusts no clock of its host, so a token names no date. It names the guest's keys section, which is new at each
boot, and a number of seconds since that boot. The guest states its own seconds in a signed record, `privml-clock/v1`.
A token is a bearer's: whoever has it may use it, at that guest and until then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import Fields, b64, canonical, loads, unb64

FORMAT = "privml-token/v1"
PAYLOAD_TYPE = "application/vnd.privml.token+json"
CLOCK_FORMAT = "privml-clock/v1"
CLOCK_TYPE = "application/vnd.privml.clock+json"
CLOCK_PATH = "/.well-known/privml-clock"
MAX_TEXT = 2048
MAX_SECONDS = 1 << 40
SUBJECT = re.compile(r"\A[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?\Z")
_DIGEST_SIZE = 32


@dataclass(frozen=True)
class Token:
    """A token's claims: the guest by its keys section, who, and until when, in seconds since that boot."""

    keys_sha256: bytes
    subject: str
    until: int

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
        }
        return canonical(fields)

    def sign(self, sign: Callable[[bytes], bytes]) -> str:
        """The token as text, for an `Authorization: Bearer` header."""
        return b64(_sealed(PAYLOAD_TYPE, self.encode(), sign))


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
        return _sealed(CLOCK_TYPE, self.encode(), sign)


def read_token(text: str, issuer: bytes) -> Token:
    """The claims of a token; ``Refused`` unless the ``issuer`` (an Ed25519 public key) signed it."""
    if len(text) > MAX_TEXT:
        raise EvidenceError(f"token: {len(text)} characters, expected at most {MAX_TEXT}")
    payload = _payload(unb64(text, what="token", limit=MAX_TEXT), PAYLOAD_TYPE, issuer, what="token", by="the issuer")
    return _claims(payload)


def guest_of(text: str) -> bytes:
    """The keys section (its SHA-256) that a token is for, as the token itself says: for choosing among several.

    ``EvidenceError`` if the text is not a token. Its signature is not checked.
    """
    if len(text) > MAX_TEXT:
        raise EvidenceError(f"token: {len(text)} characters, expected at most {MAX_TEXT}")
    envelope = dsse.decode(unb64(text, what="token", limit=MAX_TEXT), what="token")
    return _claims(envelope.payload).keys_sha256


def read_clock(data: bytes, *, receipt_key: bytes, keys_sha256: bytes) -> Clock:
    """The clock record of the guest with these keys; ``Refused`` for another's."""
    if len(data) > MAX_TEXT:
        raise EvidenceError(f"clock: {len(data)} bytes, expected at most {MAX_TEXT}")
    payload = _payload(data, CLOCK_TYPE, receipt_key, what="clock", by="the attested receipt key")
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
    )
    fields.end()
    return found


def _sealed(payload_type: str, payload: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    signature = dsse.Signature(sign(dsse.pae(payload_type, payload)))
    return dsse.Envelope(payload_type, payload, (signature,)).encode()


def _payload(data: bytes, payload_type: str, key: bytes, *, what: str, by: str) -> bytes:
    """The payload of an envelope with one signature, by ``key``."""
    envelope = dsse.decode(data, what=what)
    if envelope.payload_type != payload_type or len(envelope.signatures) != 1 or envelope.signatures[0].keyid:
        raise EvidenceError(f"{what}: expected type {payload_type} and one signature without keyid")
    if envelope.encode() != data:
        raise EvidenceError(f"{what}: not canonical JSON")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(envelope.signatures[0].sig, envelope.signed)
    except (InvalidSignature, ValueError):
        raise Refused(f"{what}: not signed by {by}") from None
    return envelope.payload
