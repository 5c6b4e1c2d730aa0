"""Derive QEMU's arguments from a libvirt domain, as far as they decide what is measured.

libvirt adds devices, addresses and a UUID that a domain leaves out; a domain must name them. What libvirt writes is
from its source (src/qemu/qemu_command.c); the log of the domain has its own command line, which needs no derivation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from privml.base.errors import EvidenceError, UsageError
from privml.evidence.nvidia.xml import Element, parse
from privml.machine.spellings import NO_UUID
from privml.vm.libvirtdevices import Devices, Reading, child, short

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
        raise UsageError(f"XML: the root element is `{short(root.tag)}`, expected a libvirt domain")
    reading = Reading()
    reader = _Domain(reading, Devices(reading), from_disk)
    reader.read(root)
    if reading.problems:
        lines = "\n".join(f"  {problem}" for problem in dict.fromkeys(reading.problems))
        raise UsageError(f"this domain cannot be predicted:\n{lines}", hint="change the domain and learn it again")
    return Domain(reader.devices.emulator, tuple(reader.words()))


@dataclass
class _Domain:
    reading: Reading
    devices: Devices
    from_disk: bool = False
    machine: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    globals: list[str] = field(default_factory=list)
    boot: list[str] = field(default_factory=list)
    topology: dict[str, str] | None = None
    hardware_uuid: bool = False

    def problem(self, element: str, why: str) -> None:
        self.reading.problem(element, why)

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
            "devices": self.devices.read,
            "launchSecurity": self.on_security,
        }
        if root.values.get("type") != "kvm":
            self.problem("domain", "expected type='kvm'")
        self.devices.ordered = any(each.tag == "boot" and "order" in each.values for each in root.walk())
        # The order of boot devices is needed when devices are read, and the topology when vCPUs are.
        topology = next((each for each in root.walk() if each.tag == "topology"), None)
        self.topology = dict(topology.values) if topology is not None else None
        self.hardware_uuid = child(root, "hwuuid") is not None
        for element in sorted(root.elements, key=lambda one: one.tag == "devices"):
            self.reading.there.add(element.tag)
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
            if name not in self.reading.there:
                self.problem(name, why)

    def words(self) -> Iterator[str]:
        """QEMU's arguments, in libvirt's order."""
        yield from ("-machine", ",".join([*self.machine, "usb=off", "dump-guest-core=off"]))
        yield from self.head
        yield from ("-no-user-config", "-nodefaults")
        yield from (*self.globals, *self.devices.globals)
        yield from ("-boot", ",".join([*self.boot, "strict=on"]))
        yield from self.devices.words

    def on_uuid(self, element: Element) -> None:
        if not self.hardware_uuid:
            self.head += ["-uuid", element.text.strip()]

    def on_hardware_uuid(self, element: Element) -> None:
        self.reading.there.add("uuid")
        if element.text.strip() == NO_UUID:
            self.problem("hwuuid", "libvirt drops one of zeros, and takes <uuid>: name another")
        self.head += ["-uuid", element.text.strip()]

    def on_memory(self, element: Element) -> None:
        unit, text = element.values.get("unit", "KiB"), element.text.strip()
        if unit not in _UNITS or not text.isdecimal() or len(text) > 15:
            self.problem("memory", f"`{short(text)}` `{short(unit)}`: expected a number in KiB, MiB or GiB")
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
            self.reading.there.add(one.tag)
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
                    self.devices.booted.setdefault(one.values.get("dev", ""), len(self.devices.booted) + 1)
                case "bootmenu":
                    self.boot.append("menu=on" if one.values.get("enable") == "yes" else "menu=off")
                case "initrd" | "cmdline":
                    self.problem(one.tag, "the image has its own: leave it out")
                case _:
                    self.problem(one.tag, "its effect on the tables is not known: leave it out")
        if not self.devices.booted and not self.devices.ordered:
            self.devices.booted["hd"] = 1  # libvirt's default

    def on_features(self, element: Element) -> None:
        for one in element.elements:
            self.reading.there.add(one.tag)
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
            self.problem("launchSecurity", f"type `{short(element.values.get('type', ''))}`, expected tdx")
        self.machine.append("confidential-guest-support=lsec0")
        self.head += ["-object", "tdx-guest,id=lsec0"]
