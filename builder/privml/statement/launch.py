"""A launch: an image started under a TEE on a platform with a machine size, and the resulting registers.

A register is `Accepted` (values with their evidence), `FilledBy` (given by another signed source) or None (not
pinned). Each TEE's row in `LAYOUTS` defines its registers and machine record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.sizes import MAX_VCPUS
from privml.base.strictjson import Fields
from privml.events.event import Event, Evidence
from privml.events.registers import DIGEST_SIZE, EXTENDED, LAUNCH, REGISTERS, RTMR3, ZERO
from privml.events.replay import replay_digests

MAX_EVENTS = 4096
MAX_VALUES = 8
_LEVELS = tuple(level.value for level in Evidence)
_MIB = 1 << 20


@dataclass(frozen=True)
class Accepted:
    """The accepted values of a register (one or more, 48 bytes each), and how well their rules are confirmed."""

    values: tuple[bytes, ...]
    evidence: Evidence

    def to_dict(self) -> dict[str, Any]:
        """``{"accepted": [hex...], "evidence": s}``."""
        return {"accepted": [value.hex() for value in self.values], "evidence": self.evidence.value}


@dataclass(frozen=True)
class FilledBy:
    """A register whose value comes from another signed source, such as a cloud's firmware endorsement."""

    source: str

    def to_dict(self) -> dict[str, Any]:
        """``{"filled_by": s}``."""
        return {"filled_by": self.source}


RegisterValue = Accepted | FilledBy | None


@dataclass(frozen=True)
class TdMachine:
    """The size of a TD: processors, and memory in bytes."""

    vcpus: int
    memory: int

    def __str__(self) -> str:
        return f"{self.vcpus} vcpus, {self.memory // _MIB} MiB"

    def to_dict(self) -> dict[str, Any]:
        """``{"vcpus": n, "memory": bytes}``."""
        return {"vcpus": self.vcpus, "memory": self.memory}

    @classmethod
    def from_fields(cls, fields: Fields) -> TdMachine:
        """The inverse of ``to_dict``."""
        machine = cls(fields.integer("vcpus", low=1, high=MAX_VCPUS), fields.integer("memory", low=1))
        fields.end()
        return machine


BOUND, HASHED, OPEN = "bound", "hashed", "open"
BOOTS = (BOUND, HASHED, OPEN)
"""What the launch digest of an SNP guest binds: firmware that can start nothing but the kernel whose hash is
measured; firmware that checks that hash but can also start other programs; or no hash at all."""
VMMS = ("qemu", "ec2", "gce")
"""VMMs that start SNP guests, each with its own save areas (`measure.snp.vmsa`)."""


