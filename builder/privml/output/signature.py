"""Who signed a model's files, as a manifest says it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields

SIGNERS = ("key", "identity")
_WORD = re.compile(r"\A[!-~]{1,300}\Z")


@dataclass(frozen=True)
class Signature:
    """Who signed a model's files, as checked when they were locked, and the signature file's SHA-256 (hex).

    Of a signer ``key``, ``key_id`` is the hex SHA-256 of the public key, a SubjectPublicKeyInfo in DER. Of a signer
    ``identity``, ``subject`` is the account that Sigstore certified, and ``issuer`` who vouched for it.
    """

    signer: str
    sha256: str
    key_id: str | None = None
    subject: str | None = None
    issuer: str | None = None

    def __str__(self) -> str:
        return f"key {self.key_id}" if self.signer == "key" else f"identity {self.subject} ({self.issuer})"

    def to_dict(self) -> dict[str, str]:
        """``{"signer": "key", "key_id": hex32, "sha256": hex32}``, or ``subject`` and ``issuer`` of an identity."""
        return {name: value for name, value in vars(self).items() if value is not None}


def signature_from(fields: Fields) -> Signature:
    """Decode the member ``signature`` of a model; ``EvidenceError`` if `Signature.to_dict` cannot give it."""
    signer, sha256 = fields.text("signer", one_of=SIGNERS), fields.hexadecimal("sha256", 32).hex()
    if signer == "key":
        signature = Signature(signer, sha256, key_id=fields.hexadecimal("key_id", 32).hex())
    else:
        subject, issuer = (_word(fields, name) for name in ("subject", "issuer"))
        signature = Signature(signer, sha256, subject=subject, issuer=issuer)
    fields.end()
    return signature


def _word(fields: Fields, name: str) -> str:
    value = fields.text(name, limit=300)
    if not _WORD.match(value):
        raise EvidenceError(f"{fields.path}.{name}: expected 1 to 300 printable characters without blanks")
    return value
