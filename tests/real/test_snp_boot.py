"""What OVMF's AmdSev build starts, emulated: as Debian ships it, and derived for the kernel whose hash is given.

No machine here starts an SNP guest. The firmware's checks are the same without one: the page that the VMM would add
is put into the guest's memory. A program that a host would start says a word on the serial port.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.real.conftest import only_full
from tests.real.efiprogram import option_rom, program

from privml.image.tools import ToolsTree
from privml.machine.platform import Size
from privml.measure import gpt
from privml.measure.snp import table
from privml.measure.snp.bound import bound
from privml.measure.snp.hashes import KernelHashes
from privml.measure.snp.pages import PAGE
from privml.output.artefacts import UKI
from privml.recipe.loader import shipped
from privml.vm import bootdisk
from privml.vm.machine import Launch, Machine, started
from privml.vm.platforms import platform

pytestmark = pytest.mark.real

STOCK, DERIVED = "stock.fd", "bound.fd"
DIGESTS = {
    STOCK: "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f",
    DERIVED: "4bda19b7efe8db1671bdd45a56a5132a0e000d28b524187dd3ca30cbb8ca7641",
}
SMALL = Size(1, 1 << 30)
PATIENCE = 300.0
SILENCE = 4.0
"""Seconds without a word, in lengths of a boot that says one, and at the least."""
NOTHING = b"No bootable option was found"
KERNEL, RETURNED, STRANGER = "KERNEL", "RETURNED", "STRANGER"


@dataclass(frozen=True)
class Case:
    """A host's choice: a kernel, the file whose hash is in the page (None: no page), and more for QEMU.

    ``append`` is a command line that the page's hash is of. ``stock`` and ``derived`` are the words that the programs
    say in turn.
    """

    kernel: str | None
    page: str | None
    words: tuple[str, ...]
    stock: tuple[str, ...]
    derived: tuple[str, ...]
    append: str | None = None


DISK = "if=none,id=disk,format=raw,readonly=on,file=/image/disk.raw"
CD = "if=none,id=disk,format=raw,readonly=on,media=cdrom,file=/image/cd.iso"
RETURNS = ((RETURNED, STRANGER), (RETURNED,))


def drive(source: str, *devices: str) -> tuple[str, ...]:
    return ("-drive", source, *(word for device in devices for word in ("-device", device)))


VIRTIO = drive(DISK, "virtio-blk-pci,drive=disk")
CASES = {
    "its kernel": Case(KERNEL, KERNEL, (), (KERNEL,), (KERNEL,)),
    "a shim": Case(KERNEL, KERNEL, ("-shim", f"/image/{STRANGER}"), (STRANGER,), (KERNEL,)),
    "a disk, without kernel and hash": Case(None, None, VIRTIO, (STRANGER,), ()),
    "a CD, without kernel and hash": Case(None, None, drive(CD, "ide-cd,drive=disk,bus=ide.1"), (STRANGER,), ()),
    "a disk, after its kernel": Case(RETURNED, RETURNED, VIRTIO, *RETURNS),
    "a fallback program in fw_cfg, after its kernel": Case(
        RETURNED, RETURNED, ("-fw_cfg", rf"name=etc/boot/EFI\BOOT\BOOTX64.EFI,file=/image/{STRANGER}"), *RETURNS
    ),
    # Firmware of an SNP guest skips option ROMs, unless the host says that there is no room above 4 GiB. Emulated, it
    # is no SNP guest and never skips them.
    "an option ROM": Case(
        KERNEL,
        KERNEL,
        ("-device", "virtio-net-pci,romfile=/image/rom", "-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string=0"),
        (STRANGER,),
        (KERNEL,),
    ),
}
BUSES = {
    "NVMe": drive(DISK, "nvme,drive=disk,serial=1"),
    "SCSI": drive(DISK, "virtio-scsi-pci,id=scsi", "scsi-hd,drive=disk,bus=scsi.0"),
    "USB": drive(DISK, "qemu-xhci,id=usb", "usb-storage,drive=disk,bus=usb.0"),
    "a CD on SCSI": drive(CD, "virtio-scsi-pci,id=scsi", "scsi-cd,drive=disk,bus=scsi.0"),
}
# The firmware loops without a word: what it was given has another hash than the page.
LOOPS = {
    "another kernel": Case(STRANGER, KERNEL, (), (), ()),
    "a disk, without its kernel": Case(None, KERNEL, VIRTIO, (), ()),
    "a command line": Case(KERNEL, KERNEL, ("-append", "quiet"), (), ()),
    "an initrd": Case(KERNEL, KERNEL, ("-fw_cfg", f"name=etc/boot/initrd,file=/image/{STRANGER}"), (), ()),
}
IN_CHECK = ("another kernel", "a disk, without its kernel")


def iso(esp: bytes) -> bytes:
    """A CD that boots ``esp``, a FAT (El Torito 1.0, no emulation, platform EFI), as far as firmware reads one."""
    size = 20 + -(-len(esp) // 2048)
    volume = b"\1CD001\1".ljust(80, b"\0") + struct.pack("<I", size) + struct.pack(">I", size)
    record = b"\0CD001\1EL TORITO SPECIFICATION".ljust(0x47, b"\0") + struct.pack("<I", 19)
    check = bytearray(b"\1\xef".ljust(30, b"\0") + b"\x55\xaa")
    check[28:30] = struct.pack("<H", -sum(struct.unpack("<16H", bytes(check))) % 65536)
    entry = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 1, 20)
    sectors = (*[b""] * 16, volume, record, b"\xffCD001\1", bytes(check) + entry)
    return b"".join(each.ljust(2048, b"\0") for each in sectors) + esp.ljust((size - 20) * 2048, b"\0")


@pytest.fixture(scope="module")
def place(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both firmware files, the programs, and the media that start the stranger."""
    folder = tmp_path_factory.mktemp("snp")
    shutil.copy(tools.root / "usr/share/ovmf/OVMF.amdsev.fd", folder / STOCK)
    (folder / DERIVED).write_bytes(bound((folder / STOCK).read_bytes()))
    for word in (KERNEL, RETURNED, STRANGER):
        (folder / word).write_bytes(program(word, returns=word == RETURNED))
    disk = bootdisk.make(tools, folder / STRANGER, folder / "disk.raw")
    esp = gpt.read(disk).partitions[0]
    (folder / "cd.iso").write_bytes(iso(disk.read_bytes()[esp.start : esp.start + esp.size]))
    (folder / "rom").write_bytes(option_rom(program(STRANGER)))
    return folder


