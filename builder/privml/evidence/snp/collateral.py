"""Collateral of an SNP report from AMD's key distribution service (KDS): certificates and a revocation list.

It is untrusted until `evidence.snp.signature` has checked it against the pinned roots, so its source does not matter.
"""

from __future__ import annotations

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields

MAX_FIELD = 256 * 1024
CERTIFICATES = "certificates"
CRL = "crl"
FIELDS = (CERTIFICATES, CRL)
"""The PEM chain of the key that signed the report (leaf, issuer, root), and the root's revocation list in hex.

Either may be left out: a document can carry the certificates itself, and a caller's policy can do without a list.
"""


def decode(value: object, path: str = "collateral") -> dict[str, str]:
    """Read the fields from decoded JSON; ``EvidenceError`` for an unknown or empty one, or for none at all."""
    fields = Fields(value, path)
    found = {name: fields.text(name, limit=MAX_FIELD) for name in FIELDS if fields.has(name)}
    fields.end()
    if not found:
        raise EvidenceError(f"{path}: empty, expected {' or '.join(FIELDS)}")
    for name, text in found.items():
        if not text:
            raise EvidenceError(f"{path}.{name}: empty")
    return found