@dataclass(frozen=True)
class SnpMachine:
    """The measured machine of an SNP guest: its processors, and how firmware and kernel are started.

    ``cpu_signature`` is the processors' CPUID signature, ``sev_features`` their SEV_FEATURES, ``boot`` one of
    `BOOTS`. Memory is not measured.
    """

    vcpus: int
    vmm: str
    cpu_signature: int
    sev_features: int
    boot: str

    def __str__(self) -> str:
        return f"{self.vcpus} vcpus, CPU 0x{self.cpu_signature:x}"

    def to_dict(self) -> dict[str, Any]:
        """``{"vcpus": n, "vmm": s, "cpu_signature": n, "sev_features": n, "boot": s}``."""
        return {
            "vcpus": self.vcpus,
            "vmm": self.vmm,
            "cpu_signature": self.cpu_signature,
            "sev_features": self.sev_features,
            "boot": self.boot,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> SnpMachine:
        """The inverse of ``to_dict``."""
        machine = cls(
            vcpus=fields.integer("vcpus", low=1, high=MAX_VCPUS),
            vmm=fields.text("vmm", one_of=VMMS),
            cpu_signature=fields.integer("cpu_signature", low=1, high=0xFFFFFFFF),
            sev_features=fields.integer("sev_features", low=1),
            boot=fields.text("boot", one_of=BOOTS),
        )
        fields.end()
        return machine


Machine = TdMachine | SnpMachine


@dataclass(frozen=True)
class Layout:
    """Description of a TEE's launches: the machine record, and the register that the guest itself extends
    (None where it has none)."""

    machine: type[TdMachine] | type[SnpMachine]
    runtime: str | None


LAYOUTS: Mapping[str, Layout] = {"tdx": Layout(TdMachine, RTMR3), "snp": Layout(SnpMachine, None)}
"""One row per TEE whose launches can be predicted."""


@dataclass(frozen=True)
class MeasuredLaunch:
    """The registers of an image under ``tee`` on one platform and machine; every register of the TEE has an entry.

    Values of MRTD are listed by page-adding order: single-pass first, then two-pass. ``events`` are the predicted
    extends, in order.
    """

    tee: str
    platform: str
    machine: Machine
    registers: Mapping[str, RegisterValue]
    events: tuple[Event, ...] = ()

    @property
    def label(self) -> str:
        """``qemu-11-q35, 2 vcpus, 2048 MiB``."""
        return f"{self.platform}, {self.machine}"

    @property
    def runtime(self) -> bytes | None:
        """The register that the guest extends, after all of its events; None if it is not pinned."""
        name = LAYOUTS[self.tee].runtime
        values = () if name is None else self.accepted(name)
        return values[0] if values else None

    @property
    def runtime_unused(self) -> bool:
        """True if the image's kernel cannot extend that register, so that it stays zero for every purpose."""
        return self.runtime == ZERO

    def accepted(self, register: str) -> tuple[bytes, ...]:
        """The accepted values of ``register``; empty if it is not pinned here."""
        value = self.registers[register]
        return value.values if isinstance(value, Accepted) else ()

    def same(self, other: MeasuredLaunch) -> bool:
        """True if some guest could have the registers of both, and neither pins one that the other leaves open."""
        pairs = [(set(self.accepted(name)), set(other.accepted(name))) for name in self.registers]
        return self.tee == other.tee and all(mine & theirs or not (mine or theirs) for mine, theirs in pairs)

    def evidence(self) -> dict[str, Evidence]:
        """How well each pinned register is confirmed."""
        return {name: value.evidence for name, value in self.registers.items() if isinstance(value, Accepted)}

    def of(self, register: str) -> tuple[Event, ...]:
        """The predicted events of one register, in order."""
        return tuple(event for event in self.events if event.register == register)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object LAUNCH."""
        return {
            "tee": self.tee,
            "platform": self.platform,
            "machine": self.machine.to_dict(),
            "registers": {name: None if value is None else value.to_dict() for name, value in self.registers.items()},
            "policy": None,
            "events": [event.to_dict() for event in self.events],
        }

    @classmethod
    def from_dict(cls, value: object, path: str = "launch") -> MeasuredLaunch:
        """Read LAUNCH; ``EvidenceError`` if it is malformed or its events do not replay to its registers."""
        fields = Fields(value, path)
        tee = fields.text("tee", one_of=tuple(LAYOUTS))
        registers = fields.fields("registers")
        launch = cls(
            tee=tee,
            platform=fields.text("platform", limit=128),
            machine=LAYOUTS[tee].machine.from_fields(fields.fields("machine")),
            registers={name: _register(registers, name) for name in REGISTERS[tee]},
            events=tuple(
                Event.from_dict(item, f"{path}.events[{index}]")
                for index, item in enumerate(fields.array("events", limit=MAX_EVENTS))
            ),
        )
        registers.end()
        fields.null("policy")
        fields.end()
        _check(launch, path)
        return launch


def _register(registers: Fields, name: str) -> RegisterValue:
    fields = registers.fields_or_null(name)
    if fields is None:
        return None
    if fields.has("filled_by"):
        filled = FilledBy(fields.text("filled_by", limit=256))
        fields.end()
        return filled
    found = Accepted(
        _digests(fields.array("accepted", limit=MAX_VALUES), f"{fields.path}.accepted"),
        Evidence(fields.text("evidence", one_of=_LEVELS)),
    )
    fields.end()
    return found


def _digests(items: list[Any], path: str) -> tuple[bytes, ...]:
    if not items:
        raise EvidenceError(f"{path}: empty, expected at least one value")
    fields = Fields({str(index): item for index, item in enumerate(items)}, path)
    return tuple(fields.hexadecimal(str(index), DIGEST_SIZE) for index in range(len(items)))


def _check(launch: MeasuredLaunch, path: str) -> None:
    for index, event in enumerate(launch.events):
        if event.register not in launch.registers:
            raise EvidenceError(f"{path}.events[{index}]: a {launch.tee} guest has no register {event.register}")
    for register in launch.registers:
        predicted = launch.of(register)
        accepted = launch.accepted(register)
        if register not in (*EXTENDED, LAUNCH) or not predicted or not accepted:
            continue
        # An event of a launch digest has the digest after its pages.
        of_launch = register == LAUNCH
        found = predicted[-1].digest if of_launch else replay_digests(event.digest for event in predicted)
        if found not in accepted:
            raise EvidenceError(f"{path}: the events of {register.upper()} do not replay to its value")
