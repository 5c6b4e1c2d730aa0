"""Boot profiles as data: which firmware build under which TPM or TDX logs which kinds of events.

A profile is chosen from a pinned firmware and a log of a real boot, never from a version string: distributions
back-port. ADR 0022 and 0034 say what was seen; tests/golden/test_measure_profiles.py holds logs of TDs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from privml.events.event import Evidence
from privml.measure.bootvars import BOOT_MANAGER_MENU, FIRMWARE_SETUP, SHELL, UI_APP, BootOption

# The fw_cfg items that are measured, in the firmware's fixed order (edk2 OvmfPkg/Library/QemuFwCfgLib,
# QemuFwCfgCacheInit.c); None: any size. An item of another size is not measured.
FW_CFG_ITEMS: tuple[tuple[str, int | None], ...] = (
    ("etc/extra-pci-roots", 8),
    ("BootMenu", 2),
    ("etc/boot-menu-wait", 2),
    ("etc/reserved-memory-end", 8),
    ("opt/ovmf/X-PciMmio64Mb", None),
    ("bootorder", None),
)


@dataclass(frozen=True)
class Profile:
    """How one firmware build measures.

    ``tpm``: a software TPM's log (PCRs mapped to registers) instead of a TD's. ``secure_boot``: the build has Secure
    Boot. ``fw_cfg_items``, ``smbios``: whether those rows exist. ``boot_options``: the firmware's own.
    ``separators``: how many ReadyToBoot separators reach RTMR0 and RTMR1. ``evidence``: of the rows that only this
    profile has. ``tagged_events``: whether the stub's SMBIOS events reach a TD's registers (``cc``) or a TPM only.
    For boots from a disk ``network_boot`` says that network cards have options, ``last_options`` are the firmware's
    own that come after the devices'.
    """

    name: str
    tpm: bool
    secure_boot: bool
    fw_cfg_items: bool
    smbios: bool
    boot_options: tuple[BootOption, ...]
    separators: tuple[int, int]
    evidence: Evidence
    source: str
    tagged_events: Literal["tpm-only", "cc"] = "cc"
    network_boot: bool = False
    last_options: tuple[BootOption, ...] = ()


TD_INTELTDX = Profile(
    name="td-inteltdx-202608",
    tpm=False,
    secure_boot=True,
    fw_cfg_items=True,
    smbios=True,
    boot_options=(),
    separators=(0, 1),
    evidence=Evidence.SOURCE,
    source="edk2 IntelTdxX64 from 202605 (03a07cb0f5), direct kernel boot",
)

TD_OVMF_2024 = Profile(
    name="td-ovmf-202408",
    tpm=False,
    secure_boot=False,
    fw_cfg_items=False,
    smbios=False,
    boot_options=(UI_APP,),
    separators=(1, 0),
    evidence=Evidence.HARDWARE,
    source="edk2 up to 202408, whose ReadyToBoot separator went to RTMR0 (fixed by efaf8931bb); "
    "event logs of a 2 GiB direct boot and of a cloud machine",
    tagged_events="tpm-only",
)

TD_OVMF_2025 = Profile(
    name="td-ovmf-202502",
    tpm=False,
    secure_boot=False,
    fw_cfg_items=False,
    smbios=False,
    boot_options=(UI_APP,),
    separators=(0, 1),
    evidence=Evidence.HARDWARE,
    source="edk2 202411 to 202502 OvmfPkgX64, direct kernel boot",
    tagged_events="tpm-only",
)

TD_OVMF_2026 = Profile(
    name="td-ovmf-202608",
    tpm=False,
    secure_boot=False,
    fw_cfg_items=True,
    smbios=True,
    boot_options=(BOOT_MANAGER_MENU, FIRMWARE_SETUP),
    separators=(0, 1),
    evidence=Evidence.SOURCE,
    source="edk2 from 202505 OvmfPkgX64; the "
    "order of its rows is that of software-TPM boots of 2026.08, no TD's log was available",
)

TD_GCE = Profile(
    name="td-gce",
    tpm=False,
    secure_boot=True,
    fw_cfg_items=False,
    smbios=False,
    boot_options=(),
    separators=(0, 1),
    evidence=Evidence.SOURCE,
    source="Google's firmware, boot from a disk: RTMR0 and the separators are those of captures, the order of RTMR1 "
    "is that of four logs of such machines; no log of an image of ours was available",
)

TPM = Profile(
    name="tpm-ovmf-202608",
    tpm=True,
    secure_boot=False,
    fw_cfg_items=False,
    smbios=True,
    boot_options=(BOOT_MANAGER_MENU, FIRMWARE_SETUP),
    separators=(1, 5),
    evidence=Evidence.TPM_BOOT,
    source="Debian OVMF.fd 2026.08, QEMU 11.1.2, software TPM: logs of direct boots and of boots from a "
    "disk compared event by event",
    network_boot=True,
    last_options=(SHELL,),
)
