"""The root bus of a foreign QEMU command line: its devices, each in a slot, and words that make them once more.

A device, a place or a property that is not modelled is refused, since each of them is in the tables. The words have
stand-ins for what the host gives: a disk without data, a network without hosts, memory for a card's BARs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from privml.base.errors import printable
from privml.machine import spellings as known
from privml.machine.platform import KINDS, MEMORY, Device

BarsOf = Callable[[str], tuple[int, ...]]
"""The sizes of the 64-bit prefetchable BARs of the card with a PCI address; empty if this machine has none."""

_SLOTS = range(1, 31)
_SHOWN = 120
_PORT = "pcie-root-port"
_ADDRESS = re.compile(r"(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass
class Gathered:
    """What was read of a command line: its problems, what holds only under a condition, and the machine's own words,
    each in the order of the command line.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def problem(self, what: str, why: str) -> None:
        """Record why a part of the command line cannot be predicted."""
        self.problems.append(f"`{shown(what)}`: {why}")


def shown(text: str) -> str:
    """A part of the command line in a message."""
    return printable(text[:_SHOWN])


class RootBus:
    """The devices that were added so far; their problems, notes and words go to ``into``."""

    def __init__(self, into: Gathered, bars_of: BarsOf) -> None:
        self.devices: list[Device] = []
        self._into = into
        self._bars_of = bars_of
        # Root ports that have no card yet, by their id.
        self._ports: dict[str, int] = {}

    def add(self, what: str, driver: str, found: dict[str, str]) -> None:
        """Add the device of ``driver`` with the properties ``found``; ``what`` is its part of the command line.

        ``ValueError`` for a property that is no number.
        """
        if driver == _PORT:
            self._port(what, found)
        elif driver == KINDS[MEMORY].driver:
            self._card(what, found)
        else:
            kinds = {kind.driver: name for name, kind in KINDS.items()} | {
                kind.driver.removesuffix("-pci"): name for name, kind in KINDS.items()
            }
            for suffix in ("-non-transitional", "-transitional"):
                driver = driver.removesuffix(suffix)
            if driver in kinds:
                self._virtio(what, kinds[driver], found)
            else:
                modelled = ", ".join(sorted(kind.driver for kind in KINDS.values()))
                self._into.problem(what, f"a device that is not modelled: leave it out (modelled: {modelled})")

    def whole(self) -> None:
        """What must be there, once all devices are added."""
        if self._ports:
            self._into.problem(next(iter(self._ports)), "an empty root port is not modelled: leave it out")
        if not self.devices:
            self._into.problem("-device", "expected at least the root's disk")

    def _virtio(self, what: str, kind: str, found: dict[str, str]) -> None:
        unknown = sorted(set(found) - known.DEVICE_HOST - known.DEVICE_KEPT)
        if unknown:
            self._into.problem(what, f"the property {shown(unknown[0])} is not known: leave it out")
        rom = (
            kind == "virtio-net" and found.get("rombar", "1") not in ("0", "off") and found.get("romfile", "-") != ""
        )
        if rom:
            self._into.notes.append(
                f"`{shown(what)}`: its option ROM is measured outside a TD only; romfile= leaves it out"
            )
        index = found.get("bootindex")
        slot = self._slot(what, found)
        if slot:
            self.devices.append(Device(kind, slot, rom=rom, bootindex=None if index is None else int(index)))
        self._words_of(kind, found)

    def _words_of(self, kind: str, found: Mapping[str, str]) -> None:
        """The device in its own words, but for the host's side of it."""
        number = sum(device.kind == kind for device in self.devices)
        words = [f"{key}={value}" for key, value in found.items() if key in known.DEVICE_KEPT]
        if kind == "virtio-blk":
            words.insert(0, f"drive=own-disk{number}")
            self._into.words += ["-blockdev", f"driver=null-co,node-name=own-disk{number},size=1048576,read-only=on"]
        if kind == "virtio-net":
            words.insert(0, f"netdev=own-net{number}")
            self._into.words += ["-netdev", f"user,id=own-net{number},restrict=on"]
        driver = KINDS[kind].stand_in or KINDS[kind].driver
        self._into.words += ["-device", ",".join([driver, *(word.replace(",", ",,") for word in words)])]

    def _port(self, what: str, found: dict[str, str]) -> None:
        unknown = sorted(set(found) - {"id", "bus", "addr", "chassis", "slot", "port"})
        if unknown:
            self._into.problem(what, f"the property {shown(unknown[0])} of a root port is not known: leave it out")
        slot = self._slot(what, found)
        self._ports[found.get("id", "")] = slot
        chassis = found.get("chassis", str(slot))
        self._into.words += [
            "-device",
            f"{_PORT},id={found.get('id', '')},chassis={chassis},bus=pcie.0,addr={slot:#x}",
        ]

    def _card(self, what: str, found: dict[str, str]) -> None:
        address = found.get("host", "")
        slot = self._ports.pop(found.get("bus", ""), 0)
        if not _ADDRESS.fullmatch(address):
            self._into.problem(what, "expected host=DOMAIN:BUS:DEVICE.FUNCTION")
            return
        if not slot or int(found.get("addr", "0").partition(".")[0], 16):
            self._into.problem(
                what, f"expected a {_PORT} of its own: -device {_PORT},id=P,bus=pcie.0,addr=N and bus=P"
            )
            return
        bars = self._bars_of(address)
        if not bars:
            self._into.problem(
                what, "its BARs are in the tables, and no such card is here: learn on the machine that has it"
            )
            return
        self._into.notes.append(
            f"`{shown(what)}`: that firmware places its BARs as those of stand-ins is not confirmed"
        )
        self.devices.append(Device(MEMORY, slot, bars=bars, port=True))
        self._into.words += ["-device", f"{KINDS[MEMORY].stand_in},membar={bars[0]},bus={found['bus']},addr=0x0"]

    def _slot(self, what: str, found: Mapping[str, str]) -> int:
        """The device's slot on the root bus; 0 if it is refused."""
        taken = {device.slot for device in self.devices} | set(self._ports.values())
        if found.get("bus", "pcie.0") != "pcie.0":
            self._into.problem(
                what, "behind a bridge: firmware reserves windows for it that are not modelled; use bus=pcie.0,addr=N"
            )
            return 0
        text = found.get("addr")
        if text is None:
            return next((slot for slot in _SLOTS if slot not in taken), 0)
        device, _, function = text.partition(".")
        slot = int(device, 16)
        if int(function or "0", 16) or slot not in _SLOTS:
            self._into.problem(what, "expected function 0 of a slot from 0x1 to 0x1e")
            return 0
        if slot in taken:
            self._into.problem(what, f"slot {slot:#x} has another device")
            return 0
        return slot
