"""Attestation reports of SNP guests, versions 2 to 5: every byte is read or refused.

Source: AMD SEV-SNP Firmware ABI Specification (56860), ATTESTATION_REPORT, and 10.1 for signatures. All integers are
little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.evidence.snp import tcb

SIZE = 0x4A0
SIGNED = 0x2A0
"""The signature covers the bytes before it."""
VERSIONS = (2, 3, 4, 5)
ECDSA_P384_SHA384 = 1
VCEK, VLEK, NO_KEY = 0, 1, 7
SIGNING_KEYS = {VCEK: "VCEK", VLEK: "VLEK", NO_KEY: "none"}
_SCALAR = 72  # bytes of a field of R or S, of which a P-384 signature fills 48

POLICY_BITS = {
    "smt": 16,
    "migration agent": 18,
    "debug": 19,
    "single socket": 20,
    "cxl": 21,
    "aes-256-xts": 22,
    "rapl off": 23,
    "ciphertext hiding": 24,
    "page swap off": 25,
}
"""Bits of the guest's policy; bit 17 is always set, 0 to 15 are the smallest ABI version, the others are zero."""
PLATFORM_BITS = {
    "smt": 0,
    "tsme": 1,
    "ecc": 2,
    "rapl off": 3,
    "ciphertext hiding": 4,
    "alias check": 5,
    "tio": 7,
}
"""Bits of PLATFORM_INFO; the others are zero."""
_POLICY_ONE = 17


@dataclass(frozen=True)
class Version:
    """A firmware version."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True)
class Report:
    """A report's fields, by the names of the specification.

    TCB versions are 8 raw bytes: which byte is which part depends on the product (`tcb.Product`). ``product`` is None
    before version 3, whose reports do not name the processor. ``signature`` is (r, s).
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    author_key: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    product: tcb.Product | None
    stepping: int | None
    chip_id: bytes
    committed_tcb: bytes
    current: Version
    committed: Version
    launch_tcb: bytes
    launch_mitigations: int | None
    current_mitigations: int | None
    signed: bytes
    signature: tuple[int, int]

    @property
    def policy_words(self) -> tuple[str, ...]:
        """The names of the bits that are set in the policy."""
        return tuple(name for name, bit in POLICY_BITS.items() if self.policy >> bit & 1)

    @property
    def platform_words(self) -> tuple[str, ...]:
        """The names of the bits that are set in PLATFORM_INFO."""
        return tuple(name for name, bit in PLATFORM_BITS.items() if self.platform_info >> bit & 1)


def parse(data: bytes) -> Report:
    """Read a report; ``EvidenceError`` for another size or version, or a reserved bit that is set."""
    if len(data) != SIZE:
        raise EvidenceError(f"report: {len(data)} bytes, expected {SIZE}")
    fields = _Fields(data)
    version = fields.number(0x00, 4)
    if version not in VERSIONS:
        raise EvidenceError(f"report: version {version}, expected one of {', '.join(map(str, VERSIONS))}")
    algorithm = fields.number(0x34, 4)
    if algorithm != ECDSA_P384_SHA384:
        raise EvidenceError(f"report: signature algorithm {algorithm}, expected {ECDSA_P384_SHA384}")
    author_key, mask_chip_key, signing_key = _key_info(fields.number(0x48, 4))
    product, stepping = _processor(fields, version)
    mitigations = (fields.number(0x1F8, 8), fields.number(0x200, 8)) if version >= 5 else (None, None)
    for start, end in (
        (0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, SIGNED), (SIGNED + 2 * _SCALAR, SIZE),
        *([] if version >= 5 else [(0x1F8, 0x208)]),
    ):  # fmt: skip
        fields.zero(start, end)
    return Report(
        version=version,
        guest_svn=fields.number(0x04, 4),
        policy=_policy(fields.number(0x08, 8)),
        family_id=fields.raw(0x10, 16),
        image_id=fields.raw(0x20, 16),
        vmpl=_vmpl(fields.number(0x30, 4)),
        current_tcb=fields.raw(0x38, 8),
        platform_info=_known("platform_info", fields.number(0x40, 8), PLATFORM_BITS),
        author_key=author_key,
        mask_chip_key=mask_chip_key,
        signing_key=signing_key,
        report_data=fields.raw(0x50, 64),
        measurement=fields.raw(0x90, 48),
        host_data=fields.raw(0xC0, 32),
        id_key_digest=fields.raw(0xE0, 48),
        author_key_digest=fields.raw(0x110, 48),
        report_id=fields.raw(0x140, 32),
        report_id_ma=fields.raw(0x160, 32),
        reported_tcb=fields.raw(0x180, 8),
        product=product,
        stepping=stepping,
        chip_id=fields.raw(0x1A0, 64),
        committed_tcb=fields.raw(0x1E0, 8),
        current=fields.version(0x1E8),
        committed=fields.version(0x1EC),
        launch_tcb=fields.raw(0x1F0, 8),
        launch_mitigations=mitigations[0],
        current_mitigations=mitigations[1],
        signed=data[:SIGNED],
        signature=(fields.scalar(SIGNED, "r"), fields.scalar(SIGNED + _SCALAR, "s")),
    )


def is_report(data: bytes) -> bool:
    """True if ``data`` has the size and a version of a report."""
    return len(data) == SIZE and int.from_bytes(data[:4], "little") in VERSIONS


@dataclass(frozen=True)
class _Fields:
    data: bytes

    def raw(self, at: int, size: int) -> bytes:
        return self.data[at : at + size]

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.raw(at, size), "little")

    def version(self, at: int) -> Version:
        build, minor, major = self.raw(at, 3)
        return Version(major, minor, build)

    def zero(self, start: int, end: int) -> None:
        if any(self.data[start:end]):
            raise EvidenceError(f"report: reserved bytes 0x{start:x} to 0x{end:x} are not zero")

    def scalar(self, at: int, name: str) -> int:
        """R or S of the signature."""
        value = self.number(at, _SCALAR)
        if not 0 < value < 1 << 384:
            raise EvidenceError(f"report: {name} of its signature is no number of P-384")
        return value


def _key_info(value: int) -> tuple[bool, bool, int]:
    if value >> 5:
        raise EvidenceError(f"report: key information 0x{value:x} has unknown bits")
    signing_key = value >> 2 & 7
    if signing_key not in SIGNING_KEYS:
        raise EvidenceError(f"report: signing key {signing_key}, expected one of {sorted(SIGNING_KEYS)}")
    return bool(value & 1), bool(value & 2), signing_key


def _processor(fields: _Fields, version: int) -> tuple[tcb.Product | None, int | None]:
    family, model, stepping = fields.raw(0x188, 3)
    if version < 3:
        fields.zero(0x188, 0x18B)
        return None, None
    return tcb.product_of(family, model), stepping


def _policy(value: int) -> int:
    if not value >> _POLICY_ONE & 1:
        raise EvidenceError(f"report: policy 0x{value:x} without bit {_POLICY_ONE}, which is always set")
    _known("policy", value & ~0xFFFF & ~(1 << _POLICY_ONE), POLICY_BITS)
    return value


def _vmpl(value: int) -> int:
    if value > 3:
        raise EvidenceError(f"report: vmpl {value}, expected 0 to 3")
    return value


def _known(what: str, value: int, bits: dict[str, int]) -> int:
    unknown = value & ~sum(1 << bit for bit in bits.values())
    if unknown:
        raise EvidenceError(f"report: {what} has unknown bits 0x{unknown:x}")
    return value
