"""Collateral of a TDX quote from Intel's service, in the nine fields that the QVL expects.

It is untrusted until the QVL has checked it against Intel's root, so its source does not matter.
"""

from __future__ import annotations

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields

MAX_FIELD = 1024 * 1024

FIELDS = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
)
"""PEM chains, JSON texts as Intel signed them, revocation lists and signatures in hex."""


def decode(value: object, path: str = "collateral") -> dict[str, str]:
    """Read the nine fields from decoded JSON; ``EvidenceError`` for a missing, unknown or empty one."""
    fields = Fields(value, path)
    collateral = {name: fields.text(name, limit=MAX_FIELD) for name in FIELDS}
    fields.end()
    for name, text in collateral.items():
        if not text:
            raise EvidenceError(f"{path}.{name}: empty")
    return collateral
