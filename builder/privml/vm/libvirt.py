"""Derive QEMU's arguments from a libvirt domain, as far as they decide what is measured.

libvirt adds devices, addresses and a UUID that a domain leaves out; a domain must name them. What libvirt writes is
from its source (src/qemu/qemu_command.c); the log of the domain has its own command line, which needs no derivation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from privml.base.errors import EvidenceError, UsageError, printable
from privml.evidence.nvidia.xml import Element, parse
from privml.machine.spellings import NO_UUID

_IGNORED = frozenset(
    [
        "name",
        "title",
        "description",
        "metadata",
        "on_poweroff",
        "on_reboot",
        "on_crash",
        "currentMemory",
        "resource",
        "seclabel",
        "cputune",
        "memtune",
        "blkiotune",
        "iothreads",
        "memoryBacking",
    ]
)
_UNITS = {"b": 0, "bytes": 0, "KiB": 10, "k": 10, "K": 10, "MiB": 20, "M": 20, "GiB": 30, "G": 30, "TiB": 40, "T": 40}
_PRESENT = frozenset(["apic", "pae", "gic"])
_TIMERS = frozenset(["rtc", "pit", "kvmclock", "tsc"])
_MAX_TEXT = 200
_NO_KERNEL = "expected <kernel> with uki.efi: a boot from a disk is not predicted for it"


@dataclass(frozen=True)
class Domain:
    """What a domain starts: the path of its QEMU, and QEMU's arguments."""

    emulator: str
    words: tuple[str, ...]


def read(data: bytes, *, from_disk: bool = False) -> Domain:
    """The domain in an XML file; ``UsageError`` for a file that is not one, or that leaves something to libvirt.

    ``from_disk``: it boots from its first disk, and has no ``<kernel>``.
    """
    try:
        root = parse(data.rstrip() + b"\n")
    except EvidenceError as error:
        raise UsageError(
            error.message, hint="`virsh dumpxml --inactive NAME` prints a domain in plain XML"
        ) from error
    if root.tag != "domain":
        raise UsageError(f"XML: the root element is `{_short(root.tag)}`, expected a libvirt domain")
    reader = _Domain(from_disk=from_disk)
    reader.read(root)
    if reader.problems:
        lines = "\n".join(f"  {problem}" for problem in dict.fromkeys(reader.problems))
        raise UsageError(f"this domain cannot be predicted:\n{lines}", hint="change the domain and learn it again")
    return Domain(reader.emulator, tuple(reader.words()))


def _short(text: str) -> str:
    return printable(text.strip()[:_MAX_TEXT])


def _child(element: Element, name: str) -> Element | None:
    return next((one for one in element.elements if one.tag == name), None)


