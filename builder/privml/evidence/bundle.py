"""Bundle v1: a document with what it was requested with and what it was judged with, in one file for another person.

Strict JSON (ARCHITECTURE "Bundle v1"). Everything in it is the word of whoever made it: the nonce may be older than
he says, and the time one at which long expired collateral was valid. Who reads it must say so (ADR 0056).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.strictjson import Fields, b64, canonical, loads
from privml.base.times import MAX_TIME
from privml.evidence.document import MAX_DOCUMENT, collateral_json, read_collateral
from privml.evidence.merkle import NONCE_SIZE

FORMAT = "privml-bundle/v1"
MAX_BUNDLE = 32 * 1024 * 1024
"""Bytes of a bundle: the largest document in base64, and collateral."""


@dataclass(frozen=True)
class Bundle:
    """One attestation as it was judged.

    ``document`` has the bytes that the guest sent for ``nonce`` (32 bytes), over a connection whose public key has
    the SHA-256 ``tls_spki_sha256``. ``judged_at`` is Unix seconds. ``collateral`` is what was used instead of the
    document's, by kind as there; None if that was enough.
    """

    document: bytes
    nonce: bytes
    tls_spki_sha256: bytes
    judged_at: int
    collateral: Mapping[str, Mapping[str, Any]] | None = None

    def encode(self) -> bytes:
        """The bundle's bytes, canonical JSON. ``anchor`` is for the files of a published measurement."""
        return canonical(
            {
                "format": FORMAT,
                "document": b64(self.document),
                "nonce": self.nonce.hex(),
                "tls_spki_sha256": self.tls_spki_sha256.hex(),
                "judged_at": self.judged_at,
                "anchor": None,
                "collateral": collateral_json(self.collateral),
            }
        )


def is_bundle(data: bytes) -> bool:
    """True if ``data`` names the format of a bundle, so that it can be nothing else that `verify` reads."""
    return f'"{FORMAT}"'.encode() in data


def decode(data: bytes) -> Bundle:
    """Read a bundle; ``EvidenceError`` if it is not exactly v1. Its document is not decoded."""
    fields = Fields(loads(data, what="bundle", limit=MAX_BUNDLE), "bundle")
    fields.text("format", one_of=(FORMAT,))
    fields.null("anchor")
    bundle = Bundle(
        document=fields.base64("document", limit=MAX_DOCUMENT),
        nonce=fields.hexadecimal("nonce", NONCE_SIZE),
        tls_spki_sha256=fields.hexadecimal("tls_spki_sha256", 32),
        judged_at=fields.integer("judged_at", high=MAX_TIME),
        collateral=read_collateral(fields.take("collateral"), "bundle.collateral"),
    )
    fields.end()
    return bundle
