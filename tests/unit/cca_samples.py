"""Tokens of a made-up CCA realm, signed by keys from fixed seeds. Tests bend one claim at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privml.base.strictcbor import Tag, encode
from privml.evidence.cca.token import DIGESTS

PLATFORM_KEY, REALM_KEY, OTHER_KEY = (ec.derive_private_key(number, ec.SECP384R1()) for number in (1001, 1002, 1003))
RIM = hashlib.sha256(b"rim").digest()
REMS = tuple(hashlib.sha256(b"rem%d" % number).digest() for number in range(4))
CHALLENGE = bytes(range(64))
ABSENT = object()
"""In place of a claim that is left out."""


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign1(claims: Any, key: ec.EllipticCurvePrivateKey, algorithm: int = -35, unprotected: Any = None) -> bytes:
    """A COSE_Sign1 of claims (encoded already if they are bytes)."""
    protected = encode({1: algorithm})
    payload = claims if isinstance(claims, bytes) else encode(claims)
    digest = {-7: hashes.SHA256(), -35: hashes.SHA384(), -36: hashes.SHA512()}[algorithm]
    der = key.sign(encode(("Signature1", protected, b"", payload)), ec.ECDSA(digest))
    signature = b"".join(part.to_bytes(48) for part in decode_dss_signature(der))
    return encode(Tag(18, (protected, unprotected or {}, payload, signature)))


def component(**changes: Any) -> dict[int, Any]:
    return {
        1: "RMM",
        5: bytes(32),
        4: "1.0",
        2: b"\2" * 32,
        6: "sha-256",
        **{int(k[1:]): v for k, v in changes.items()},
    }


@dataclass
class Sample:
    """An honest token; ``platform`` and ``realm`` are changes of claims by number."""

    platform: Mapping[int, Any] = field(default_factory=dict)
    realm: Mapping[int, Any] = field(default_factory=dict)
    platform_key: ec.EllipticCurvePrivateKey = PLATFORM_KEY
    realm_key: ec.EllipticCurvePrivateKey = REALM_KEY
    tag: int = 399

    def realm_claims(self) -> dict[int, Any]:
        made = {
            10: CHALLENGE,
            44236: "sha-256",
            44240: "sha-256",
            44235: bytes(64),
            44237: point(REALM_KEY),
            44238: RIM,
            44239: REMS,
        }
        return _changed(made, self.realm)

    def platform_claims(self) -> dict[int, Any]:
        realm = self.realm_claims()
        key, algorithm = realm.get(44237, b""), realm.get(44240)
        digest = hashlib.new(algorithm.replace("-", "") if algorithm in DIGESTS else "sha256", key).digest()
        made = {
            265: "http://arm.com/CCA-SSD/1.0.0",
            10: digest,
            2396: bytes(32),
            256: b"\1" * 33,
            2401: b"\3",
            2395: 0x3003,
            2402: "sha-256",
            2399: (component(),),
        }
        return _changed(made, self.platform)

    def token(self) -> bytes:
        parts: list[Any] = [
            sign1(self.platform_claims(), self.platform_key),
            sign1(self.realm_claims(), self.realm_key),
        ]
        if self.tag == 907:
            parts = [(263, part) for part in parts]
        return encode(Tag(self.tag, dict(zip((44234, 44241), parts, strict=True))))


def _changed(claims: dict[int, Any], changes: Mapping[int, Any]) -> dict[int, Any]:
    return {key: value for key, value in {**claims, **changes}.items() if value is not ABSENT}
