"""A DSSE envelope whose signatures were verified by the keys of a role, over the bytes that were transmitted.

The threshold is the role's. Only a verified envelope gives its payload (DSSE v1.0.2: parse after verifying).
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base import dsse
from privml.statement.keys import Role
from privml.statement.untrusted import UntrustedError


@dataclass(frozen=True)
class Verified:
    """The payload of an envelope, and the ids of the keys that signed it."""

    payload: bytes
    signers: tuple[str, ...]


def verify(envelope: dsse.Envelope, role: Role, *, payload_type: str = dsse.IN_TOTO, what: str) -> Verified:
    """The payload, signed by enough of the role's keys; ``UntrustedError`` (`statement-signatures`) if not.

    ``EvidenceError`` if a signature does not verify, or a key signs twice.
    """
    if envelope.payload_type != payload_type:
        raise UntrustedError(
            "statement-signatures", f"{what} of type `{envelope.payload_type}`", f"type `{payload_type}`"
        )
    signers = role.signed_by(((each.keyid, each.sig) for each in envelope.signatures), envelope.signed)
    if len(signers) < role.threshold:
        raise UntrustedError(
            "statement-signatures",
            f"{what} signed by {len(signers)} of the {len(role.keys)} keys",
            f"at least {role.threshold}",
        )
    return Verified(envelope.payload, signers)
