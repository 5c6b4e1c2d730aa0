"""Records that one attested Ed25519 key signs: canonical JSON in a DSSE envelope with one signature.

A signature covers the record's type, so a record of one kind is never taken for another.
"""

from __future__ import annotations

from collections.abc import Callable

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused


def seal(payload_type: str, payload: bytes, sign: Callable[[bytes], bytes], *, keyid: str = "") -> bytes:
    """The envelope of ``payload`` as canonical JSON; ``sign`` makes the Ed25519 signature of the bytes it gets."""
    signature = dsse.Signature(sign(dsse.pae(payload_type, payload)), keyid)
    return dsse.Envelope(payload_type, payload, (signature,)).encode()


def payload_of(
    data: bytes, payload_type: str, *, key: bytes, keyid: str = "", limit: int, what: str, by: str
) -> bytes:
    """The payload of an envelope; ``Refused`` unless the Ed25519 public ``key`` (named ``by`` in messages) signed it.

    ``EvidenceError`` above ``limit`` bytes, and for another type, several signatures, or another encoding of the same
    envelope. Without ``keyid`` the signature must have none. The payload is not parsed.
    """
    # Loaded here: the room `verify` names these records, and can be imported with the standard library alone.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(data) > limit:
        raise EvidenceError(f"{what}: {len(data)} bytes, expected at most {limit}")
    envelope = dsse.decode(data, what=what)
    named = len(envelope.signatures) == 1 and bool(envelope.signatures[0].keyid) == bool(keyid)
    if envelope.payload_type != payload_type or not named:
        raise EvidenceError(
            f"{what}: expected type {payload_type} and one signature with{'' if keyid else 'out'} keyid"
        )
    if envelope.encode() != data:
        raise EvidenceError(f"{what}: not canonical JSON")
    (signature,) = envelope.signatures
    refused = Refused(f"{what}: not signed by the attested {by}")
    if signature.keyid != keyid:
        raise refused
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature.sig, envelope.signed)
    except (InvalidSignature, ValueError):
        raise refused from None
    return envelope.payload