HOSTWORD = "HOSTWORD"
SPOKEN_FOR = "ignore_loglevel console=ttyS0"
"""A measured command line with which the kernel says what it was given."""
HOSTS_STRINGS = Case(
    UKI,
    UKI,
    ("-smbios", f"type=11,value=io.systemd.stub.kernel-cmdline-extra={HOSTWORD}"),
    (f"{SPOKEN_FOR} {HOSTWORD}", "DMI: QEMU"),
    (SPOKEN_FOR, "DMI: not present or invalid."),
    append=SPOKEN_FOR,
)


def launch(place: Path, firmware: str, case: Case) -> Launch:
    """A machine with ``firmware``, and the page of hashes in its memory."""
    gpa = table.read((place / firmware).read_bytes()).hashes
    assert gpa is not None
    more = [*case.words]
    if case.page is not None:
        hashes = KernelHashes.of_uki(hashlib.sha256((place / case.page).read_bytes()).digest())
        if case.append is not None:
            more += ["-append", case.append]
            hashes = replace(hashes, cmdline=hashlib.sha256(case.append.encode() + b"\0").digest())
        (place / f"{case.page}.page").write_bytes(hashes.page(gpa))
        more += ["-device", f"loader,file=/image/{case.page}.page,addr={gpa - gpa % PAGE:#x},force-raw=on"]

    def change(argv: list[str]) -> list[str]:
        at = argv.index("-kernel")
        kernel = [] if case.kernel is None else ["-kernel", f"/image/{case.kernel}"]
        return [*argv[:at], *kernel, *argv[at + 2 :], *more]

    # Which CPU and devices there are does not matter to what the firmware checks.
    machine = replace(platform("qemu-11-q35", shipped()), devices=())
    return Launch(place, machine, SMALL, (), firmware, change=change)


def spoken(console: bytes) -> tuple[str, ...]:
    """The words of the programs on the console, in turn; firmware may have written before one on its line."""
    lines = console.decode("latin-1").split("\n")
    return tuple(word for line in lines for word in (KERNEL, RETURNED, STRANGER) if line.endswith(word))


def ran(tools: ToolsTree, place: Path, firmware: str, case: Case, *, silence: float | None = None) -> tuple[str, ...]:
    """What ran until the machine was reset, or firmware found nothing to start; or for ``silence`` seconds."""
    with started(tools, launch(place, firmware, case)) as machine:
        if silence is None:
            return spoken(until_the_end(machine))
        time.sleep(silence)
        assert machine.qemu.running()
        console = machine.console.read_bytes()
        assert NOTHING not in console
        return spoken(console)