@dataclass
class _Domain:
    from_disk: bool = False
    problems: list[str] = field(default_factory=list)
    emulator: str = ""
    machine: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    globals: list[str] = field(default_factory=list)
    boot: list[str] = field(default_factory=list)
    booted: dict[str, int] = field(default_factory=dict)
    ordered: bool = False
    there: set[str] = field(default_factory=set)
    topology: dict[str, str] | None = None
    hardware_uuid: bool = False
    ports: dict[int, str] = field(default_factory=dict)
    disks: int = 0
    cards: int = 0

    def problem(self, element: str, why: str) -> None:
        self.problems.append(f"<{_short(element)}>: {why}")

    def read(self, root: Element) -> None:
        handlers: Mapping[str, Callable[[Element], None]] = {
            "uuid": self.on_uuid,
            "hwuuid": self.on_hardware_uuid,
            "memory": self.on_memory,
            "vcpu": self.on_vcpu,
            "os": self.on_os,
            "features": self.on_features,
            "cpu": self.on_cpu,
            "clock": self.on_clock,
            "pm": self.on_pm,
            "devices": self.on_devices,
            "launchSecurity": self.on_security,
        }
        if root.values.get("type") != "kvm":
            self.problem("domain", "expected type='kvm'")
        self.ordered = any(each.tag == "boot" and "order" in each.values for each in root.walk())
        # The order of boot devices is needed when devices are read, and the topology when vCPUs are.
        topology = next((each for each in root.walk() if each.tag == "topology"), None)
        self.topology = dict(topology.values) if topology is not None else None
        self.hardware_uuid = _child(root, "hwuuid") is not None
        for element in sorted(root.elements, key=lambda one: one.tag == "devices"):
            self.there.add(element.tag)
            if element.tag in handlers:
                handlers[element.tag](element)
            elif element.tag not in _IGNORED:
                self.problem(element.tag, "its effect on the tables is not known: leave it out")
        for name, why in (
            ("uuid", "libvirt makes a random one, which is measured into RTMR0: name it, or <hwuuid>"),
            ("memory", "expected the memory size"),
            ("vcpu", "expected the number of vCPUs"),
            ("cpu", "expected mode='host-passthrough', the only CPU of a TD"),
            ("launchSecurity", "expected type='tdx'"),
            ("controller type='usb'", "libvirt adds a USB controller: add <controller type='usb' model='none'/>"),
            ("memballoon", "libvirt adds a balloon: add <memballoon model='none'/>"),
            *(() if self.from_disk else (("kernel", _NO_KERNEL),)),
            ("loader", "expected <loader type='rom'> with a TD's firmware"),
            ("acpi", "expected <acpi/>"),
        ):
            if name not in self.there:
                self.problem(name, why)

    def words(self) -> Iterator[str]:
        """QEMU's arguments, in libvirt's order."""
        yield from ("-machine", ",".join([*self.machine, "usb=off", "dump-guest-core=off"]))
        yield from self.head
        yield from ("-no-user-config", "-nodefaults")
        yield from self.globals
        yield from ("-boot", ",".join([*self.boot, "strict=on"]))
        yield from self.devices

    def on_uuid(self, element: Element) -> None:
        if not self.hardware_uuid:
            self.head += ["-uuid", element.text.strip()]

    def on_hardware_uuid(self, element: Element) -> None:
        self.there.add("uuid")
        if element.text.strip() == NO_UUID:
            self.problem("hwuuid", "libvirt drops one of zeros, and takes <uuid>: name another")
        self.head += ["-uuid", element.text.strip()]

    def on_memory(self, element: Element) -> None:
        unit, text = element.values.get("unit", "KiB"), element.text.strip()
        if unit not in _UNITS or not text.isdecimal() or len(text) > 15:
            self.problem("memory", f"`{_short(text)}` `{_short(unit)}`: expected a number in KiB, MiB or GiB")
            return
        self.head += ["-m", f"{(int(text) << _UNITS[unit]) >> 10}K"]

    def on_vcpu(self, element: Element) -> None:
        text = element.text.strip()
        if not text.isdecimal() or len(text) > 4 or "current" in element.values:
            self.problem("vcpu", "expected one number of vCPUs, all of them from the start")
            return
        sizes = {key: value for key, value in (self.topology or {}).items() if key in ("sockets", "cores", "threads")}
        if not all(value.isdecimal() for value in sizes.values()):
            self.problem("topology", "expected numbers")
            return
        sizes = sizes or {"sockets": text, "cores": "1", "threads": "1"}
        self.head += ["-smp", ",".join([text, *(f"{key}={value}" for key, value in sizes.items())])]

    def on_os(self, element: Element) -> None:
        if "firmware" in element.values:
            self.problem("os firmware", "libvirt chooses a file: name it in <loader type='rom'>")
        for one in element.elements:
            self.there.add(one.tag)
            match one.tag:
                case "type":
                    self.machine.insert(0, one.values.get("machine", "q35"))
                case "loader":
                    if one.values.get("type", "rom") != "rom":
                        self.problem("loader", "a TD starts with type='rom' and a whole firmware file")
                    self.head += ["-bios", one.text.strip()]
                case "kernel":
                    self.head += ["-kernel", one.text.strip()]
                case "boot":
                    self.booted.setdefault(one.values.get("dev", ""), len(self.booted) + 1)
                case "bootmenu":
                    self.boot.append("menu=on" if one.values.get("enable") == "yes" else "menu=off")
                case "initrd" | "cmdline":
                    self.problem(one.tag, "the image has its own: leave it out")
                case _:
                    self.problem(one.tag, "its effect on the tables is not known: leave it out")
        if not self.booted and not self.ordered:
            self.booted["hd"] = 1  # libvirt's default

    def on_features(self, element: Element) -> None:
        for one in element.elements:
            self.there.add(one.tag)
            if one.tag == "ioapic":
                split = one.values.get("driver") == "qemu"
                self.machine.append(f"kernel_irqchip={'split' if split else 'on'}")
            elif one.tag in ("smm", "vmport"):
                self.machine.append(f"{one.tag}={one.values.get('state', 'on')}")
            elif one.tag != "acpi" and one.tag not in _PRESENT:
                self.problem(one.tag, "its effect on the tables is not known: leave it out")

    def on_cpu(self, element: Element) -> None:
        if element.values.get("mode") != "host-passthrough":
            self.problem("cpu", "expected mode='host-passthrough', the only CPU of a TD")
        model = "host"
        for one in element.elements:
            if one.tag == "maxphysaddr":
                bits = one.values.get("bits", "")
                if one.values.get("mode") != "emulate" or not bits.isdecimal() or len(bits) > 2:
                    self.problem("maxphysaddr", "expected mode='emulate' and the number of bits")
                model = f"host,phys-bits={bits}"
            elif one.tag not in ("topology", "cache"):
                self.problem(one.tag, "its effect on the tables is not known: leave it out")
        self.head += ["-cpu", model]

    def on_clock(self, element: Element) -> None:
        for one in element.elements:
            name = one.values.get("name", "")
            if name == "hpet":
                self.machine.append(f"hpet={'off' if one.values.get('present') == 'no' else 'on'}")
            elif name not in _TIMERS:
                self.problem(f"timer name='{name}'", "its effect on the tables is not known: leave it out")

    def on_pm(self, element: Element) -> None:
        for one in element.elements:
            state = {"suspend-to-mem": "disable_s3", "suspend-to-disk": "disable_s4"}.get(one.tag)
            if state is None:
                self.problem(one.tag, "its effect on the tables is not known: leave it out")
                continue
            off = one.values.get("enabled") == "no"
            self.globals += ["-global", f"ICH9-LPC.{state}={int(off)}"]

    def on_security(self, element: Element) -> None:
        if element.values.get("type") != "tdx":
            self.problem("launchSecurity", f"type `{_short(element.values.get('type', ''))}`, expected tdx")
        self.machine.append("confidential-guest-support=lsec0")
        self.head += ["-object", "tdx-guest,id=lsec0"]

    def on_devices(self, element: Element) -> None:
        handlers: Mapping[str, Callable[[Element], None]] = {
            "disk": self.on_disk,
            "interface": self.on_interface,
            "controller": self.on_controller,
            "serial": self.on_serial,
            "memballoon": self.on_model,
            "rng": self.on_model,
            "vsock": self.on_model,
            "watchdog": self.on_watchdog,
            "hostdev": self.on_hostdev,
        }
        # Root ports first: cards are behind them.
        for one in sorted(element.elements, key=lambda each: each.tag != "controller"):
            self.there.add(one.tag)
            if one.tag == "emulator":
                self.emulator = one.text.strip()
            elif one.tag in handlers:
                handlers[one.tag](one)
            elif one.tag == "console" or self.is_built_in(one):
                continue
            else:
                self.problem(one.tag, "a device that is not modelled: leave it out")

    def is_built_in(self, one: Element) -> bool:
        """Whether the machine has the device in any case, or it is none."""
        model = _child(one, "model")
        return (
            (one.tag == "input" and one.values.get("bus") == "ps2")
            or (one.tag == "audio" and one.values.get("type") == "none")
            or (one.tag == "video" and model is not None and model.values.get("type") == "none")
        )

    def numbers(self, address: Element, what: str) -> dict[str, int] | None:
        parts = {key: address.values.get(key, "0x0") for key in ("domain", "bus", "slot", "function")}
        try:
            return {key: int(value, 0) for key, value in parts.items()}
        except ValueError:
            self.problem(what, "expected numbers in <address>")
            return None

    def place(self, element: Element, what: str) -> str | None:
        address = _child(element, "address")
        if address is None or address.values.get("type") != "pci":
            self.problem(
                what, "libvirt chooses its place: add <address type='pci' bus='0x00' slot='0xNN' function='0x0'/>"
            )
            return None
        numbers = self.numbers(address, what)
        if numbers is None:
            return None
        if numbers["domain"] or numbers["bus"] or numbers["function"]:
            self.problem(what, "expected a place on the root bus: bus='0x00' and function='0x0'")
            return None
        return f"bus=pcie.0,addr={numbers['slot']:#x}"

    def index(self, element: Element, kind: str, number: int) -> str:
        own = _child(element, "boot")
        order = own.values.get("order", "") if own is not None else ""
        if order:
            if not order.isdecimal() or len(order) > 3:
                self.problem("boot", "expected a number as its order")
            return f",bootindex={order}"
        default = None if self.ordered or number else self.booted.get(kind)
        return "" if default is None else f",bootindex={default}"

    def on_disk(self, element: Element) -> None:
        target = _child(element, "target")
        bus = target.values.get("bus", "") if target is not None else ""
        if element.values.get("device", "disk") != "disk" or bus != "virtio":
            self.problem("disk", f"on the bus `{_short(bus)}`, expected a disk with bus='virtio'")
            return
        place = self.place(element, "disk")
        if place is not None:
            index = self.index(element, "hd", self.disks)
            self.devices += ["-device", f"virtio-blk-pci,{place},drive=d{self.disks}{index}"]
        self.disks += 1

    def on_interface(self, element: Element) -> None:
        model = _child(element, "model")
        if model is None or model.values.get("type") != "virtio":
            self.problem("interface", "expected <model type='virtio'/>")
            return
        rom = _child(element, "rom")
        without = ",romfile=" if rom is not None and rom.values.get("enabled") == "no" else ""
        place = self.place(element, "interface")
        if place is not None:
            index = self.index(element, "network", self.cards)
            self.devices += ["-device", f"virtio-net-pci,netdev=n{self.cards},{place}{without}{index}"]
        self.cards += 1

    def on_controller(self, element: Element) -> None:
        values = element.values
        kind, model, number = values.get("type", ""), values.get("model", ""), values.get("index", "0")
        self.there.add(f"controller type='{kind}'")
        if model == "pcie-root-port":
            self.port(element, number)
            return
        built_in = (kind, model) == ("pci", "pcie-root") or (kind == "sata" and number == "0")
        if not built_in and (kind, model) != ("usb", "none"):
            self.problem(
                f"controller type='{kind}' model='{model}'",
                "a controller that is not modelled: place devices on the root bus and leave it out",
            )

    def port(self, element: Element, index: str) -> None:
        target = _child(element, "target")
        chassis = index if target is None else target.values.get("chassis", index)
        place = self.place(element, "controller model='pcie-root-port'")
        if not (index.isdecimal() and chassis.isdecimal() and len(index) <= 3 and len(chassis) <= 3):
            self.problem("controller model='pcie-root-port'", "expected numbers as index and chassis")
        elif place is not None:
            self.ports[int(index)] = f"pci.{int(index)}"
            self.devices += ["-device", f"pcie-root-port,id=pci.{int(index)},chassis={int(chassis)},{place}"]

    def on_hostdev(self, element: Element) -> None:
        """A card of the host, which is behind a root port of its own."""
        kind = (element.values.get("mode"), element.values.get("type"))
        source, address = _child(element, "source"), _child(element, "address")
        host = None if source is None else _child(source, "address")
        if kind != ("subsystem", "pci") or host is None:
            self.problem("hostdev", "a device that is not modelled: expected a PCI card of the host by its address")
            return
        card = self.numbers(host, "hostdev")
        own = None if address is None else self.numbers(address, "hostdev")
        if card is None:
            return
        if own is None or own["bus"] not in self.ports or own["slot"] or own["function"]:
            self.problem("hostdev", "expected <address> on the bus of a <controller model='pcie-root-port'>")
            return
        name = f"{card['domain']:04x}:{card['bus']:02x}:{card['slot']:02x}.{card['function']:x}"
        self.devices += ["-device", f"vfio-pci,host={name},bus={self.ports[own['bus']]},addr=0x0"]

    def on_serial(self, _: Element) -> None:
        self.devices += ["-device", "isa-serial,chardev=serial,index=0"]

    def on_model(self, element: Element) -> None:
        model = element.values.get("model", "")
        if element.tag == "memballoon" and model == "none":
            return
        names = {"memballoon": "virtio-balloon-pci", "rng": "virtio-rng-pci", "vsock": "vhost-vsock-pci"}
        if model not in ("virtio", "virtio-non-transitional"):
            self.problem(element.tag, f"model `{_short(model)}`, expected virtio")
            return
        place = self.place(element, element.tag)
        if place is not None:
            self.devices += ["-device", f"{names[element.tag]},{place}"]

    def on_watchdog(self, element: Element) -> None:
        if element.values.get("model") != "itco":
            self.problem("watchdog", "a device that is not modelled: leave it out")
            return
        self.globals += ["-global", "ICH9-LPC.noreboot=off"]
