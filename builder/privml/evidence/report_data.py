"""Report data v1: the 64 bytes that bind keys, devices, log and nonces to a quote or report.

``[0:32] = SHA256(label || SHA256(header) || root32 || SHA256(keys) || SHA256(devices) || SHA256(eventlog))`` and
``[32:64]`` zero, over the sections' bytes as transmitted (ARCHITECTURE "Report data v1"). The sections themselves
are in `evidence.sections`.
"""

from __future__ import annotations

import hashlib

from privml.base.errors import EvidenceError

LABEL = b"privml-report-data/v1\0"
DEVICE_LABEL = b"privml-gpu/v1\0"
SIZE = 64


def compute(*, header: bytes, root: bytes, keys: bytes, devices: bytes, eventlog: bytes) -> bytes:
    """The 64 bytes for these sections and this nonce root (32 bytes, `evidence.merkle`)."""
    if len(root) != 32:
        raise EvidenceError(f"nonce root: {len(root)} bytes, expected 32")
    digest = hashlib.sha256(LABEL)
    for part in (_sha256(header), root, _sha256(keys), _sha256(devices), _sha256(eventlog)):
        digest.update(part)
    return digest.digest() + bytes(SIZE - 32)


def device_nonce(*, root: bytes, keys: bytes) -> bytes:
    """The nonce (32 bytes) in every device's report: over the nonce root and the keys section's bytes."""
    return _sha256(DEVICE_LABEL + root + _sha256(keys))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
