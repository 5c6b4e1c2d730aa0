"""DSSE envelopes: the signed bytes, and the encoding of payload and signatures.

DSSE v1.0.2 (github.com/secure-systems-lab/dsse, protocol.md and envelope.md). There is no cryptography here: the
caller verifies signatures over ``Envelope.signed``. Parse the payload only after its signature was verified.

This reader is stricter than the specification, so that an envelope has only one encoding: base64 is standard, padded
and canonical, and unknown members are refused, because no signature covers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, b64, canonical, loads

IN_TOTO = "application/vnd.in-toto+json"
"""The payload type of in-toto Statements."""
MAX_SIGNATURES = 64
MAX_SIGNATURE = 16 * 1024
_MAX_TYPE = 256
_MAX_KEYID = 256


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes to sign."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True)
class Signature:
    """One signature. ``keyid`` is an unauthenticated hint, or empty."""

    sig: bytes
    keyid: str = ""

    def to_dict(self) -> dict[str, str]:
        """The JSON object; an empty ``keyid`` is left out."""
        return {**({"keyid": self.keyid} if self.keyid else {}), "sig": b64(self.sig)}


@dataclass(frozen=True)
class Envelope:
    """A payload, its type, and signatures over both."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def signed(self) -> bytes:
        """The bytes covered by each signature."""
        return pae(self.payload_type, self.payload)

    def encode(self) -> bytes:
        """The envelope as canonical JSON."""
        return canonical(
            {
                "payload": b64(self.payload),
                "payloadType": self.payload_type,
                "signatures": [one.to_dict() for one in self.signatures],
            }
        )


def decode(data: bytes, *, what: str = "envelope") -> Envelope:
    """Parse an envelope strictly; ``EvidenceError`` names the malformed member. Signatures are not verified."""
    return from_value(loads(data, what=what), what)


def from_value(value: Any, what: str) -> Envelope:
    """The envelope in a decoded JSON value, read as strictly as by ``decode``."""
    fields = Fields(value, what)
    payload = fields.base64("payload")
    payload_type = fields.text("payloadType", limit=_MAX_TYPE)
    signatures = fields.array("signatures", limit=MAX_SIGNATURES)
    fields.end()
    if not payload_type:
        raise EvidenceError(f"{what}.payloadType: empty, expected the type of the payload")
    if not signatures:
        raise EvidenceError(f"{what}.signatures: no items, expected 1 to {MAX_SIGNATURES}")
    return Envelope(
        payload_type, payload, tuple(_signature(one, f"{what}.signatures[{n}]") for n, one in enumerate(signatures))
    )


def _signature(value: Any, path: str) -> Signature:
    fields = Fields(value, path)
    keyid = fields.text("keyid", limit=_MAX_KEYID) if fields.has("keyid") else ""
    sig = fields.base64("sig", limit=MAX_SIGNATURE)
    fields.end()
    return Signature(sig, keyid)
