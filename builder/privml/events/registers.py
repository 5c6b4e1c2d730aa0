"""Measurement registers by name, and the mapping from log indices to them.

A register is a name everywhere: ``mrtd``, ``rtmr0`` .. ``rtmr3`` of a TD, ``launch`` of an SNP guest. Only logs
number them: a CC event log by MrIndex, a TPM's by PCR. Source: UEFI 2.10 section 38.4.1; edk2
OvmfPkg/IntelTdx/TdxMeasurementLib/TdxMeasurementCommon.c.
"""

from __future__ import annotations

from enum import IntEnum

from privml.base.errors import EvidenceError

DIGEST_SIZE = 48
ZERO = bytes(DIGEST_SIZE)

MRTD = "mrtd"
RTMR0 = "rtmr0"
RTMR1 = "rtmr1"
RTMR2 = "rtmr2"
RTMR3 = "rtmr3"
RTMRS = (RTMR0, RTMR1, RTMR2, RTMR3)
TDX_REGISTERS = (MRTD, *RTMRS)
LAUNCH = "launch"

REGISTERS = {"tdx": TDX_REGISTERS, "snp": (LAUNCH,)}
"""The registers of each TEE, in display order."""
EXTENDED = frozenset(RTMRS)
"""Registers that start as 48 zero bytes and are extended; the others are computed differently."""


class MrIndex(IntEnum):
    """The index of a TD's register in a CC event log."""

    MRTD = 0
    RTMR0 = 1
    RTMR1 = 2
    RTMR2 = 3
    RTMR3 = 4


def shown(*registers: str) -> tuple[str, ...]:
    """Names of registers as people read them, in capitals."""
    return tuple(register.upper() for register in registers)


def register_named(name: str) -> str:
    """Return ``name`` if some TEE has such a register; ``EvidenceError`` otherwise."""
    known = [register for registers in REGISTERS.values() for register in registers]
    if name not in known:
        raise EvidenceError(f"register `{name[:40]}` is not known: expected one of {', '.join(known)}")
    return name


def register_of_index(index: int) -> str:
    """The register of a CC event log's MrIndex; ``EvidenceError`` above 4."""
    try:
        return MrIndex(index).name.lower()
    except ValueError:
        raise EvidenceError(f"measurement register index is {index}: expected 0 to {max(MrIndex)}") from None


def index_of_register(register: str) -> MrIndex:
    """The MrIndex of a TD's register; ``KeyError`` for a register of another TEE."""
    return MrIndex[register.upper()]


def register_of_pcr(pcr: int) -> str:
    """The register that a TD's firmware extends where a TPM platform's would extend ``pcr``.

    PCR 0 maps to MRTD, which firmware cannot extend. ``EvidenceError`` above PCR 15: no mapping is defined.
    """
    if pcr == 0:
        return MRTD
    if pcr in (1, 7):
        return RTMR0
    if 2 <= pcr <= 6:
        return RTMR1
    if 8 <= pcr <= 15:
        return RTMR2
    raise EvidenceError(f"PCR {pcr} does not map to a measurement register: expected 0 to 15")
