"""Collateral of a TDX quote: what Intel's service says of a platform, in the nine fields that the QVL takes.

Untrusted until the QVL has checked it against Intel's root, so it does not matter who brings it.
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
    """The nine fields out of decoded JSON; ``EvidenceError`` for a missing, unknown or empty one."""
    fields = Fields(value, path)
    collateral = {name: fields.text(name, limit=MAX_FIELD) for name in FIELDS}
    fields.end()
    for name, text in collateral.items():
        if not text:
            raise EvidenceError(f"{path}.{name}: empty")
    return collateral
