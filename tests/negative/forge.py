"""A guest's attestation document and the statement that expects it, made without this project's encoders.

Report data, nonce tree, agent log, boot log, quote and canonical JSON are written here a second time, from the
contracts in docs/ARCHITECTURE.md; `devices` writes the evidence of GPUs. A verifier that agrees with both has read
the contract as its writer did.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field, replace
from typing import Any

from tests.negative import pki
from tests.negative.devices import Device, Evidence
from tests.negative.pki import Platform

NOW = 1_795_000_000
NONCE = hashlib.sha256(b"the caller's nonce").digest()
SPKI = hashlib.sha256(b"the guest's public key").digest()
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
MR_SEAM = hashlib.sha384(b"SIMULATED TDX module").digest()
MRTD = hashlib.sha384(b"firmware").digest()
MRTD_TWO_PASS = hashlib.sha384(b"firmware, measured in another order").digest()
CMDLINE = "console=ttyS0 ro privml.root=0123"

Event = tuple[str, bytes]
"""Name and payload of an agent's event."""
Extend = tuple[int, int, bytes, bytes, str]
"""RTMR, TCG type, what is hashed, what the log says, and where it comes from."""


def jcs(value: object) -> bytes:
    """Canonical JSON of a value with ASCII keys and whole numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


EVENTS: tuple[Event, ...] = (
    ("config", jcs({"sha256": "11" * 32})),
    ("model", jcs({"name": "smollm2", "root_hash": "22" * 32})),
    ("engine", jcs({"name": "llama-server", "argv_sha256": "33" * 32})),
    ("system-ready", b"{}"),
)


def agent_lines(events: tuple[Event, ...]) -> list[bytes]:
    return [jcs({"seq": at, "name": name, "payload": b64(payload)}) for at, (name, payload) in enumerate(events)]


def extended(digests: list[bytes]) -> bytes:
    """A register after these extends."""
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value


def rtmr3(events: tuple[Event, ...]) -> bytes:
    return extended([hashlib.sha384(b"privml-event-v1\0" + line).digest() for line in agent_lines(events)])


def boot(memory: int, cmdline: str = CMDLINE) -> tuple[Extend, ...]:
    """What firmware, stub and kernel extend."""
    text = cmdline.encode("utf-16-le") + b"\0\0"
    name = ".cmdline".encode("utf-16-le") + b"\0\0"
    tagged = bytes.fromhex("ec223b8f") + struct.pack("<I", 12) + b"Linux initrd"
    return (
        (0, 0x8000000B, b"hob%d" % memory, b"\x01\x02", "TD HOB (shape)"),
        (0, 4, bytes(4), bytes(4), "separator"),
        (1, 0x80000003, b"uki", b"\0\1device", "uki.efi"),
        (2, 0xD, b".cmdline\0", name, "uki.efi .cmdline name"),
        (2, 0xD, text, text, "uki.efi .cmdline (recipes/demo-cpu.yaml:9 kernel.package)"),
        (2, 6, b"initrd", tagged, "uki.efi .initrd"),
    )


def ccel(items: tuple[Extend, ...]) -> bytes:
    """The firmware's log."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 0xC, 48, 0)
    log = struct.pack("<II20sI", 0, 3, b"", len(spec)) + spec
    for rtmr, kind, hashed, said, _ in items:
        digest = hashlib.sha384(hashed).digest()
        log += struct.pack("<IIIH48sI", rtmr + 1, kind, 1, 0xC, digest, len(said)) + said
    return log


def rtmr(items: tuple[Extend, ...], number: int) -> bytes:
    return extended([hashlib.sha384(item[2]).digest() for item in items if item[0] == number])


def leaf(nonce: bytes) -> bytes:
    return hashlib.sha256(b"\0privml-nonce/v1\0" + nonce).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(frozen=True)
