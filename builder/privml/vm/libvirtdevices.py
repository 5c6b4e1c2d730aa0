"""The devices of a libvirt domain, as QEMU's arguments.

Only devices that are modelled are read. Each must be at a place that the domain names: on the root bus, or, for a
card of the host, behind a root port of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from privml.base.errors import printable
from privml.evidence.nvidia.xml import Element

_MAX_TEXT = 200


@dataclass
class Reading:
    """What reading a domain found: its problems, and the names of the elements that are there."""

    problems: list[str] = field(default_factory=list)
    there: set[str] = field(default_factory=set)

    def problem(self, element: str, why: str) -> None:
        """Record why an element cannot be predicted."""
        self.problems.append(f"<{short(element)}>: {why}")


def short(text: str) -> str:
    """A text of the domain in a message."""
    return printable(text.strip()[:_MAX_TEXT])


def child(element: Element, name: str) -> Element | None:
    """The first element called ``name`` in ``element``."""
    return next((one for one in element.elements if one.tag == name), None)


class Devices:
    """The devices that were read so far: ``words`` and ``globals`` are their arguments of QEMU.

    ``ordered`` and ``booted`` are set before: whether devices name their own place in the order of the boot, and else
    the kinds of devices that the domain boots from, each with its place.
    """

    def __init__(self, reading: Reading) -> None:
        self.emulator = ""
        self.words: list[str] = []
        self.globals: list[str] = []
        self.ordered = False
        self.booted: dict[str, int] = {}
        self._reading = reading
        self._ports: dict[int, str] = {}
        self._disks = 0
        self._cards = 0

    def read(self, element: Element) -> None:
        """Read the domain's ``<devices>``."""
        handlers: Mapping[str, Callable[[Element], None]] = {
            "disk": self._on_disk,
            "interface": self._on_interface,
            "controller": self._on_controller,
            "serial": self._on_serial,
            "memballoon": self._on_model,
            "rng": self._on_model,
            "vsock": self._on_model,
            "watchdog": self._on_watchdog,
            "hostdev": self._on_hostdev,
        }
        # Root ports first: cards are behind them.
        for one in sorted(element.elements, key=lambda each: each.tag != "controller"):
            self._reading.there.add(one.tag)
            if one.tag == "emulator":
                self.emulator = one.text.strip()
            elif one.tag in handlers:
                handlers[one.tag](one)
            elif one.tag == "console" or _is_built_in(one):
                continue
            else:
                self._reading.problem(one.tag, "a device that is not modelled: leave it out")

    def _numbers(self, address: Element, what: str) -> dict[str, int] | None:
        parts = {key: address.values.get(key, "0x0") for key in ("domain", "bus", "slot", "function")}
        try:
            return {key: int(value, 0) for key, value in parts.items()}
        except ValueError:
            self._reading.problem(what, "expected numbers in <address>")
            return None

    def _place(self, element: Element, what: str) -> str | None:
        address = child(element, "address")
        if address is None or address.values.get("type") != "pci":
            self._reading.problem(
                what, "libvirt chooses its place: add <address type='pci' bus='0x00' slot='0xNN' function='0x0'/>"
            )
            return None
        numbers = self._numbers(address, what)
        if numbers is None:
            return None
        if numbers["domain"] or numbers["bus"] or numbers["function"]:
            self._reading.problem(what, "expected a place on the root bus: bus='0x00' and function='0x0'")
            return None
        return f"bus=pcie.0,addr={numbers['slot']:#x}"

    def _index(self, element: Element, kind: str, number: int) -> str:
        own = child(element, "boot")
        order = own.values.get("order", "") if own is not None else ""
        if order:
            if not order.isdecimal() or len(order) > 3:
                self._reading.problem("boot", "expected a number as its order")
            return f",bootindex={order}"
        default = None if self.ordered or number else self.booted.get(kind)
        return "" if default is None else f",bootindex={default}"

    def _on_disk(self, element: Element) -> None:
        target = child(element, "target")
        bus = target.values.get("bus", "") if target is not None else ""
        if element.values.get("device", "disk") != "disk" or bus != "virtio":
            self._reading.problem("disk", f"on the bus `{short(bus)}`, expected a disk with bus='virtio'")
            return
        place = self._place(element, "disk")
        if place is not None:
            index = self._index(element, "hd", self._disks)
            self.words += ["-device", f"virtio-blk-pci,{place},drive=d{self._disks}{index}"]
        self._disks += 1

    def _on_interface(self, element: Element) -> None:
        model = child(element, "model")
        if model is None or model.values.get("type") != "virtio":
            self._reading.problem("interface", "expected <model type='virtio'/>")
            return
        rom = child(element, "rom")
        without = ",romfile=" if rom is not None and rom.values.get("enabled") == "no" else ""
        place = self._place(element, "interface")
        if place is not None:
            index = self._index(element, "network", self._cards)
            self.words += ["-device", f"virtio-net-pci,netdev=n{self._cards},{place}{without}{index}"]
        self._cards += 1

    def _on_controller(self, element: Element) -> None:
        values = element.values
        kind, model, number = values.get("type", ""), values.get("model", ""), values.get("index", "0")
        self._reading.there.add(f"controller type='{kind}'")
        if model == "pcie-root-port":
            self._port(element, number)
            return
        built_in = (kind, model) == ("pci", "pcie-root") or (kind == "sata" and number == "0")
        if not built_in and (kind, model) != ("usb", "none"):
            self._reading.problem(
                f"controller type='{kind}' model='{model}'",
                "a controller that is not modelled: place devices on the root bus and leave it out",
            )

    def _port(self, element: Element, index: str) -> None:
        target = child(element, "target")
        chassis = index if target is None else target.values.get("chassis", index)
        place = self._place(element, "controller model='pcie-root-port'")
        if not (index.isdecimal() and chassis.isdecimal() and len(index) <= 3 and len(chassis) <= 3):
            self._reading.problem("controller model='pcie-root-port'", "expected numbers as index and chassis")
        elif place is not None:
            self._ports[int(index)] = f"pci.{int(index)}"
            self.words += ["-device", f"pcie-root-port,id=pci.{int(index)},chassis={int(chassis)},{place}"]

    def _on_hostdev(self, element: Element) -> None:
        """A card of the host, which is behind a root port of its own."""
        kind = (element.values.get("mode"), element.values.get("type"))
        source, address = child(element, "source"), child(element, "address")
        host = None if source is None else child(source, "address")
        if kind != ("subsystem", "pci") or host is None:
            self._reading.problem(
                "hostdev", "a device that is not modelled: expected a PCI card of the host by its address"
            )
            return
        card = self._numbers(host, "hostdev")
        own = None if address is None else self._numbers(address, "hostdev")
        if card is None:
            return
        if own is None or own["bus"] not in self._ports or own["slot"] or own["function"]:
            self._reading.problem("hostdev", "expected <address> on the bus of a <controller model='pcie-root-port'>")
            return
        name = f"{card['domain']:04x}:{card['bus']:02x}:{card['slot']:02x}.{card['function']:x}"
        self.words += ["-device", f"vfio-pci,host={name},bus={self._ports[own['bus']]},addr=0x0"]

    def _on_serial(self, _: Element) -> None:
        self.words += ["-device", "isa-serial,chardev=serial,index=0"]

    def _on_model(self, element: Element) -> None:
        model = element.values.get("model", "")
        if element.tag == "memballoon" and model == "none":
            return
        names = {"memballoon": "virtio-balloon-pci", "rng": "virtio-rng-pci", "vsock": "vhost-vsock-pci"}
        if model not in ("virtio", "virtio-non-transitional"):
            self._reading.problem(element.tag, f"model `{short(model)}`, expected virtio")
            return
        place = self._place(element, element.tag)
        if place is not None:
            self.words += ["-device", f"{names[element.tag]},{place}"]

    def _on_watchdog(self, element: Element) -> None:
        if element.values.get("model") != "itco":
            self._reading.problem("watchdog", "a device that is not modelled: leave it out")
            return
        self.globals += ["-global", "ICH9-LPC.noreboot=off"]


def _is_built_in(one: Element) -> bool:
    """Whether the machine has the device in any case, or it is none."""
    model = child(one, "model")
    return (
        (one.tag == "input" and one.values.get("bus") == "ps2")
        or (one.tag == "audio" and one.values.get("type") == "none")
        or (one.tag == "video" and model is not None and model.values.get("type") == "none")
    )
