"""How a software-TPM boot's log differs from the prediction for a TD: rules as data, each tied to its source.

A test boot is not a TD. It confirms a TD's prediction if a rule explains every difference between the two:
each differing event is matched by exactly one rule, and each rule that the boot's situation calls for is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privml.events.event import Event
from privml.events.registers import RTMR0, RTMR1
from privml.events.tcg import LogEntry
from privml.events.types import (
    EV_EFI_BOOT_SERVICES_DRIVER,
    EV_EFI_HANDOFF_TABLES2,
    EV_EFI_PLATFORM_FIRMWARE_BLOB2,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_PLATFORM_CONFIG_FLAGS,
    EV_SEPARATOR,
)
from privml.measure.compare import Difference, Kind, compare

DIRECT, DISK, NETWORK, ROM = "direct", "disk", "network", "rom"
"""Situations of a boot: by ``-kernel``; from a disk; from a disk, with network cards; with option ROMs."""

_ACPI_DATA = b"ACPI DATA"


@dataclass(frozen=True)
class Rule:
    """One kind of difference: ``missing`` from the log, ``extra`` in it, or ``differs``.

    It matches an event of this ``register`` and TCG ``type`` whose predicted origin begins with ``origin`` and whose
    logged data contains ``data`` (where the difference has such a side). It is for boots whose situations include one
    of ``boots``, and takes exactly ``times`` events in each of those; None: one or more, as the cards are.
    """

    id: str
    register: str
    kind: Kind
    type: int
    source: str
    origin: str = ""
    data: bytes = b""
    boots: tuple[str, ...] = (DIRECT, DISK)
    times: int | None = 1

    def matches(self, difference: Difference) -> bool:
        """True when ``difference`` is of this kind."""
        event, entry = difference.predicted, difference.logged
        return (
            difference.register == self.register
            and difference.kind == self.kind
            and all(side.type == self.type for side in (event, entry) if side is not None)
            and (event is None or event.origin.startswith(self.origin))
            and (entry is None or self.data in entry.data)
        )


def _variable(name: str) -> bytes:
    return name.encode("utf-16-le")


_TPM_TABLES = "QEMU 11.1 hw/i386/acpi-build.c: a TPM adds its table, its device in the DSDT and the file etc/tpm/log"
_OPTIONS = (
    "edk2 03a07cb0f5: a TD's firmware leaves its menu, its setup and network boot out; OvmfPkgX64 has them and, from "
    "a disk, the shell"
)
_NOT_A_TD = "edk2 OvmfPkg/IntelTdx: done only in a TD"

RULES: tuple[Rule, ...] = (
    Rule("td-hob", RTMR0, "missing", EV_EFI_HANDOFF_TABLES2, f"{_NOT_A_TD} (TdxHelperMeasureTdHob)", "TD HOB"),
    Rule(
        "variable-volume",
        RTMR0,
        "missing",
        EV_EFI_PLATFORM_FIRMWARE_BLOB2,
        f"{_NOT_A_TD} (TdxHelperMeasureCfvImage); a TPM boot measures volumes into PCR 0, which stands for MRTD",
        "firmware.fd CFV",
    ),
    Rule(
        "boot-menu-item",
        RTMR0,
        "missing",
        EV_PLATFORM_CONFIG_FLAGS,
        "edk2 OvmfPkg/Library/QemuFwCfgLib/QemuFwCfgCacheInit.c: fw_cfg items are measured in a TD only",
        "BootMenu",
    ),
    Rule(
        "boot-order-item",
        RTMR0,
        "missing",
        EV_PLATFORM_CONFIG_FLAGS,
        "the same; QEMU has the file bootorder with -kernel, whose loader ROM has a place in the order",
        "bootorder",
        boots=(DIRECT,),
    ),
    Rule(
        "no-secure-boot",
        RTMR0,
        "differs",
        EV_EFI_VARIABLE_DRIVER_CONFIG,
        "Debian's OVMF.fd is built without Secure Boot: the variable is absent, not 0",
        "firmware.fd variable SecureBoot",
        _variable("SecureBoot"),
    ),
    *(
        Rule(id_, RTMR0, "differs", EV_PLATFORM_CONFIG_FLAGS, _TPM_TABLES, name, _ACPI_DATA)
        for id_, name in (
            ("tpm-loader-script", "etc/table-loader"),
            ("tpm-root-pointer", "etc/acpi/rsdp"),
            ("tpm-tables", "etc/acpi/tables"),
        )
    ),
    Rule("tpm-log-file", RTMR0, "extra", EV_PLATFORM_CONFIG_FLAGS, _TPM_TABLES, data=_ACPI_DATA),
    Rule(
        "boot-order",
        RTMR0,
        "extra",
        EV_EFI_VARIABLE_BOOT,
        _OPTIONS,
        data=_variable("BootOrder"),
        boots=(DIRECT,),
    ),
    Rule(
        "other-boot-order",
        RTMR0,
        "differs",
        EV_EFI_VARIABLE_BOOT,
        _OPTIONS,
        "firmware.fd variable BootOrder",
        _variable("BootOrder"),
        boots=(DISK,),
    ),
    *(
        Rule(
            id_,
            RTMR0,
            "extra",
            EV_EFI_VARIABLE_BOOT,
            _OPTIONS,
            data=_variable(text),
            boots=boots,
            times=None if boots == (NETWORK,) else 1,
        )
        for id_, text, boots in (
            ("menu-option", "BootManagerMenuApp", (DIRECT, DISK)),
            ("setup-option", "EFI Firmware Setup", (DIRECT, DISK)),
            ("pxe-option", "UEFI PXEv", (NETWORK,)),
            ("http-option", "UEFI HTTPv", (NETWORK,)),
            ("shell-option", "EFI Internal Shell", (DISK,)),
        )
    ),
    Rule(
        "pcr-1-separator",
        RTMR0,
        "extra",
        EV_SEPARATOR,
        "edk2 SecurityPkg/Tcg/Tcg2Dxe: at ReadyToBoot a separator in each of PCR 0 to 6; 1 stands for RTMR0",
    ),
    Rule(
        "pcr-2-to-6-separators",
        RTMR1,
        "extra",
        EV_SEPARATOR,
        "the same: PCR 2 to 6 stand for RTMR1, where a TD's firmware (OvmfPkg/Tcg/TdTcg2Dxe) sends one",
        times=4,
    ),
    Rule(
        "option-rom",
        RTMR1,
        "extra",
        EV_EFI_BOOT_SERVICES_DRIVER,
        "edk2 OvmfPkg/IncompatiblePciDeviceSupportDxe: in a TD option ROMs are not loaded",
        boots=(ROM,),
        times=None,
    ),
)


@dataclass(frozen=True)
class Explanation:
    """``used`` counts the events that each rule matched. ``unexplained`` differences match no rule, more than one,
    or one more than their rule has; ``unused`` are the rules that found fewer events than every such boot has."""

    used: dict[str, int]
    unexplained: tuple[Difference, ...]
    unused: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """True when one rule explains each difference, and every rule for such boots was used."""
        return not self.unexplained and not self.unused


def explain(td: Sequence[Event], log: Iterable[LogEntry], situations: frozenset[str]) -> Explanation:
    """Compare a TD's prediction with a software TPM's log, under the ``situations`` of the boot."""
    used: dict[str, int] = {}
    unexplained: list[Difference] = []
    allowed = [rule for rule in RULES if situations.intersection(rule.boots)]
    for difference in compare(td, log, tpm=True).differences:
        matching = [rule for rule in allowed if rule.matches(difference) and used.get(rule.id, 0) != rule.times]
        if len(matching) == 1:
            used[matching[0].id] = used.get(matching[0].id, 0) + 1
        else:
            unexplained.append(difference)
    unused = tuple(rule.id for rule in allowed if used.get(rule.id, 0) < (rule.times or 1))
    return Explanation(used, tuple(unexplained), unused)
