"""`deploy --for libvirt`: the machine that libvirt makes of a domain is the platform's, or what differs is named."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from deployed import CARD, ODD, from_disk, of, shipped_platform

from privml.base.errors import UsageError
from privml.deploy import domain
from privml.deploy.domain import HARDWARE_UUID
from privml.events.network import Card
from privml.machine import commandline
from privml.machine.differences import Difference
from privml.machine.platform import Device, Platform, Size
from privml.vm import libvirt

LIBVIRT = shipped_platform("qemu-11-q35-libvirt")
PLAIN = shipped_platform("qemu-11-q35")
H100 = shipped_platform("qemu-11-q35-h100")
ONE_DISK = shipped_platform("qemu-11-q35-one-disk")
LIBVIRT_ONE = shipped_platform("qemu-11-q35-libvirt-one-disk")
CPU = Difference("cpu", "the host's vendor, family, model, stepping", "GenuineIntel, 6, 143, 8", certain=False)
UUID = Difference("uuid", HARDWARE_UUID, "none")
BOOT = Difference("boot", "strict=on", "none")
OTHERS = replace(
    LIBVIRT,
    name="others",
    devices=(
        Device("virtio-blk", 2, bootindex=2),
        Device("virtio-blk", 9, bootindex=1),
        Device("virtio-net", 4, rom=True),
        Device("virtio-rng", 5),
        Device("virtio-balloon", 6),
        Device("vsock", 7),
    ),
    options=(("hpet", "on"), ("kernel_irqchip", "split"), ("pic", "off"), ("smm", "off"), ("vmport", "off")),
    sockets=True,
    serial=False,
    boot=(("menu", "off"), ("strict", "on")),
    globals=(("ICH9-LPC.disable_s3", "1"), ("ICH9-LPC.disable_s4", "0")),
)

# The log of libvirt 12.8.0 (Debian 12.8.0-1), which started the domain of `qemu-11-q35-libvirt` with QEMU 11.1.2.
# Without KVM and TDX: type='qemu', mode='maximum', no <launchSecurity>, and <interface> without passt.
RECORDED = r"""
-name guest=demo-cpu,debug-threads=on -S
-object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/master-key.aes"}'
-machine pc-q35-11.1,usb=off,smm=off,kernel_irqchip=split,dump-guest-core=off,memory-backend=pc.ram,hpet=off,acpi=on
-accel tcg -cpu max,phys-bits=46 -bios /srv/i/firmware.fd -m size=2097152k
-object '{"qom-type":"memory-backend-ram","id":"pc.ram","size":2147483648}' -overcommit mem-lock=off
-smp 2,sockets=1,dies=1,clusters=1,cores=2,threads=1 -uuid 5b0f4d4e-6d0e-4d6c-9a53-7c1f0e2b8d11 -display none
-no-user-config -nodefaults -chardev socket,id=charmonitor,fd=17,server=on,wait=off
-object '{"qom-type":"monitor-qmp","id":"monitor","chardev":"charmonitor"}' -rtc base=utc -no-shutdown
-boot strict=on -kernel /srv/i/uki.efi
-blockdev '{"driver":"file","filename":"/srv/i/root.raw","node-name":"libvirt-2-storage","read-only":true}'
-device '{"driver":"virtio-blk-pci","bus":"pcie.0","addr":"0x2","drive":"libvirt-2-storage","id":"virtio-disk0"}'
-blockdev '{"driver":"file","filename":"/srv/i/model.raw","node-name":"libvirt-1-storage","read-only":true}'
-device '{"driver":"virtio-blk-pci","bus":"pcie.0","addr":"0x3","drive":"libvirt-1-storage","id":"virtio-disk1"}'
-netdev '{"type":"user","id":"hostnet0"}'
-device '{"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"52:54:00:12:34:56","bus":"pcie.0",
"addr":"0x4","romfile":""}'
-chardev pty,id=charserial0 -device '{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}'
-audiodev '{"id":"audio1","driver":"none"}' -global ICH9-LPC.noreboot=off -watchdog-action reset
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -msg timestamp=on
"""


def identity(platform: Platform) -> dict[str, str]:
    return dict(word.split("=") for word in platform.cpu.split(",")[1:] if not word.startswith("pdpe1gb"))


@pytest.mark.parametrize(
    ("platform", "found"),
    [(LIBVIRT, (CPU,)), (OTHERS, (CPU,)), (PLAIN, (CPU, BOOT, UUID)), (H100, (CPU, BOOT, UUID))],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_libvirt_cannot_say_is_named_and_nothing_else_differs(
    platform: Platform, found: tuple[Difference, ...]
) -> None:
    for size in (Size(2, 2 << 30), Size(255, 512 << 30)):
        written = domain.write(of(platform, size=size))
        assert sorted(written.differences, key=str) == sorted(found, key=str)
        assert written.registers["rtmr0"] == ("depends-on-host" if found == (CPU,) else "differs")
        assert written.registers["mrtd"] == written.registers["rtmr2"] == "predicted"


def test_the_machine_of_the_domain_is_the_platforms_field_by_field() -> None:
    deployment = of(LIBVIRT)
    theirs = commandline.read(libvirt.read(domain.write(deployment).text.encode()).words, identity(LIBVIRT))
    ours = commandline.read(deployment.arguments(), {})
    for name in ("machine", "options", "identity", "size", "devices", "sockets", "serial", "uuid", "boot"):
        assert getattr(theirs, name) == getattr(ours, name), name
    # Not in any table: see tests/real/test_deploy.py.
    assert (theirs.globals, ours.globals) == ((("ICH9-LPC.noreboot", "off"),), ())


def test_libvirts_own_command_line_is_the_one_that_is_derived() -> None:
    words = shlex.split(RECORDED.replace('"pcie.0",\n', '"pcie.0",'))
    for old, new in (
        (["-cpu", "max,phys-bits=46"], ["-cpu", "host,phys-bits=46"]),
        (["-object"], ["-object", "tdx-guest,id=lsec0", "-object"]),
    ):
        at = next(number for number in range(len(words)) if words[number : number + len(old)] == old)
        words[at : at + len(old)] = new
    words[words.index("-machine") + 1] += ",confidential-guest-support=lsec0"
    own = {key: value for key, value in identity(LIBVIRT).items() if key != "phys-bits"}
    logged = commandline.read(words, own)
    derived = commandline.read(libvirt.read(domain.write(of(LIBVIRT)).text.encode()).words, own)
    assert replace(logged, words=(), notes=()) == replace(derived, words=(), notes=())


def test_what_libvirt_makes_of_the_domain_is_the_same_machine() -> None:
    """`virsh dumpxml --inactive` of libvirt 12.8.0, which had no KVM and no TDX (as for `RECORDED`)."""
    text = Path(__file__).with_name("libvirt_dumped.xml").read_text()
    for old, new in (
        ("<domain type='qemu'>", "<domain type='kvm'>"),
        ("mode='maximum'", "mode='host-passthrough'"),
        ("</domain>", "<launchSecurity type='tdx'/></domain>"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    chosen = replace(H100, uuid=LIBVIRT.uuid, boot=LIBVIRT.boot)
    assert domain.compared(of(chosen), text) == (CPU,)


CHANGES = [
    ('<memory unit="MiB">2048', '<memory unit="MiB">4096', "size"),
    ('slot="0x03"', 'slot="0x08"', "devices"),
    ('<timer name="hpet" present="no" />', "", "options"),
    ('<rom enabled="no" />', "", "devices"),
    ('<boot dev="cdrom" />', '<boot dev="hd" />', "devices"),
    ('bits="46"', 'bits="48"', "identity"),
    ('<serial type="pty" />', "", "serial"),
    (HARDWARE_UUID, HARDWARE_UUID.replace("5b", "5c"), "uuid"),
    ("<acpi />", '<acpi /><vmport state="on" />', "options"),
    ("pc-q35-11.1", "pc-q35-10.0", "machine"),
]


@pytest.mark.parametrize(("old", "new", "what"), CHANGES, ids=lambda value: value[:30])
def test_a_domain_that_makes_another_machine_differs(old: str, new: str, what: str) -> None:
    deployment = of(LIBVIRT)
    text = domain.write(deployment).text
    assert old in text
    found = domain.compared(deployment, text.replace(old, new))
    assert [one.what for one in found] == ["cpu", what]


@pytest.mark.parametrize(
    ("platform", "found"),
    # An order of boot is in no table of a machine that boots from its disk.
    [(LIBVIRT_ONE, (CPU,)), (ONE_DISK, (CPU, UUID)), (replace(ONE_DISK, boot=(("menu", "on"),)), (CPU, UUID))],
    ids=("libvirt", "plain", "menu"),
)
def test_a_domain_that_boots_from_its_disk_is_the_platforms_machine(
    platform: Platform, found: tuple[Difference, ...]
) -> None:
    deployment = from_disk(platform)
    written = domain.write(deployment)
    assert sorted(written.differences, key=str) == sorted(found, key=str)
    root = ET.fromstring(written.text)
    assert (root.find("os/kernel"), root.findtext("os/loader")) == (None, "/srv/demo-cpu/firmware.fd")
    (disk,) = root.iter("disk")
    assert disk.find("source").attrib == {"file": "/srv/demo-cpu/disk.raw"}  # type: ignore[union-attr]
    assert disk.find("readonly") is not None and disk.find("boot") is None
    theirs = commandline.read(
        libvirt.read(written.text.encode(), from_disk=True).words, identity(platform), from_disk=True
    )
    ours = commandline.read(deployment.arguments(), {}, from_disk=True)
    for name in ("machine", "options", "identity", "size", "devices", "sockets", "serial"):
        assert getattr(theirs, name) == getattr(ours, name), name


def test_a_domain_has_a_kernel_or_a_disk_to_boot_from() -> None:
    text = domain.write(from_disk(LIBVIRT_ONE)).text
    with pytest.raises(UsageError, match=r"<kernel>: expected <kernel> with uki\.efi"):
        libvirt.read(text.encode())
    for order, what in (
        ('<boot dev="hd" />', ["boot", "devices"]),
        ('<boot dev="cdrom" /><bootmenu enable="yes" />', ["boot"]),
    ):
        changed = text.replace('<boot dev="cdrom" />', order)
        assert [one.what for one in domain.compared(from_disk(LIBVIRT_ONE), changed)] == ["cpu", *what]
    both = text.replace("<loader ", "<kernel>/x/uki.efi</kernel><loader ")
    with pytest.raises(UsageError, match="`-kernel`: leave it out: the machine boots from its disk"):
        domain.compared(from_disk(LIBVIRT_ONE), both)


def test_a_card_is_behind_a_root_port_of_its_own() -> None:
    text = domain.write(of(H100)).text
    words = libvirt.read(text.encode()).words
    assert "pcie-root-port,id=pci.1,chassis=5,bus=pcie.0,addr=0x5" in words
    assert f"vfio-pci,host={CARD},bus=pci.1,addr=0x0" in words
    root = ET.fromstring(text)
    assert root.find("devices/hostdev/driver").attrib == {"name": "vfio", "iommufd": "yes"}  # type: ignore[union-attr]


def test_an_odd_folder_is_itself_in_the_domain() -> None:
    text = domain.write(of(LIBVIRT, ODD)).text
    root = ET.fromstring(text)
    assert root.findtext("os/kernel") == f"{ODD}/uki.efi"
    assert [one.attrib["file"] for one in root.iter("source")] == [f"{ODD}/root.raw", f"{ODD}/model.raw"]
    assert text.count("<disk ") == 2


def test_a_static_address_is_that_of_the_forwarded_card() -> None:
    card = Card("static", ("10.0.2.15/24", "fd00::15/64"), ("10.0.2.2",))
    own = of(LIBVIRT, port=9000)
    root = ET.fromstring(domain.write(replace(own, launch=replace(own.launch, network=(card,)))).text)
    interface = root.find("devices/interface")
    assert interface is not None
    assert [one.attrib for one in interface.iter("ip")] == [
        {"family": "ipv4", "address": "10.0.2.15", "prefix": "24"},
        {"family": "ipv6", "address": "fd00::15", "prefix": "64"},
    ]
    assert [one.attrib for one in interface.iter("range")] == [{"start": "9000", "to": "8443"}]


def test_what_a_domain_cannot_have_is_refused() -> None:
    serial = replace(LIBVIRT, devices=(*LIBVIRT.devices, Device("virtio-serial", 6)))
    with pytest.raises(UsageError, match="a virtio-serial in a domain is not modelled"):
        domain.write(of(serial))
    deployment = of(LIBVIRT)
    fewer = replace(deployment, launch=replace(deployment.launch, disks=("root.raw",)))
    with pytest.raises(UsageError, match="has 2 disks, but the image has 1 volumes"):
        domain.write(fewer)


def test_a_domain_is_not_named_by_a_path() -> None:
    root = ET.fromstring(domain.write(of(LIBVIRT, name="two")).text)
    assert (root.findtext("name"), root.find("uuid")) == ("two", None)
    assert Path(str(root.findtext("os/loader"))) == Path("/srv/demo-cpu/firmware.fd")
