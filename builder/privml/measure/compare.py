"""Compare a boot's log with its prediction, per register and event by event, and name the first difference.

The log is untrusted text; the caller checks that it replays to the registers that the quote or TPM reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from privml.events.align import differences
from privml.events.event import Event
from privml.events.logged import LoggedEvent, logged
from privml.events.registers import RTMRS
from privml.events.tcg import LogEntry
from privml.events.types import (
    EV_EFI_ACTION,
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_BOOT_SERVICES_DRIVER,
    EV_EFI_VARIABLE_BOOT,
    EV_EVENT_TAG,
    EV_IPL,
    type_name,
)
from privml.events.wording import difference_line, explain_event
from privml.measure import smbios
from privml.measure.digest import sha384
from privml.measure.uki import load_options

Kind = Literal["differs", "missing", "extra"]


@dataclass(frozen=True)
class KnownDifference:
    """A difference with a known cause: ``id``, what it means, and its source."""

    id: str
    meaning: str
    source: str


@dataclass(frozen=True)
class Difference:
    """``predicted`` is None for an extra event, ``logged`` is None for a missing one; ``position`` counts from 1."""

    kind: Kind
    register: str
    position: int
    predicted: Event | None
    logged: LogEntry | None
    known: KnownDifference | None

    def text(self) -> str:
        """One line for a person."""
        logged = None if self.logged is None else LoggedEvent(self.register, self.logged, 0)
        line = difference_line(self.register, self.position, self.predicted, logged)
        return line if self.known is None else f"{line}; [{self.known.id}] {self.known.meaning}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with everything that ``text`` says, digests whole."""
        return {
            "kind": self.kind,
            "register": self.register,
            "position": self.position,
            "predicted": self.predicted.to_dict() if self.predicted else None,
            "logged": {
                "type": self.logged.type,
                "type_name": type_name(self.logged.type),
                "digest": self.logged.sha384.hex(),
                "text": explain_event(self.logged),
            }
            if self.logged
            else None,
            "known": self.known.id if self.known else None,
        }


@dataclass(frozen=True)
class Comparison:
    """``matched`` counts equal events of each register; ``differences`` are in register and log order."""

    matched: dict[str, int]
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """True when every event of every compared register is the predicted one."""
        return not self.differences


def compare(
    predicted: Sequence[Event], log: Iterable[LogEntry], *, tpm: bool, registers: Sequence[str] = RTMRS[:3]
) -> Comparison:
    """Align ``log`` with ``predicted`` in each of ``registers`` (RTMR0..2: the firmware's log has no RTMR3 events).

    ``tpm`` says that the log's indices are PCR numbers. ``EvidenceError`` as ``replay``.
    """
    entries = logged(log, tpm=tpm)
    matched: dict[str, int] = {}
    found: list[Difference] = []
    for register in registers:
        expected = [event for event in predicted if event.register == register]
        here = [entry for entry in entries if entry.register == register]
        matched[register] = len(here)
        for event, got, position in differences(expected, here):
            matched[register] -= got is not None
            kind: Kind = "extra" if event is None else "missing" if got is None else "differs"
            entry = None if got is None else got.entry
            found.append(Difference(kind, register, position, event, entry, known(event, entry)))
    return Comparison(matched, tuple(found))


# --- differences that have a name ---------------------------------------------------------------------------------

_Test = Callable[[Event | None, LogEntry | None], bool]

_CONSOLES = ("console=hvc0", *(f"console=uart,io,0x{port:x}" for port in (0x3F8, 0x2F8, 0x3E8, 0x2E8)))
_COMPANIONS = frozenset(
    f"{name} initrd\0".encode("utf-16-le")
    for what in ("credentials", "system extension", "configuration extension")
    for name in (what.capitalize(), f"Global {what}")
)
_LOAD_OPTIONS = b"LOADED_IMAGE::LoadOptions"


def _exit_retried(event: Event | None, entry: LogEntry | None) -> bool:
    return (
        event is None
        and entry is not None
        and entry.type == EV_EFI_ACTION
        and entry.data.startswith(b"Exit Boot Services")
    )


def _host_options(event: Event | None, entry: LogEntry | None) -> bool:
    return (
        event is None
        and entry is not None
        and entry.type == EV_IPL
        and entry.sha384 == sha384(entry.data)
        and entry.data.endswith(b"\0\0")
    )


def _is_load_options(event: Event | None, entry: LogEntry | None) -> bool:
    return event is not None and entry is not None and entry.type == EV_EVENT_TAG and _LOAD_OPTIONS in entry.data


def _stub_console(event: Event | None, entry: LogEntry | None) -> bool:
    if not _is_load_options(event, entry) or event is None or entry is None:
        return False
    return any(entry.sha384 == sha384(load_options(f"{event.note} {console}")) for console in _CONSOLES)


def _stub_companions(event: Event | None, entry: LogEntry | None) -> bool:
    return event is None and entry is not None and entry.type == EV_IPL and entry.data in _COMPANIONS