def until_the_end(machine: Machine) -> bytes:
    """The console when the machine was reset or turned off, or firmware found nothing to start."""
    machine.qemu.await_path(machine.console)
    end = time.monotonic() + PATIENCE
    while machine.qemu.running() and NOTHING not in machine.console.read_bytes():
        assert time.monotonic() < end, f"no end within {PATIENCE:g} s\n{machine.console_tail()}"
        time.sleep(0.1)
    return machine.console.read_bytes()


def until_said(machine: Machine, words: bytes) -> bytes:
    """The console when a whole line with ``words`` is on it."""
    machine.qemu.await_path(machine.console)
    end = time.monotonic() + PATIENCE
    while b"\n" not in (console := machine.console.read_bytes()).partition(words)[2]:
        assert machine.qemu.running() and time.monotonic() < end, machine.console_tail()
        time.sleep(0.1)
    return console


def both(tools: ToolsTree, place: Path, case: Case) -> Sequence[tuple[str, ...]]:
    return [ran(tools, place, firmware, case) for firmware in (STOCK, DERIVED)]


def test_debian_s_firmware_becomes_these_bytes(place: Path) -> None:
    assert {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in DIGESTS} == DIGESTS


@pytest.mark.parametrize("name", CASES)
def test_derived_firmware_starts_its_kernel_where_stock_firmware_starts_another_program(
    tools: ToolsTree, place: Path, name: str
) -> None:
    case = CASES[name]
    assert both(tools, place, case) == [case.stock, case.derived]


@only_full
@pytest.mark.parametrize("bus", BUSES)
def test_derived_firmware_starts_nothing_of_a_disk_on_any_bus(tools: ToolsTree, place: Path, bus: str) -> None:
    assert both(tools, place, Case(RETURNED, RETURNED, BUSES[bus], (), ())) == list(RETURNS)


@pytest.mark.parametrize("name", LOOPS)
def test_derived_firmware_stops_where_the_hash_is_of_something_else(
    tools: ToolsTree, place: Path, full: bool, name: str
) -> None:
    if not full and name not in IN_CHECK:
        pytest.skip("`make check-full` tries all")
    start = time.monotonic()
    assert ran(tools, place, DERIVED, CASES["its kernel"]) == (KERNEL,)
    silence = SILENCE * max(1.0, time.monotonic() - start)
    assert ran(tools, place, DERIVED, LOOPS[name], silence=silence) == ()


def test_derived_firmware_starts_our_image(tools: ToolsTree, place: Path, tdx_min: Path) -> None:
    """Its init has started when it complains, after a minute, that there is no disk."""
    shutil.copy(tdx_min / UKI, place / UKI)
    case = Case(UKI, UKI, (), (), ())
    with started(tools, replace(launch(place, DERIVED, case), size=Size(1, 2 << 30))) as machine:
        console = until_the_end(machine)
    assert b"privml-init: no partition is named privml-root" in console, console


@pytest.mark.parametrize("firmware", [STOCK, DERIVED])
def test_a_host_s_strings_reach_no_command_line_with_derived_firmware(
    tools: ToolsTree, place: Path, tdx_min: Path, firmware: str
) -> None:
    """systemd-stub adds a string of the host's SMBIOS tables to the command line, if there are such tables."""
    shutil.copy(tdx_min / UKI, place / UKI)
    with started(tools, replace(launch(place, firmware, HOSTS_STRINGS), size=Size(1, 2 << 30))) as machine:
        lines = until_said(machine, b"Kernel command line: ").decode("latin-1").split("\n")
    given = HOSTS_STRINGS.stock if firmware == STOCK else HOSTS_STRINGS.derived
    said = [line.strip().split("] ", 1)[-1] for line in lines]
    assert [line for line in said if line.startswith("Kernel command line: ")] == [f"Kernel command line: {given[0]}"]
    assert [line for line in said if line.startswith(given[1])], said


def test_our_image_without_room_leaves_derived_firmware_nothing_to_start(
    tools: ToolsTree, place: Path, tdx_min: Path
) -> None:
    """Memory is the host's choice and in no launch digest: with too little, firmware goes on to the host's disk."""
    shutil.copy(tdx_min / UKI, place / UKI)
    found = []
    for firmware in (STOCK, DERIVED):
        cramped = replace(launch(place, firmware, Case(UKI, UKI, VIRTIO, (), ())), size=Size(1, 80 << 20))
        with started(tools, cramped) as machine:
            found.append(spoken(until_the_end(machine)))
    assert found == [(STRANGER,), ()]
