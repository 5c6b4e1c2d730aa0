"""Read a running TD's own interfaces into a capture: configfs-tsm, ACPI, fw_cfg, SMBIOS, PCI.

Every path is under a root, so that a copied tree can be read too. A missing part is recorded with the reason; nothing
is guessed or filled in.
"""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import HostError, printable
from privml.base.strictjson import canonical
from privml.evidence import capture
from privml.evidence.capture import Capture
from privml.evidence.tdx.kernel import TdxTee
from privml.evidence.tsm import KernelFiles

_LIMIT = 8 * 1024 * 1024
_PCI = Path("sys/bus/pci/devices")
_PCI_FIELDS = ("class", "vendor", "device", "subsystem_vendor", "subsystem_device", "revision", "resource")

SOURCES: dict[str, Path] = {
    capture.LOG: Path("sys/firmware/acpi/tables/data/CCEL"),
    capture.TABLE: Path("sys/firmware/acpi/tables/CCEL"),
    capture.SMBIOS: Path("sys/firmware/dmi/tables/DMI"),
    capture.SMBIOS_ENTRY: Path("sys/firmware/dmi/tables/smbios_entry_point"),
    capture.CPUS: Path("sys/devices/system/cpu/present"),
    "kernel/osrelease": Path("proc/sys/kernel/osrelease"),
    "kernel/version": Path("proc/version"),
    "kernel/cmdline": Path("proc/cmdline"),
    **{
        capture.FW_CFG_FOLDER + name: Path("sys/firmware/qemu_fw_cfg/by_name") / name / "raw"
        for name in capture.FW_CFG
    },
}
"""Where each part is read, under the root."""


def tee_under(root: Path, files: KernelFiles | None = None) -> TdxTee:
    """The TEE interface of the kernel whose ``/sys`` is under ``root``."""
    return TdxTee(
        reports=root / "sys/kernel/config/tsm/report",
        measurements=root / "sys/devices/virtual/misc/tdx_guest/measurements",
        ccel=root / SOURCES[capture.LOG],
        files=files,
    )


def read(
    root: Path,
    tee: TdxTee | None,
    *,
    files: KernelFiles | None = None,
    qemu: bytes | None = None,
    uki: str = "",
    leave_out: frozenset[str] = frozenset(),
) -> Capture:
    """Read everything available under ``root``; ``tee`` gives the quote, None leaves it out.

    ``qemu`` is the host's command line, if somebody has it; ``uki`` the hex SHA-256 of the booted image.
    ``HostError`` when there is no event log (not a TD, or its kernel hides it), or when the quote fails.
    """
    files = files or KernelFiles()
    found: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for name, path in SOURCES.items():
        if name in leave_out:
            missing[name] = "left out on request"
            continue
        try:
            found[name] = files.read(root / path, _LIMIT)
        except OSError as error:
            missing[name] = f"/{path}: {printable(error.strerror or str(error))}"
    if capture.LOG in missing and capture.LOG not in leave_out:
        raise HostError(
            f"no event log: {missing[capture.LOG]}",
            hint="run it as root inside a TD whose kernel has CONFIG_ACPI and was started by TDX firmware",
        )
    _devices(root, files, found, missing, leave_out)
    if qemu is not None and capture.QEMU not in leave_out:
        found[capture.QEMU] = qemu
    else:
        missing[capture.QEMU] = "the guest does not know it: --qemu-cmdline FILE"
    made = Capture(found, missing, uki)
    if tee is None or capture.QUOTE in leave_out:
        return Capture(found, {**missing, capture.QUOTE: "left out on request"}, uki)
    return Capture({**found, capture.QUOTE: tee.quote(made.report_data())}, missing, uki)


def _devices(
    root: Path, files: KernelFiles, found: dict[str, bytes], missing: dict[str, str], leave_out: frozenset[str]
) -> None:
    """PCI devices as `lspci` lists them: identities and resources, in the kernel's text form."""
    if capture.DEVICES in leave_out:
        missing[capture.DEVICES] = "left out on request"
        return
    rows = []
    try:
        for slot in sorted((root / _PCI).iterdir()):
            row: dict[str, str] = {"slot": slot.name}
            for name in _PCI_FIELDS:
                row[name] = files.read(slot / name, 65536).decode("ascii", "replace").strip()
            rows.append(row)
    except OSError as error:
        missing[capture.DEVICES] = f"/{_PCI}: {printable(error.strerror or str(error))}"
        return
    found[capture.DEVICES] = canonical(rows)
