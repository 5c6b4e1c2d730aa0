"""Attestation document v2, the response to ``GET /.well-known/privml-attestation?nonce=HEX64``.

Strict JSON (ARCHITECTURE "Attestation document v2"). Sections are kept as transmitted, because the report data
covers those bytes. Whether a document is acceptable is not decided here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, b64, canonical, loads, unb64
from privml.events.gpus import MAX_GPUS, MAX_SWITCHES
from privml.evidence.merkle import MAX_DEPTH, NONCE_SIZE, SIDES, Step
from privml.evidence.nvidia import collateral as nvidia_collateral
from privml.evidence.sections import FORMAT, MAX_SECTION, Device, Devices
from privml.evidence.snp import collateral as snp_collateral
from privml.evidence.tdx import collateral as tdx_collateral

MAX_DOCUMENT = 16 * 1024 * 1024
MAX_EVENTLOG = 1024 * 1024
MAX_BOOTLOG = 4 * 1024 * 1024
MAX_EVIDENCE = 64 * 1024
MAX_CERTIFICATES = 8
MAX_CERTIFICATE = 16 * 1024
GPU = "gpu"
SWITCH = "switch"
DEVICE_KINDS = (GPU, SWITCH)
"""The kinds of devices with evidence, in the order of the document."""
MAX_DEVICE_REPORT = 16 * 1024
MAX_DEVICE_CERTIFICATES = 16 * 1024


@dataclass(frozen=True)
class DeviceEvidence:
    """The evidence of one device: ``kind``, its signed report, and its certificates (PEM)."""

    kind: str
    report: bytes
    certificates: bytes

    @property
    def listed(self) -> Device:
        """The device's entry in the devices section."""
        return Device(hashlib.sha256(self.report).digest(), hashlib.sha256(self.certificates).digest())


def listed(devices: Iterable[DeviceEvidence]) -> Devices:
    """The devices section that lists exactly ``devices``."""
    entries = [(device.kind, device.listed) for device in devices]
    gpus, switches = (tuple(entry for found, entry in entries if found == kind) for kind in DEVICE_KINDS)
    return Devices(gpus, switches)


@dataclass(frozen=True)
class Document:
    """A guest's response to a nonce.

    ``header``, ``keys``, ``devices`` (canonical JSON, `evidence.sections`), ``eventlog`` (agent log lines),
    ``bootlog`` (CCEL or TPM log; may be empty) and ``evidence`` (a quote or report, by the header's TEE) are raw
    bytes; ``nonce`` has 32 bytes; ``path`` goes from the nonce's leaf up. ``certificates`` are those of an SNP
    report, none on TDX, whose quotes hold their own. ``device_evidence`` has the GPUs, then the switches.
    ``collateral`` is untrusted, by kind: for ``tdx`` the nine fields of `evidence.tdx.collateral`, for ``snp`` those
    of `evidence.snp.collateral`, for ``nvidia`` the two lists of `evidence.nvidia.collateral`; or None.
    """

    header: bytes
    nonce: bytes
    path: tuple[Step, ...]
    keys: bytes
    devices: bytes
    eventlog: bytes
    bootlog: bytes
    evidence: bytes
    certificates: tuple[bytes, ...] = ()
    collateral: Mapping[str, Mapping[str, Any]] | None = None
    device_evidence: tuple[DeviceEvidence, ...] = ()

    def encode(self) -> bytes:
        """The document's bytes, canonical JSON."""
        return canonical(
            {
                "format": FORMAT,
                "header": b64(self.header),
                "nonce": self.nonce.hex(),
                "path": [{"side": step.side, "hash": step.hash.hex()} for step in self.path],
                "keys": b64(self.keys),
                "devices": b64(self.devices),
                "eventlog": b64(self.eventlog),
                "bootlog": b64(self.bootlog),
                "evidence": b64(self.evidence),
                "certificates": [b64(certificate) for certificate in self.certificates],
                "device_evidence": device_evidence_json(self.device_evidence),
                "collateral": collateral_json(self.collateral),
            }
        )


