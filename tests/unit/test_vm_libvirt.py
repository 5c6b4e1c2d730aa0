"""libvirt domains: QEMU's arguments as far as they are measured, and what a domain must not leave to libvirt."""

from __future__ import annotations

import pytest

from privml.base.errors import UsageError
from privml.machine import commandline
from privml.machine.platform import Device, Size
from privml.vm.libvirt import read

PLACE = "<address type='pci' domain='0x0000' bus='0x00' slot='0x{}' function='0x0'/>"
DOMAIN = f"""<domain type='kvm'>
  <name>guest</name><uuid>0f3c4a1e-0000-4000-8000-000000000001</uuid>
  <memory unit='MiB'>2048</memory><vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-11.1'>hvm</type>
  <loader type='rom'>/fw.fd</loader><kernel>/uki.efi</kernel></os>
  <features><acpi/><apic/><ioapic driver='qemu'/></features>
  <cpu mode='host-passthrough'/>
  <clock offset='utc'><timer name='hpet' present='no'/></clock>
  <pm><suspend-to-mem enabled='no'/></pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><target dev='vda' bus='virtio'/>{PLACE.format("02")}</disk>
    <disk type='file' device='disk'><target dev='vdb' bus='virtio'/>{PLACE.format("03")}</disk>
    <interface type='user'><model type='virtio'/><rom enabled='no'/>{PLACE.format("04")}</interface>
    <vsock model='virtio'><cid auto='yes'/>{PLACE.format("05")}</vsock>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <serial type='pty'/><console type='pty'/><input type='mouse' bus='ps2'/>
  </devices>
  <launchSecurity type='tdx'><policy>0x10000000</policy></launchSecurity>
</domain>
"""
CPU = {"vendor": "GenuineIntel", "family": "6", "model": "143", "stepping": "8", "phys-bits": "46"}


def refusal(old: str, new: str = "") -> str:
    assert old in DOMAIN
    with pytest.raises(UsageError) as caught:
        read(DOMAIN.replace(old, new).encode())
    return caught.value.message


def test_a_domain_is_the_machine_that_libvirt_starts() -> None:
    domain = read(DOMAIN.encode())
    assert domain.emulator == "/usr/bin/qemu-system-x86_64"
    line = commandline.read(domain.words, CPU)
    assert (line.machine, line.size, line.sockets) == ("pc-q35-11.1", Size(2, 2 << 30), True)
    assert line.devices == (
        Device("virtio-blk", 2, bootindex=1),
        Device("virtio-blk", 3),
        Device("virtio-net", 4),
        Device("vsock", 5),
    )
    assert line.uuid == "0f3c4a1e-0000-4000-8000-000000000001"
    assert (line.boot, line.globals, line.serial) == ((("strict", "on"),), (("ICH9-LPC.disable_s3", "1"),), True)
    assert dict(line.options) == {"hpet": "off", "kernel_irqchip": "split", "pic": "off", "smm": "off"}


def test_an_own_order_replaces_the_default_one() -> None:
    ordered = DOMAIN.replace("<target dev='vdb' bus='virtio'/>", "<target dev='vdb' bus='virtio'/><boot order='3'/>")
    found = commandline.read(read(ordered.encode()).words, CPU)
    assert [device.bootindex for device in found.devices] == [None, 3, None, None]


def test_a_topology_is_kept() -> None:
    cores = "<cpu mode='host-passthrough'><topology sockets='1' cores='2' threads='1'/></cpu>"
    found = commandline.read(read(DOMAIN.replace("<cpu mode='host-passthrough'/>", cores).encode()).words, CPU)
    assert not found.sockets


PORT = (
    "<controller type='pci' index='1' model='pcie-root-port'><target chassis='7'/>"
    + PLACE.format("06")
    + "</controller>"
)
CARD = (
    "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x18' slot='0x00' function='0x0'/>"
    "</source><address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></hostdev>"
)
PASSED = "<cpu mode='host-passthrough'><maxphysaddr mode='passthrough'/></cpu>"


def test_a_card_is_behind_its_root_port_whichever_comes_first() -> None:
    text = DOMAIN.replace("<serial type='pty'/>", f"<serial type='pty'/>{CARD}{PORT}")
    found = commandline.read(read(text.encode()).words, CPU, {"0000:18:00.0": (1 << 37,)}.__getitem__)
    assert found.devices[-1] == Device("memory", 6, bars=(1 << 37,), port=True)


def test_a_hardware_uuid_takes_the_place_of_the_domains_own() -> None:
    uuid = "0f3c4a1e-0000-4000-8000-000000000002"
    for text in (
        DOMAIN.replace("<uuid>", f"<hwuuid>{uuid}</hwuuid><uuid>"),
        DOMAIN.replace("uuid>", "hwuuid>").replace("000000000001", "000000000002"),
    ):
        assert commandline.read(read(text.encode()).words, CPU).uuid == uuid


