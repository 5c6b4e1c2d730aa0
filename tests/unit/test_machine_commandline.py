"""Foreign QEMU command lines: what is understood, and everything that cannot be predicted, by name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from privml.base.errors import UsageError
from privml.machine.commandline import CommandLine, read
from privml.machine.platform import KINDS, Device, Size
from privml.machine.qemuopts import pairs

CPU = {"vendor": "GenuineIntel", "family": "6", "model": "143", "stepping": "8", "phys-bits": "46"}
NEW = [
    *("-name", "td", "-accel", "kvm", "-m", "4G", "-smp", "4", "-cpu", "host,pmu=off", "-nographic", "-nodefaults"),
    *("-object", '{"qom-type":"tdx-guest","id":"tdx","quote-generation-socket":{"type":"vsock","cid":"2"}}'),
    *("-machine", "q35,kernel_irqchip=split,confidential-guest-support=tdx,hpet=off"),
    *("-bios", "/fw/OVMF.fd", "-kernel", "uki.efi", "-serial", "stdio"),
    *("-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="),
    *("-drive", "file=/a,,b.raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d,addr=0x5"),
]
# As QEMU 8.2 of the first TDX packages is started.
OLD = [
    *("-enable-kvm", "-m", "size=4096M", "-smp", "cpus=4,sockets=1,cores=4,threads=1,maxcpus=4", "--nodefaults"),
    *("-object", "tdx-guest,id=tdx0,sept-ve-disable=on,quote-generation-service=vsock:2:4050"),
    *("-object", "memory-backend-memfd-private,id=ram1,size=4G"),
    *("-machine", "q35,kernel-irqchip=split,memory-encryption=tdx0,memory-backend=ram1,kvm-type=tdx,private=on"),
    *("-no-hpet", "-cpu", "host,-kvm-steal-time,pmu=off", "-bios", "OVMF.fd", "-kernel", "uki.efi"),
    *("-device", "virtio-blk-pci,drive=d", "-chardev", "stdio,id=c", "-device", "isa-serial,chardev=c"),
    *("-M", "smm=off"),
]


def line(*more: str, base: Sequence[str] = NEW) -> CommandLine:
    return read([*base, *more], CPU)


def without(option: str, base: Sequence[str] = NEW) -> list[str]:
    at = list(base).index(option)
    return [*base[:at], *base[at + 2 :]]


def refusal(words: Sequence[str], cpu: dict[str, str] = CPU) -> str:
    with pytest.raises(UsageError) as caught:
        read(words, cpu)
    return caught.value.message


def test_a_command_line_is_a_machine() -> None:
    found = line()
    assert (found.machine, found.size, found.sockets, found.serial) == ("q35", Size(4, 4 << 30), False, True)
    assert found.options == (("hpet", "off"), ("kernel_irqchip", "split"), ("pic", "off"), ("smm", "off"))
    assert found.devices == (Device("virtio-net", 1), Device("virtio-blk", 5))
    assert found.identity == CPU
    assert found.notes == ("QEMU sets smm=off, pic=off in a TD: written out in the platform",)


def test_the_spellings_of_8_2_are_understood() -> None:
    found = read(OLD, CPU)
    assert found.options == line().options
    assert (found.size, found.serial, found.machine) == (Size(4, 4 << 30), True, "q35")
    assert found.devices == (Device("virtio-blk", 1),)


def test_its_own_words_keep_places_and_lose_the_host() -> None:
    words = line("-device", "vhost-vsock-pci,guest-cid=9,addr=6", "-global", "ICH9-LPC.disable_s3=1").words
    assert "virtio-blk-pci,drive=own-disk1,addr=0x5" in words
    assert "virtio-rng-pci,addr=6" in words  # a stand-in: the device needs the host
    assert "ICH9-LPC.disable_s3=1" in words
    assert not [word for word in words if "raw" in word or "fw/" in word or "tdx" in word]


def test_devices_without_a_place_get_the_next_free_slot_in_order() -> None:
    found = line("-device", "virtio-rng-pci,addr=0x2", "-device", "virtio-balloon-pci", "-device", "virtio-rng-pci")
    slots = {(device.kind, device.slot) for device in found.devices}
    assert slots >= {("virtio-rng", 2), ("virtio-balloon", 3), ("virtio-rng", 4)}


def test_each_kind_of_device_is_read_by_its_driver() -> None:
    for name, kind in KINDS.items():
        if name != "memory":
            assert (name, 9) in {(one.kind, one.slot) for one in line("-device", f"{kind.driver},addr=9").devices}


def test_a_card_behind_its_own_port_has_the_bars_that_the_host_shows() -> None:
    port = ("-device", "pcie-root-port,id=p1,bus=pcie.0,addr=0x8,chassis=1")
    card = ("-device", "vfio-pci,host=0000:18:00.0,bus=p1")
    found = read([*NEW, *port, *card], CPU, {"0000:18:00.0": (128 << 30, 32 << 20)}.__getitem__)
    assert Device("memory", 8, bars=(128 << 30, 32 << 20), port=True) in found.devices
    assert "not confirmed" in found.notes[0]
    assert "no such card is here: learn on the machine that has it" in refusal([*NEW, *port, *card])
    assert "expected a pcie-root-port of its own" in refusal([*NEW, "-device", "vfio-pci,host=18:00.0"])
    assert "an empty root port" in refusal([*NEW, *port])


def test_topology_uuid_boot_order_and_option_rom() -> None:
    smp = ("-smp", "4,sockets=4,cores=1,threads=1")
    uuid = "0F3C4A1E-0000-4000-8000-000000000001"
    nic = ("-device", "virtio-net-pci,netdev=n,addr=7,bootindex=2")
    found = line(*smp, "-uuid", uuid, "-boot", "strict=on", *nic)
    assert found.sockets
    assert found.uuid == uuid.lower()
    assert found.boot == (("strict", "on"),)
    assert Device("virtio-net", 7, rom=True, bootindex=2) in found.devices
    assert any("of one machine" in note for note in found.notes)
    assert any("option ROM" in note for note in found.notes)


UNPREDICTABLE = [
    (("-device", "floppy"), "a device that is not modelled: leave it out (modelled: vfio-pci"),
    (("-device", "virtio-rng-pci,bus=p1"), "behind a bridge"),
    (("-device", "virtio-rng-pci,addr=0x5"), "slot 0x5 has another device"),
    (("-device", "virtio-rng-pci,addr=0x5.1"), "expected function 0"),
    (("-device", "virtio-rng-pci,addr=0x1f"), "a slot from 0x1 to 0x1e"),
    (("-device", "virtio-rng-pci,addr=zz"), "malformed"),
    (("-device", "virtio-rng-pci,acpi-index=3"), "the property acpi-index is not known"),
    (("-device", '{"driver":"virtio-rng-pci","driver":"x"}'), "malformed: JSON: key `driver` is given twice"),
    (("-append", "quiet"), "the image has its own command line"),
    (("-smbios", "type=1,uuid=x"), "the host's text in SMBIOS"),
    (("-acpitable", "file=x"), "a table of the host's"),
    (("-numa", "node"), "NUMA is not modelled"),
    (("-vga", "std"), "expected `-vga none`"),
    (("-drive", "file=x,if=pflash"), "not with flash"),
    (("-drive", "file=x"), "use if=none"),
    (("-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string=262144"), "opt/ovmf/X-PciMmio64Mb changes what firmware does"),
    (("-fw_cfg", "name=etc/x,string=1"), "changes what firmware does"),
    (("-global", "q35-pcihost.pci-hole64-size=1"), "is not known"),
    (("-machine", "nvdimm=on"), "the machine option nvdimm is not known"),
    (("-machine", "acpi=off"), "the machine option acpi is not known"),
    (("-object", "sev-snp-guest,id=s"), "the object sev-snp-guest is not known"),
    (("-object", "tdx-guest,id=tdx,debug=on"), "debug=on is refused by every verifier"),
    (("-object", "tdx-guest,id=tdx,wild=on"), "the property wild of a TD is not known"),
    (("-cpu", "host,host-phys-bits=on"), "write phys-bits=N instead"),
    (("-cpu", "host,+wild"), "the CPU property wild is not known"),
    (("-m", "4G,slots=2,maxmem=8G"), "leave out slots and maxmem"),
    (("-m", "lots"), "expected a size such as 4G"),
    (("-smp", "2,maxcpus=4"), "leave out maxcpus"),
    (("-smp", "4,sockets=2,cores=2"), "expected one socket with all cores"),
    (("-uuid", "mine"), "expected a UUID"),
    (("-boot", "order=c"), "an order is given by bootindex"),
    (("-serial", "mon:stdio"), "got 2 serial ports"),
    (("-wild", "x"), "an option whose effect on the tables is not known"),
    (("-m",), "its value is missing"),
    (("disk.raw",), "a word that belongs to no option"),
]


@pytest.mark.parametrize(("more", "said"), UNPREDICTABLE, ids=[" ".join(more)[:40] for more, _ in UNPREDICTABLE])
def test_what_cannot_be_predicted_is_named_with_the_change(more: tuple[str, ...], said: str) -> None:
    message = refusal([*NEW, *more])
    assert said in message
    assert message.startswith("this machine cannot be predicted:\n")


@pytest.mark.parametrize("option", ["-machine", "-cpu", "-smp", "-m", "-bios", "-kernel", "-object"])
def test_what_a_machine_needs_is_named_when_it_is_missing(option: str) -> None:
    assert f"`{option}" in refusal(without(option))


def test_all_problems_are_named_at_once() -> None:
    message = refusal([word for word in NEW if word != "-nodefaults"] + ["-append", "x", "-device", "floppy"])
    assert [word in message for word in ("-nodefaults", "-append", "floppy")] == [True] * 3


def test_the_hosts_cpu_must_be_named() -> None:
    assert "vendor, family, model, stepping, phys-bits are those of the host's CPU" in refusal(NEW, {})
    assert "name them with --cpu" in refusal(NEW, {})
    own = [*without("-cpu"), "-cpu", "host," + ",".join(f"{key}={value}" for key, value in CPU.items())]
    assert read(own, {}).identity == CPU


def test_values_are_split_as_qemu_does() -> None:
    assert pairs("q35,a=1,,2,flag", "type") == [("type", "q35"), ("a", "1,2"), ("flag", "on")]
    assert pairs('{"driver":"x","on":true,"n":3}', "driver") == [("driver", "x"), ("on", "on"), ("n", "3")]


def test_a_flood_of_words_is_refused() -> None:
    assert "expected at most 1024" in refusal(["-S"] * 2000)
    assert "expected at most 1024" in refusal(["-name", "x" * 9000])
