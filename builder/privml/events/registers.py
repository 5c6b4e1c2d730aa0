"""The five measurement registers of a TD, and which TPM PCR stands for which of them.

Source: UEFI 2.10 section 38.4.1; edk2 OvmfPkg/IntelTdx/TdxMeasurementLib/TdxMeasurementCommon.c.
"""

from __future__ import annotations

from enum import IntEnum

from privml.base.errors import EvidenceError

DIGEST_SIZE = 48
ZERO = bytes(DIGEST_SIZE)


class Register(IntEnum):
    """A measurement register; its number is the MrIndex of a CC event log, ``name.lower()`` its spelling."""

    MRTD = 0
    RTMR0 = 1
    RTMR1 = 2
    RTMR2 = 3
    RTMR3 = 4


RTMRS = (Register.RTMR0, Register.RTMR1, Register.RTMR2, Register.RTMR3)


def register_named(name: str) -> Register:
    """``mrtd``, ``rtmr0`` .. ``rtmr3`` to the register; ``EvidenceError`` for any other text."""
    for register in Register:
        if register.name.lower() == name:
            return register
    raise EvidenceError(f"register `{name[:40]}` is not known: expected mrtd or rtmr0 to rtmr3")


def register_of_index(index: int) -> Register:
    """The register of a CC event log's MrIndex; ``EvidenceError`` above 4."""
    try:
        return Register(index)
    except ValueError:
        raise EvidenceError(f"measurement register index is {index}: expected 0 to 4") from None


def register_of_pcr(pcr: int) -> Register:
    """The register that a TD's firmware extends where a TPM platform's would extend ``pcr``.

    PCR 0 maps to MRTD, which firmware cannot extend. ``EvidenceError`` above PCR 15: no mapping is defined.
    """
    if pcr == 0:
        return Register.MRTD
    if pcr in (1, 7):
        return Register.RTMR0
    if 2 <= pcr <= 6:
        return Register.RTMR1
    if 8 <= pcr <= 15:
        return Register.RTMR2
    raise EvidenceError(f"PCR {pcr} stands for no measurement register: expected 0 to 15")
