"""What `verify` judges: the document of a guest, or of a file, with whose nonce and at which time.

A file is a bundle or a bare document. A bundle's nonce, key and time are the word of whoever made it, so the first
line of a verdict says when they are used. The time is the caller's now unless he asks for another (ADR 0056).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.times import seconds_of, time_text
from privml.client import attested
from privml.evidence import bundle
from privml.evidence.bundle import MAX_BUNDLE, Bundle, is_bundle
from privml.verify.anchor import Anchored
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

MAX_FILE = MAX_BUNDLE

CALLER = "caller"
BUNDLE = "bundle"


@dataclass(frozen=True)
class Subject:
    """A document, what it was requested with as far as that is known, and the bundle that it is from.

    ``nonce_of`` is `CALLER` or `BUNDLE`; None if there is no nonce.
    """

    document: bytes
    nonce: bytes | None
    tls_spki_sha256: bytes | None
    nonce_of: str | None
    bundle: Bundle | None = None

    def judge(
        self, expected: Anchored, policy: Policy, *, at: int, collateral: attested.Collateral | None = None
    ) -> Judgement:
        """Judge the document as of ``at`` (Unix seconds); ``EvidenceError`` if it is malformed."""
        return attested.judge(
            self.document,
            expected,
            policy,
            now=at,
            nonce=self.nonce,
            tls_spki_sha256=self.tls_spki_sha256,
            collateral=collateral,
            bundled=None if self.bundle is None else self.bundle.collateral,
        )

    def bundled(self, at: int, collateral: Mapping[str, Mapping[str, Any]] | None) -> Bundle | None:
        """A bundle of this document, judged as of ``at`` with ``collateral``; None without nonce or key."""
        if self.nonce is None or self.tls_spki_sha256 is None:
            return None
        if collateral is None and self.bundle is not None:
            collateral = self.bundle.collateral
        return Bundle(self.document, self.nonce, self.tls_spki_sha256, at, collateral)

    def about(self, at: int, now: int) -> str:
        """The end of a verdict's first line: whose nonce, and which time."""
        nonces = {CALLER: "with your nonce", BUNDLE: "with the bundle's nonce, not yours", None: "without a nonce"}
        if at == now:
            when = "now"
        elif self.bundle is not None and at == self.bundle.judged_at:
            when = "the bundle's time, not now"
        else:
            when = "the time you gave, not now"
        return f", {nonces[self.nonce_of]}, as of {time_text(at)} ({when})"


def read(data: bytes, *, nonce: bytes | None = None, tls_spki_sha256: bytes | None = None) -> Subject:
    """The subject in a file: a bundle, or a document as it was received. ``EvidenceError`` for a malformed bundle.

    ``nonce`` and ``tls_spki_sha256`` (32 bytes each) are the caller's own, and replace a bundle's.
    """
    if not is_bundle(data):
        return Subject(data, nonce, tls_spki_sha256, None if nonce is None else CALLER)
    found = bundle.decode(data)
    return Subject(
        found.document,
        nonce or found.nonce,
        tls_spki_sha256 or found.tls_spki_sha256,
        BUNDLE if nonce is None else CALLER,
        found,
    )


def time_of(text: str) -> int:
    """Unix seconds of ``2026-11-29T04:00:00Z`` or of a decimal number; ``ValueError`` for anything else."""
    if text.isascii() and text.isdecimal() and len(text) <= 11:
        return int(text)
    return seconds_of(text)
