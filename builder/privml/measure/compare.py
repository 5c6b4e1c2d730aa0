"""A boot's log against its prediction: per register, event by event, with the first difference named.

The log is untrusted text; the caller checks that it replays to the registers that the quote or TPM reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from privml.events.event import Event
from privml.events.explain import explain_event
from privml.events.registers import RTMRS, Register
from privml.events.replay import extended
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
from privml.measure import smbios
from privml.measure.digest import sha384
from privml.measure.uki import load_options

Kind = Literal["differs", "missing", "extra"]


@dataclass(frozen=True)
class KnownDifference:
    """A difference that has a name: ``id``, what it means, and where that is known from."""

    id: str
    meaning: str
    source: str


@dataclass(frozen=True)
class Difference:
    """``predicted`` is None for an extra event, ``logged`` is None for a missing one; ``position`` counts from 1."""

    kind: Kind
    register: Register
    position: int
    predicted: Event | None
    logged: LogEntry | None
    known: KnownDifference | None

    def text(self) -> str:
        """One line for a person."""
        place = f"{self.register.name.lower()} event {self.position}"
        parts = [f"{place}: {self.kind}"]
        if self.predicted is not None:
            parts.append(f"predicted {self.predicted.digest.hex()[:16]}.. from {self.predicted.origin}")
        if self.logged is not None:
            what = f"{type_name(self.logged.type)}, {explain_event(self.logged)}"
            parts.append(f"logged {self.logged.sha384.hex()[:16]}.. {what}")
        if self.known is not None:
            parts.append(f"[{self.known.id}] {self.known.meaning}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with everything that ``text`` says, digests whole."""
        return {
            "kind": self.kind,
            "register": self.register.name.lower(),
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

    matched: dict[Register, int]
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """True when every event of every compared register is the predicted one."""
        return not self.differences

    @property
    def first(self) -> Difference | None:
        """The first difference, None when there is none."""
        return self.differences[0] if self.differences else None


def compare(
    predicted: Sequence[Event], log: Iterable[LogEntry], *, tpm: bool, registers: Sequence[Register] = RTMRS[:3]
) -> Comparison:
    """Align ``log`` with ``predicted`` in each of ``registers`` (RTMR0..2: firmware's log knows nothing of RTMR3).

    ``tpm`` says that the log's indices are PCR numbers. ``EvidenceError`` as ``replay``.
    """
    logged: dict[Register, list[LogEntry]] = {register: [] for register in registers}
    for entry in log:
        pair = extended(entry, tpm=tpm)
        if pair is not None and pair[0] in logged:
            logged[pair[0]].append(entry)
    matched: dict[Register, int] = {}
    differences: list[Difference] = []
    for register in registers:
        expected = [event for event in predicted if event.register is register]
        matched[register] = _align(register, expected, logged[register], differences)
    return Comparison(matched, tuple(differences))


def _align(register: Register, expected: list[Event], logged: list[LogEntry], out: list[Difference]) -> int:
    matched = 0
    pairs = align([(event.type, event.digest) for event in expected], [(one.type, one.sha384) for one in logged])
    for left, right, position in pairs:
        event = None if left is None else expected[left]
        entry = None if right is None else logged[right]
        if event is not None and entry is not None and event.digest == entry.sha384:
            matched += 1
            continue
        kind: Kind = "extra" if event is None else "missing" if entry is None else "differs"
        out.append(Difference(kind, register, position, event, entry, known(event, entry)))
    return matched


_Extend = tuple[int, bytes]
_MAX_ALIGNED = 2048


def align(left: Sequence[_Extend], right: Sequence[_Extend]) -> Iterator[tuple[int | None, int | None, int]]:
    """Pair (type, digest) rows of two lists: (index in ``left``, index in ``right``, position in ``right`` from 1).

    Rows with one digest are paired as in a text difference; within a replaced stretch those of one type are, in
    order; what finds no partner has None on the other side. Long lists are paired by position between what they have
    in common at both ends, since alignment is quadratic and a log's length is the host's choice.
    """
    low = 0
    while low < min(len(left), len(right)) and left[low][1] == right[low][1]:
        yield low, low, low + 1
        low += 1
    tail = 0
    while tail < min(len(left), len(right)) - low and left[-1 - tail][1] == right[-1 - tail][1]:
        tail += 1
    first, second = left[low : len(left) - tail], right[low : len(right) - tail]
    blocks = [("replace", 0, len(first), 0, len(second))]
    if max(len(first), len(second)) <= _MAX_ALIGNED:
        blocks = list(
            SequenceMatcher(
                None, [digest for _, digest in first], [digest for _, digest in second], autojunk=False
            ).get_opcodes()
        )
    for tag, a, b, c, d in blocks:
        if tag == "equal":
            for offset in range(b - a):
                yield low + a + offset, low + c + offset, low + c + offset + 1
        else:
            yield from _pairs(left, right, range(low + a, low + b), range(low + c, low + d))
    for offset in range(tail):
        yield len(left) - tail + offset, len(right) - tail + offset, len(right) - tail + offset + 1


def _pairs(
    left: Sequence[_Extend], right: Sequence[_Extend], ours: range, theirs: range
) -> Iterator[tuple[int | None, int | None, int]]:
    """Within a replaced stretch, pair rows of one type in order."""
    following = ours.start
    places: dict[int, list[int]] = {}
    for index in ours:
        places.setdefault(left[index][0], []).append(index)
    taken = dict.fromkeys(places, 0)
    for other in theirs:
        kind = right[other][0]
        known_places = places.get(kind, [])
        while kind in taken and taken[kind] < len(known_places) and known_places[taken[kind]] < following:
            taken[kind] += 1
        partner = known_places[taken[kind]] if kind in taken and taken[kind] < len(known_places) else None
        if partner is not None:
            for index in range(following, partner):
                yield index, None, other + 1
            following = partner + 1
        yield partner, other, other + 1
    for index in range(following, ours.stop):
        yield index, None, theirs.stop + 1


# --- differences that have a name ---------------------------------------------------------------------------------

_Test = Callable[[Event | None, LogEntry | None], bool]

_CONSOLES = ("console=hvc0", *(f"console=uart,io,0x{port:x}" for port in (0x3F8, 0x2F8, 0x3E8, 0x2E8)))
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
            "firmware or the stub loaded one more image: an addon beside the UKI, or another boot option",
            "systemd 262 src/boot/stub.c load_addons; boot with an addon",
        ),
        _further_image,
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
            "firmware made itself other boot options: other disks or network cards, addresses of cards, or slots",
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
    """The difference's name, when it has one."""
    return next((name for name, test in KNOWN if test(event, entry)), None)
