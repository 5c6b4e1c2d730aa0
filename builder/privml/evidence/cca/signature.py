"""Check the signatures of a CCA token, and that its two parts belong together.

The realm token carries the key that signed it; the platform token vouches for that key by its challenge; and nothing
in a token vouches for the platform's key. Each vendor has its own, so the caller names it.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from privml.base.errors import EvidenceError
from privml.evidence.cca.token import ALGORITHMS, Signed, Token, TokenChecks

MAX_KEY = 16 * 1024
_KEYS: dict[str, tuple[type[ec.EllipticCurve], hashes.HashAlgorithm]] = {
    "ES256": (ec.SECP256R1, hashes.SHA256()),
    "ES384": (ec.SECP384R1, hashes.SHA384()),
    "ES512": (ec.SECP521R1, hashes.SHA512()),
}


def read_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """A platform's public key, in PEM or DER; ``EvidenceError`` for anything but one on a curve."""
    load = load_pem_public_key if data.lstrip()[:5] == b"-----" else load_der_public_key
    try:
        found = load(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceError("no public key in PEM or DER") from error
    if not isinstance(found, ec.EllipticCurvePublicKey):
        raise EvidenceError("a key of another kind, expected one on an elliptic curve")
    return found


def check(token: Token, platform_key: ec.EllipticCurvePublicKey | None) -> TokenChecks:
    """Check a token with the platform's key, if the caller has it."""
    realm = token.realm
    digest = hashlib.new(realm.key_hash.replace("-", ""), realm.key).digest()
    return TokenChecks(
        realm=_realm(token),
        bound=hmac.compare_digest(digest, token.platform.challenge),
        platform=None if platform_key is None else _verifies(token.platform.signed, platform_key),
    )


def _realm(token: Token) -> bool:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), token.realm.point)
    except ValueError:
        return False  # no point of the curve
    return _verifies(token.realm.signed, key)


def _verifies(signed: Signed, key: ec.EllipticCurvePublicKey) -> bool:
    """True if ``key`` signed; a signature is R and S, each as long as a number of the curve (RFC 9053, 2.1)."""
    curve, algorithm = _KEYS[ALGORITHMS[signed.algorithm]]
    size = (key.key_size + 7) // 8
    if not isinstance(key.curve, curve) or len(signed.signature) != 2 * size:
        return False
    r, s = (int.from_bytes(part) for part in (signed.signature[:size], signed.signature[size:]))
    try:
        key.verify(utils.encode_dss_signature(r, s), signed.covered, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True
