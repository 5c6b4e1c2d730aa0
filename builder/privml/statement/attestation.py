"""The attestation of CI next to a version, ``ci.sigstore.json``: a Sigstore bundle over the version's statement.

What is read here is not signed yet: `base.keyless` checks certificate and signature. The workflow that makes such
files attests the prediction's subjects and predicate (.github/workflows/release.yml), so a payload must say exactly
what the publishers' statement says; its spelling as JSON may be another.
"""

from __future__ import annotations

from privml.base.dsse import IN_TOTO
from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, loads
from privml.statement import intoto
from privml.statement.intoto import Statement

MAX_BUNDLE = 4 << 20
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""Bundles of earlier forms are refused: they may lack what binds the log's entry to the signature."""


def payload_of(data: bytes, what: str) -> bytes:
    """The payload of a bundle, unchecked; ``EvidenceError`` if it is malformed."""
    bundle = Fields(loads(data, what=what, limit=MAX_BUNDLE), what)
    bundle.text("mediaType", one_of=(MEDIA_TYPE,))
    envelope = bundle.fields("dsseEnvelope")
    envelope.text("payloadType", one_of=(IN_TOTO,))
    return envelope.base64("payload")


def check(payload: bytes, statement: Statement, what: str) -> None:
    """``EvidenceError`` unless the payload names the same artefacts, with the same predicate, as ``statement``."""
    found = intoto.decode(payload)
    if set(found.subjects) != set(statement.subjects):
        raise EvidenceError(f"{what}: it attests other artefacts than those of this version")
    if found.predicate != statement.predicate:
        raise EvidenceError(f"{what}: it attests other measurements than those of this version")