def parse(data: bytes) -> Document:
    """Read a document; ``EvidenceError`` if it is not exactly v2. Sections are not decoded."""
    fields = Fields(loads(data, what="attestation document", limit=MAX_DOCUMENT), "document")
    fields.text("format", one_of=(FORMAT,))
    path = []
    for index, item in enumerate(fields.array("path", limit=MAX_DEPTH)):
        step = Fields(item, f"document.path[{index}]")
        path.append(Step(step.text("side", one_of=SIDES), step.hexadecimal("hash", 32)))
        step.end()
    document = Document(
        header=fields.base64("header", limit=MAX_SECTION),
        nonce=fields.hexadecimal("nonce", NONCE_SIZE),
        path=tuple(path),
        keys=fields.base64("keys", limit=MAX_SECTION),
        devices=fields.base64("devices", limit=MAX_SECTION),
        eventlog=fields.base64("eventlog", limit=MAX_EVENTLOG),
        bootlog=fields.base64("bootlog", limit=MAX_BOOTLOG),
        evidence=fields.base64("evidence", limit=MAX_EVIDENCE),
        certificates=tuple(
            unb64(item, what=f"document.certificates[{index}]", limit=MAX_CERTIFICATE)
            for index, item in enumerate(fields.array("certificates", limit=MAX_CERTIFICATES))
        ),
        collateral=read_collateral(fields.take("collateral"), "document.collateral"),
        device_evidence=device_evidence(fields),
    )
    fields.end()
    return document


def device_evidence_json(devices: Iterable[DeviceEvidence]) -> list[dict[str, str]]:
    """The value of ``device_evidence`` in a document."""
    return [
        {"kind": device.kind, "report": b64(device.report), "certificates": b64(device.certificates)}
        for device in devices
    ]


def device_evidence(fields: Fields) -> tuple[DeviceEvidence, ...]:
    """Read ``device_evidence`` of a document; ``EvidenceError`` unless all GPUs are before the switches."""
    found = []
    for index, item in enumerate(fields.array("device_evidence", limit=MAX_GPUS + MAX_SWITCHES)):
        entry = Fields(item, f"document.device_evidence[{index}]")
        found.append(
            DeviceEvidence(
                kind=entry.text("kind", one_of=DEVICE_KINDS),
                report=entry.base64("report", limit=MAX_DEVICE_REPORT),
                certificates=entry.base64("certificates", limit=MAX_DEVICE_CERTIFICATES),
            )
        )
        entry.end()
    kinds = [device.kind for device in found]
    if kinds != sorted(kinds, key=DEVICE_KINDS.index):
        raise EvidenceError("document.device_evidence: expected all GPUs before the switches")
    return tuple(found)


_COLLATERAL: Mapping[str, Callable[[object, str], Mapping[str, Any]]] = {
    "tdx": tdx_collateral.decode,
    "snp": snp_collateral.decode,
    "nvidia": nvidia_collateral.decode,
}
"""Kinds of collateral in a document, with their readers."""


def read_collateral(value: object, path: str) -> dict[str, Mapping[str, Any]] | None:
    """Collateral by kind from decoded JSON, or None for null; ``EvidenceError`` for an unknown or malformed kind."""
    if value is None:
        return None
    fields = Fields(value, path)
    found = {
        kind: read(fields.take(kind), f"{path}.{kind}") for kind, read in _COLLATERAL.items() if fields.has(kind)
    }
    fields.end()
    if not found:
        raise EvidenceError(f"{path}: empty, expected null or at least one kind of collateral")
    return found


def collateral_json(kinds: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]] | None:
    """The JSON value of collateral by kind."""
    return None if kinds is None else {kind: dict(given) for kind, given in kinds.items()}