def _further_image(event: Event | None, entry: LogEntry | None) -> bool:
    return event is None and entry is not None and entry.type == EV_EFI_BOOT_SERVICES_APPLICATION


def _option_rom(event: Event | None, entry: LogEntry | None) -> bool:
    return event is None and entry is not None and entry.type == EV_EFI_BOOT_SERVICES_DRIVER


def _boot_option(event: Event | None, entry: LogEntry | None) -> bool:
    return any(side is not None and side.type == EV_EFI_VARIABLE_BOOT for side in (event, entry))


def _from(*prefixes: str) -> _Test:
    """True when both are there and the predicted event's origin begins with one of ``prefixes``."""
    return lambda event, entry: event is not None and entry is not None and event.origin.startswith(prefixes)


def _stub_smbios(event: Event | None, entry: LogEntry | None) -> bool:
    named = entry is not None and "smbios:type".encode("utf-16-le") in entry.data
    return named or (entry is None and event is not None and event.origin.startswith(f"{smbios.TABLES} type"))


KNOWN: tuple[tuple[KnownDifference, _Test], ...] = (
    (
        KnownDifference(
            "exit-boot-services-retried",
            "the kernel called ExitBootServices twice: generic OVMF could write its variables to the boot disk",
            "boots from a disk, QEMU 11.1.2, OVMF 2026.08: always when it is writable, never when it is not",
        ),
        _exit_retried,
    ),
    (
        KnownDifference(
            "host-load-options",
            "the host gave the UKI a command line, which the stub measured and used: instead of the embedded one, or "
            "an addon's, behind it",
            "systemd 262 src/boot/stub.c settle_command_line; boots with -append and with an addon",
        ),
        _host_options,
    ),
    (
        KnownDifference(
            "stub-console",
            "the stub appended a console= to the command line, after looking at the machine's devices",
            "systemd 262 src/boot/console.c cmdline_append_console",
        ),
        _stub_console,
    ),
    (
        KnownDifference(
            "other-command-line",
            "the kernel got another command line than the UKI's: from the host, an addon or an SMBIOS string",
            "systemd 262 src/boot/stub.c",
        ),
        _is_load_options,
    ),
    (
        KnownDifference(
            "further-image",
            "firmware or the stub loaded one more image: an addon next to the UKI, or another boot option",
            "systemd 262 src/boot/stub.c load_addons; boot with an addon",
        ),
        _further_image,
    ),
    (
        KnownDifference(
            "stub-companions",
            "the stub found credentials or extensions on the boot disk, next to the UKI or in \\loader, and put them "
            "into the initrd",
            "systemd 262 src/boot/stub.c; boots with each of them on the boot disk",
        ),
        _stub_companions,
    ),
    (
        KnownDifference(
            "option-rom",
            "a card brought a driver in its option ROM; in a TD firmware loads none",
            "edk2 OvmfPkg/IncompatiblePciDeviceSupportDxe; boot with QEMU's efi-virtio.rom",
        ),
        _option_rom,
    ),
    (
        KnownDifference(
            "host-initrd",
            "the kernel got another initrd: with the host's own before the embedded one, or with a random boot "
            "secret, which the stub makes when it can write to the boot disk",
            "systemd 262 src/boot/stub.c, src/boot/boot-secret.c; boots with fw_cfg etc/boot/initrd and from a disk",
        ),
        _from("uki.efi .initrd with"),
    ),
    (
        KnownDifference(
            "acpi-tables",
            "another machine: vCPUs, memory, devices, QEMU version, or the address of the 64-bit PCI window",
            "QEMU 11.1 hw/i386/acpi-build.c",
        ),
        _from("etc/table-loader", "etc/acpi/"),
    ),
    (
        KnownDifference(
            "stub-smbios",
            "the stub measures SMBIOS types 1, 2 and 11: a serial number, UUID or OEM string of the host's choice",
            "systemd 262 src/boot/measure-smbios.c",
        ),
        _stub_smbios,
    ),
    (
        KnownDifference(
            "smbios-table",
            "another machine: sockets, memory, CPU model, QEMU version, or another build of the firmware",
            "edk2 MdeModulePkg/Universal/SmbiosMeasurementDxe",
        ),
        _from(smbios.TABLES),
    ),
    (
        KnownDifference(
            "boot-options",
            "firmware generated other boot options: other disks or network cards, addresses of cards, or slots",
            "edk2 MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c",
        ),
        _boot_option,
    ),
    (
        KnownDifference(
            "secure-boot-variables",
            "the firmware's variables differ: keys enrolled or deleted, or another build of the firmware",
            "edk2 MdeModulePkg/Universal/Variable/RuntimeDxe/Measurement.c",
        ),
        _from("firmware.fd variable"),
    ),
)


def known(event: Event | None, entry: LogEntry | None) -> KnownDifference | None:
    """The known cause of a difference; None when there is none."""
    return next((name for name, test in KNOWN if test(event, entry)), None)
