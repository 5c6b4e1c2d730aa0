"""A libvirt domain, and how the machine that libvirt makes of it differs from the platform's.

What libvirt adds by itself is written out, so that it adds nothing: no USB controller, no balloon, a place for each
device. Seen in the command lines of libvirt 12.8 (tests/unit/test_deploy_domain.py has one).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from xml.etree import ElementTree as ET

from privml.base.errors import UsageError
from privml.base.sizes import PLAIN_VCPUS
from privml.deploy.deployment import Deployment, Written
from privml.events.network import DHCP, Card
from privml.machine import commandline, usernetwork
from privml.machine.differences import Difference, differences
from privml.machine.platform import MEMORY, Device, mac_addresses
from privml.machine.qemuopts import pairs
from privml.machine.spellings import IDENTITY
from privml.vm import libvirt

HARDWARE_UUID = "5b0f4d4e-6d0e-4d6c-9a53-7c1f0e2b8d11"
"""The UUID in SMBIOS of every domain, unless the platform has its own: one platform is then that of all of them."""
OLDEST = "11.7"
"""The first libvirt with <hwuuid>."""
_OTHER_CPU = (
    "for hosts with another CPU: a copy of the platform's file with their `identity`, since platforms are learnt for "
    "direct boots only"
)
# Intel's ATTRIBUTES.SEPT_VE_DISABLE, which QEMU's own option sets in `machine.qemu`.
_POLICY = "0x10000000"
_SWITCHED = ("smm", "vmport")
_SLEEP = {"ICH9-LPC.disable_s3": "suspend-to-mem", "ICH9-LPC.disable_s4": "suspend-to-disk"}


def write(deployment: Deployment) -> Written:
    """A domain in the form that our own reader takes, which says what differs."""
    launch = deployment.launch
    platform, size = launch.platform, launch.size
    if size.vcpus > PLAIN_VCPUS:
        raise UsageError(f"{size.vcpus} vCPUs: libvirt starts at most {PLAIN_VCPUS} without an IOMMU")
    if not isinstance(deployment.parts.quote_socket, str):
        raise UsageError(
            "--quote-socket: libvirt takes the path of a Unix socket only", hint="such as /var/run/tdx-qgs/qgs.socket"
        )
    disks = sum(device.kind == "virtio-blk" for device in platform.devices)
    if disks != len(deployment.disks):
        raise UsageError(
            f"platform {platform.name} has {disks} disks, but the image has {len(deployment.disks)} volumes: "
            "a domain has no disk without a file",
            hint="name or learn a machine with as many",
        )
    root = _Builder(deployment).domain()
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode") + "\n"
    found = compared(deployment, text)
    return Written(
        text,
        found,
        notes=(
            f"needs libvirt {OLDEST} or newer, and QEMU {platform.qemu} at {deployment.qemu}",
            "of <interface> only model, rom and address are measured: your own network may take its place, "
            "with another MAC address",
            *(() if launch.boot_disk is None else (_OTHER_CPU,)),
        ),
        learn="privml-build platform learn NAME --xml FILE "
        f"--cpu vendor=V,family=N,model=N,stepping=N,phys-bits={platform.phys_bits}"
        if launch.boot_disk is None
        else None,
    )


def compared(deployment: Deployment, text: str) -> tuple[Difference, ...]:
    """How the machine of the domain ``text``, by libvirt's rules, differs from the platform's."""
    identity = dict(pairs(deployment.launch.platform.cpu, "")[1:])
    identity = {key: value for key, value in identity.items() if key in IDENTITY}
    bars = {card: device.bars for card, device in zip(deployment.parts.cards, _cards(deployment), strict=True)}

    def bars_of(address: str) -> tuple[int, ...]:
        return bars.get(address, ())

    from_disk = deployment.launch.boot_disk is not None
    words = libvirt.read(text.encode(), from_disk=from_disk).words
    theirs = commandline.read(words, identity, bars_of, from_disk=from_disk)
    ours = commandline.read(deployment.arguments(), {}, bars_of, from_disk=from_disk)
    shared = [key for key in IDENTITY if key != "phys-bits"]
    cpu = Difference(
        "cpu",
        f"the host's {', '.join(shared)}",
        ", ".join(identity[key] for key in shared),
        certain=False,
    )
    return (cpu, *differences(theirs, ours, from_disk=from_disk))


def _cards(deployment: Deployment) -> list[Device]:
    devices = sorted(deployment.launch.platform.devices, key=lambda one: one.slot)
    return [device for device in devices if device.kind == MEMORY]


class _Builder:
    """Makes the elements of one domain."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.launch = deployment.launch
        self.platform = deployment.launch.platform
        self.options = dict(self.platform.options)
        self.macs = mac_addresses(self.platform.devices)
        self.ordered = any(device.bootindex for device in self.platform.devices)
        self.seen: dict[str, int] = {}

    def domain(self) -> ET.Element:
        root = ET.Element("domain", type="kvm")
        _text(root, "name", self.deployment.name)
        _text(root, "hwuuid", self.platform.uuid or HARDWARE_UUID)
        _text(root, "memory", str(self.launch.size.memory >> 20), unit="MiB")
        _text(root, "vcpu", str(self.launch.size.vcpus))
        self.os(ET.SubElement(root, "os"))
        self.features(ET.SubElement(root, "features"))
        self.cpu(root)
        clock = ET.SubElement(root, "clock", offset="utc")
        ET.SubElement(clock, "timer", name="hpet", present="no" if self.options.get("hpet") == "off" else "yes")
        for event in ("on_poweroff", "on_reboot", "on_crash"):
            _text(root, event, "destroy")
        sleep = [(_SLEEP[key], value) for key, value in self.platform.globals if key in _SLEEP]
        if sleep:
            states = ET.SubElement(root, "pm")
            for state, off in sleep:
                ET.SubElement(states, state, enabled="no" if off in ("1", "on") else "yes")
        self.devices(ET.SubElement(root, "devices"))
        security = ET.SubElement(root, "launchSecurity", type="tdx")
        _text(security, "policy", _POLICY)
        ET.SubElement(security, "quoteGenerationService", path=str(self.deployment.parts.quote_socket))
        return root

    def os(self, os: ET.Element) -> None:
        _text(os, "type", "hvm", arch="x86_64", machine=self.platform.machine)
        _text(os, "loader", f"{self.launch.image}/{self.launch.firmware}", type="rom")
        if self.launch.boot_disk is None:
            _text(os, "kernel", f"{self.launch.image}/uki.efi")
        if not self.ordered:
            # libvirt gives the first disk a place in the boot order unless another device is named; there is none.
            ET.SubElement(os, "boot", dev="cdrom")
        menu = dict(self.platform.boot).get("menu")
        if menu is not None:
            ET.SubElement(os, "bootmenu", enable="yes" if menu == "on" else "no")

    def features(self, features: ET.Element) -> None:
        ET.SubElement(features, "acpi")
        split = self.options.get("kernel_irqchip") == "split"
        ET.SubElement(features, "ioapic", driver="qemu" if split else "kvm")
        for name in _SWITCHED:
            if name in self.options:
                ET.SubElement(features, name, state=self.options[name])

    def cpu(self, root: ET.Element) -> None:
        count = str(self.launch.size.vcpus)
        sockets, cores = (count, "1") if self.platform.sockets else ("1", count)
        cpu = ET.SubElement(root, "cpu", mode="host-passthrough", check="none", migratable="off")
        ET.SubElement(cpu, "topology", sockets=sockets, dies="1", cores=cores, threads="1")
        ET.SubElement(cpu, "maxphysaddr", mode="emulate", bits=str(self.platform.phys_bits))

    def devices(self, devices: ET.Element) -> None:
        _text(devices, "emulator", self.deployment.qemu)
        ET.SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
        ET.SubElement(devices, "controller", type="usb", model="none")
        for device in sorted(self.platform.devices, key=lambda one: one.slot):
            if device.kind not in _ELEMENTS:
                raise UsageError(
                    f"platform {self.platform.name}: a {device.kind} in a domain is not modelled",
                    hint=f"expected only {', '.join(_ELEMENTS)}",
                )
            number = self.seen.get(device.kind, 0)
            self.seen[device.kind] = number + 1
            _ELEMENTS[device.kind](self, devices, device, number)
        if "virtio-balloon" not in self.seen:
            ET.SubElement(devices, "memballoon", model="none")
        if self.platform.serial:
            ET.SubElement(devices, "serial", type="pty")
        # libvirt gives each q35 machine this one.
        ET.SubElement(devices, "watchdog", model="itco", action="reset")

    def disk(self, devices: ET.Element, device: Device, number: int) -> None:
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type="raw")
        ET.SubElement(disk, "source", file=self.deployment.disks[number])
        ET.SubElement(disk, "target", dev=f"vd{_letters(number)}", bus="virtio")
        ET.SubElement(disk, "readonly")
        _ordered(disk, device)
        _placed(disk, device)

    def interface(self, devices: ET.Element, device: Device, number: int) -> None:
        interface = ET.SubElement(devices, "interface", type="user")
        ET.SubElement(interface, "backend", type="passt")
        ET.SubElement(interface, "mac", address=self.macs[device].hex(":"))
        ET.SubElement(interface, "model", type="virtio")
        network = self.launch.network
        card = network[number] if number < len(network) else Card(DHCP)
        if self.launch.forward is not None and number == usernetwork.forwarded(network):
            for own in map(ipaddress.ip_interface, card.addresses):
                family = f"ipv{own.version}"
                ET.SubElement(interface, "ip", family=family, address=str(own.ip), prefix=str(own.network.prefixlen))
            forward = ET.SubElement(interface, "portForward", proto="tcp", address="127.0.0.1")
            ET.SubElement(forward, "range", start=str(self.deployment.port), to=str(self.launch.forward))
        if not device.rom:
            ET.SubElement(interface, "rom", enabled="no")
        _ordered(interface, device)
        _placed(interface, device)

    def rng(self, devices: ET.Element, device: Device, _: int) -> None:
        rng = ET.SubElement(devices, "rng", model="virtio")
        _text(rng, "backend", "/dev/urandom", model="random")
        _placed(rng, device)

    def balloon(self, devices: ET.Element, device: Device, _: int) -> None:
        _placed(ET.SubElement(devices, "memballoon", model="virtio"), device)

    def vsock(self, devices: ET.Element, device: Device, _: int) -> None:
        vsock = ET.SubElement(devices, "vsock", model="virtio")
        ET.SubElement(vsock, "cid", auto="yes")
        _placed(vsock, device)

    def card(self, devices: ET.Element, device: Device, number: int) -> None:
        bus = number + 1
        port = ET.SubElement(devices, "controller", type="pci", index=str(bus), model="pcie-root-port")
        ET.SubElement(port, "target", chassis=str(device.slot), port="0x0")
        _placed(port, device)
        card = ET.SubElement(devices, "hostdev", mode="subsystem", type="pci", managed="no")
        ET.SubElement(card, "driver", name="vfio", iommufd="yes")
        domain, host_bus, rest = self.deployment.parts.cards[number].split(":")
        slot, function = rest.split(".")
        source = ET.SubElement(card, "source")
        ET.SubElement(
            source,
            "address",
            domain=f"0x{domain}",
            bus=f"0x{host_bus}",
            slot=f"0x{slot}",
            function=f"0x{function}",
        )
        _place(card, bus, 0)


_ELEMENTS: Mapping[str, Callable[[_Builder, ET.Element, Device, int], None]] = {
    "virtio-blk": _Builder.disk,
    "virtio-net": _Builder.interface,
    "virtio-rng": _Builder.rng,
    "virtio-balloon": _Builder.balloon,
    "vsock": _Builder.vsock,
    MEMORY: _Builder.card,
}


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _ordered(element: ET.Element, device: Device) -> None:
    if device.bootindex:
        ET.SubElement(element, "boot", order=str(device.bootindex))


def _placed(element: ET.Element, device: Device) -> None:
    _place(element, 0, device.slot)


def _place(element: ET.Element, bus: int, slot: int) -> None:
    ET.SubElement(
        element, "address", type="pci", domain="0x0000", bus=f"{bus:#04x}", slot=f"{slot:#04x}", function="0x0"
    )


def _letters(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else _letters(number // 26 - 1) + _letters(number % 26)