class Guest:
    """An honest guest, unless a field says otherwise. ``document`` renews everything that follows from the fields.

    ``siblings`` are the (side, hash) steps of the nonce's path. ``header``, ``keys``, ``devices`` and ``eventlog``
    replace a section before it is hashed. ``body`` maps offsets in the TD report to other bytes, before the quote is
    signed; ``version`` 5 has a TD 1.5 report, which ends in ``tail``. ``signer`` is the key that signs the quote,
    ``certification`` replaces all of its data, ``runtime`` replaces RTMR3. ``equipment`` are the guest's devices, or
    evidence that it took from elsewhere.
    """

    memory: int = 4 << 30
    cmdline: str = CMDLINE
    events: tuple[Event, ...] = EVENTS
    variant: str = "production"
    purpose: str = "serve"
    stage: str = "ready"
    tee: str = "tdx"
    nonce: bytes = NONCE
    spki: bytes = SPKI
    siblings: tuple[tuple[str, bytes], ...] = (("right", leaf(bytes(32))),)
    header: bytes | None = None
    keys: bytes | None = None
    devices: bytes | None = None
    eventlog: bytes | None = None
    bootlog: bytes | None = None
    report_data: bytes | None = None
    mrtd: bytes = MRTD
    runtime: bytes | None = None
    body: dict[int, bytes] = field(default_factory=dict)
    version: int = 4
    tail: bytes = pki.TEE_TCB_SVN + bytes(48)
    vendor: bytes = QE_VENDOR
    signer: str = "attestation key"
    platform: Platform = field(default_factory=Platform)
    certification: bytes | None = None
    after: bytes = b""
    equipment: tuple[Device | Evidence, ...] = ()

    def with_(self, **changes: Any) -> Guest:
        """A copy with other fields."""
        return replace(self, **changes)

    @property
    def root(self) -> bytes:
        value = leaf(self.nonce)
        for side, other in self.siblings:
            value = node(other, value) if side == "left" else node(value, other)
        return value

    def sections(self) -> dict[str, bytes]:
        header = {
            "format": "privml-attestation/v2",
            "variant": self.variant,
            "tee": self.tee,
            "purpose": self.purpose,
            "stage": self.stage,
        }
        log = b"".join(line + b"\n" for line in agent_lines(self.events))
        return {
            "header": jcs(header) if self.header is None else self.header,
            "keys": self._keys(),
            "devices": listed(self.evidence) if self.devices is None else self.devices,
            "eventlog": log if self.eventlog is None else self.eventlog,
        }

    @property
    def device_nonce(self) -> bytes:
        """What each device of the guest signs."""
        return hashlib.sha256(b"privml-gpu/v1\0" + self.root + hashlib.sha256(self._keys()).digest()).digest()

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The evidence of the guest's devices."""
        return tuple(device.evidence(self.device_nonce) for device in self.equipment)

    def _keys(self) -> bytes:
        keys = {"v": 2, "keys": [{"use": "tls", "alg": "spki-sha256", "key": self.spki.hex()}]}
        return jcs(keys) if self.keys is None else self.keys

    def bound(self) -> bytes:
        """The report data over the sections and the nonces."""
        if self.report_data is not None:
            return self.report_data
        parts = {name: hashlib.sha256(data).digest() for name, data in self.sections().items()}
        digest = hashlib.sha256(
            b"privml-report-data/v1\0" + parts["header"] + self.root + parts["keys"] + parts["devices"]
            + parts["eventlog"]
        ).digest()  # fmt: skip
        return digest + bytes(32)

    def quote(self) -> bytes:
        items = boot(self.memory, self.cmdline)
        runtime = rtmr3(self.events) if self.runtime is None else self.runtime
        report = bytearray(
            pki.TEE_TCB_SVN
            + MR_SEAM
            + bytes(48 + 8)
            + bytes.fromhex("0000001000000000e702060000000000")
            + self.mrtd
            + bytes(144)
            + rtmr(items, 0)
            + rtmr(items, 1)
            + rtmr(items, 2)
            + runtime
            + self.bound()
        )
        assert len(report) == 584
        for at, data in self.body.items():
            report[at : at + len(data)] = data
        head = struct.pack("<HHIHH16s20s", self.version, 2, 0x81, 0, 0, self.vendor, bytes(20))
        if self.version == 5:
            report += self.tail
            head += struct.pack("<HI", 3, len(report))
        signed = head + bytes(report)
        inner = self.platform.certification() if self.certification is None else self.certification
        data = (
            pki.sign(self.signer, signed) + pki.point("attestation key") + struct.pack("<HI", 6, len(inner)) + inner
        )
        return signed + struct.pack("<I", len(data)) + data + self.after

    def fields(self) -> dict[str, Any]:
        """The document's JSON object, without collateral."""
        log = ccel(boot(self.memory, self.cmdline)) if self.bootlog is None else self.bootlog
        return {
            "format": "privml-attestation/v2",
            "nonce": self.nonce.hex(),
            "path": [{"side": side, "hash": other.hex()} for side, other in self.siblings],
            **{name: b64(data) for name, data in self.sections().items()},
            "bootlog": b64(log),
            "evidence": b64(self.quote()),
            "certificates": [],
            "device_evidence": [device.field() for device in self.evidence],
            "collateral": None,
        }

    def document(self, **changes: Any) -> bytes:
        """The document's bytes; ``changes`` replace fields after everything was signed (`REMOVED` removes one)."""
        return jcs({name: value for name, value in {**self.fields(), **changes}.items() if value is not REMOVED})


def listed(evidence: tuple[Evidence, ...]) -> bytes:
    """The devices section for this evidence."""
    found = {
        name: [device.listed() for device in evidence if device.kind == kind]
        for name, kind in (("gpus", "gpu"), ("switches", "switch"))
    }
    return jcs({"v": 2, **found})


REMOVED = object()

SHAPES = ((2, 2 << 30), (4, 4 << 30))


def statement(**changes: Any) -> dict[str, Any]:
    """The statement (predicate v2) of the honest guest's image, with other fields."""
    return {
        "name": "demo-cpu",
        "variant": "production",
        "manifest_sha256": "00" * 32,
        "agent_events": [{"name": name, "payload": b64(payload)} for name, payload in EVENTS],
        "purposes": {"serve": len(EVENTS), "key-release": 1},
        "exceptions": [],
        "gpus": None,
        "launches": [launch(vcpus, memory) for vcpus, memory in SHAPES],
        **changes,
    }


def launch(vcpus: int, memory: int, **registers: Any) -> dict[str, Any]:
    """What one machine size measures to; ``registers`` replaces values."""
    items = boot(memory)
    values = {
        "mrtd": [MRTD, MRTD_TWO_PASS],
        **{f"rtmr{number}": [rtmr(items, number)] for number in range(3)},
        "rtmr3": [rtmr3(EVENTS)],
    }
    accepted = {
        name: {"accepted": [value.hex() for value in accepted], "evidence": "tpm-boot"}
        for name, accepted in values.items()
    }
    return {
        "tee": "tdx",
        "platform": "qemu-11-q35",
        "machine": {"vcpus": vcpus, "memory": memory},
        "registers": {**accepted, **registers},
        "policy": None,
        "events": [
            {
                "register": f"rtmr{number}",
                "type": kind,
                "digest": hashlib.sha384(hashed).hexdigest(),
                "origin": origin,
                "evidence": "tpm-boot",
                "note": "",
            }
            for number, kind, hashed, _, origin in items
        ],
    }