def test_address_bits_of_the_domain_are_those_of_the_guest() -> None:
    text = DOMAIN.replace(
        "<cpu mode='host-passthrough'/>",
        "<cpu mode='host-passthrough'><maxphysaddr mode='emulate' bits='52'/></cpu>",
    )
    assert commandline.read(read(text.encode()).words, CPU).identity == {**CPU, "phys-bits": "52"}


LEFT_OUT = [
    ("<uuid>0f3c4a1e-0000-4000-8000-000000000001</uuid>", "", "<uuid>: libvirt makes a random one"),
    ("<controller type='usb' model='none'/>", "", "libvirt adds a USB controller"),
    ("<memballoon model='none'/>", "", "libvirt adds a balloon"),
    (PLACE.format("02"), "", "<disk>: libvirt chooses its place: add <address type='pci'"),
    (PLACE.format("02"), PLACE.format("02").replace("bus='0x00'", "bus='0x01'"), "expected a place on the root bus"),
    (PLACE.format("02"), PLACE.format("02").replace("0x02", "two"), "expected numbers in <address>"),
    ("<kernel>/uki.efi</kernel>", "", "a boot from a disk is not predicted"),
    ("<loader type='rom'>", "<loader type='pflash'>", "a TD starts with type='rom'"),
    ("<features><acpi/>", "<features>", "<acpi>: expected <acpi/>"),
    ("<cpu mode='host-passthrough'/>", "<cpu mode='host-model'/>", "the only CPU of a TD"),
    ("<vcpu>2</vcpu>", "<vcpu current='1'>2</vcpu>", "all of them from the start"),
    ("unit='MiB'>2048", "unit='MiB'>lots", "expected a number in KiB, MiB or GiB"),
    ("type='tdx'", "type='sev'", "type `sev`, expected tdx"),
    ("<serial type='pty'/>", "<tpm model='tpm-tis'/>", "<tpm>: a device that is not modelled"),
    ("<serial type='pty'/>", "<controller type='pci' model='pcie-to-pci-bridge'/>", "place devices on the root bus"),
    ("<serial type='pty'/>", "<controller type='pci' model='pcie-root-port'/>", "libvirt chooses its place"),
    ("<serial type='pty'/>", PORT.replace("index='1'", "index='one'"), "expected numbers as index and chassis"),
    ("<serial type='pty'/>", CARD, "on the bus of a <controller model='pcie-root-port'>"),
    ("<serial type='pty'/>", PORT + CARD.replace("'0x18'", "'x'"), "<hostdev>: expected numbers in <address>"),
    ("<cpu mode='host-passthrough'/>", PASSED, "<maxphysaddr>: expected mode='emulate' and the number of bits"),
    ("<uuid>", "<hwuuid>00000000-0000-0000-0000-000000000000</hwuuid><uuid>", "libvirt drops one of zeros"),
    ("<serial type='pty'/>", "<hostdev mode='subsystem'/>", "<hostdev>: a device that is not modelled"),
    ("bus='virtio'", "bus='sata'", "expected a disk with bus='virtio'"),
    ("<rom enabled='no'/>", "<boot order='first'/>", "expected a number as its order"),
    ("<model type='virtio'/>", "<model type='e1000'/>", "<interface>: expected <model type='virtio'/>"),
    ("<os>", "<os firmware='efi'>", "libvirt chooses a file"),
    ("<kernel>", "<cmdline>quiet</cmdline><kernel>", "the image has its own: leave it out"),
    ("<timer name='hpet' present='no'/>", "<timer name='hypervclock'/>", "is not known"),
    ("<pm>", "<genid/><pm>", "<genid>: its effect on the tables is not known"),
    ("<pm>", "<sysinfo type='smbios'/><pm>", "<sysinfo>: its effect on the tables is not known"),
    ("<apic/>", "<hyperv/>", "<hyperv>: its effect on the tables is not known"),
]


@pytest.mark.parametrize(("old", "new", "said"), LEFT_OUT, ids=[said[:40] for *_, said in LEFT_OUT])
def test_what_libvirt_would_choose_or_is_not_known_is_named(old: str, new: str, said: str) -> None:
    message = refusal(old, new)
    assert message.startswith("this domain cannot be predicted:\n")
    assert said in message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain/>", "a document type, expected none"),
        (b"<?xml version='1.0'?><domain/>", "an XML declaration"),
        (b"<domain><!-- x --></domain>", "a comment"),
        (b"<domain>&wild;</domain>", "XML: undefined entity"),
        (b"<domain", "XML:"),
        (b"", "extra bytes"),
        (b"<domain>" + b"<a>" * 100, "XML"),
        (b"<network/>", "the root element is `network`, expected a libvirt domain"),
    ],
)
def test_xml_with_macros_or_entities_and_other_files_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(data)
    assert said in caught.value.message
