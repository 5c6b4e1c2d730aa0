"""Platforms, shapes and the one QEMU argument list: word by word, since every word can end up in a register."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from privml.base.errors import RecipeError
from privml.machine.platform import Device, Platform, Shape, size_of, size_text
from privml.machine.qemu import Accelerator, Boot, arguments
from privml.recipe.loader import shipped
from privml.vm.platforms import platform as load_platform

PLATFORM = load_platform("qemu-11-q35", shipped())
TPM = load_platform("qemu-11-q35-tpm", shipped())
SHAPE = Shape(4, 4 << 30)
BOOT = Boot(
    firmware="/image/firmware.fd",
    kernel="/image/uki.efi",
    disks=("/image/root.raw", "/image/model.raw"),
    forwards=((40001, 8443),),
    serial="file:/vm/console.log",
    qmp_socket="/vm/qmp.sock",
)
START = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine"]
CPU = "SapphireRapids,vendor=GenuineIntel,family=6,model=143,stepping=8,phys-bits=46,pdpe1gb=on"
NO_DISK = "driver=null-co,node-name=disk{},size=1048576,read-only=on"
DISK = "driver=raw,node-name=disk{},read-only=on,file.driver=file,file.filename=/image/{}.raw"


def pairs(argv: list[str]) -> list[tuple[str, str]]:
    """Options with their values."""
    return [(word, value) for word, value in zip(argv, [*argv[1:], ""], strict=True) if word.startswith("-")]


def values(argv: list[str], option: str) -> list[str]:
    return [value for word, value in pairs(argv) if word == option]


def test_a_run_is_these_words() -> None:
    assert arguments(PLATFORM, SHAPE, BOOT, "tcg", "-run-with", "exit-with-parent=on") == [
        *START, "pc-q35-11.1,hpet=off,pic=off,smm=off",
        "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "4", "-m", "4096M",
        "-bios", "/image/firmware.fd", "-serial", "file:/vm/console.log", "-kernel", "/image/uki.efi",
        "-blockdev", DISK.format(0, "root"), "-device", "virtio-blk-pci,drive=disk0,bus=pcie.0,addr=0x2",
        "-blockdev", DISK.format(1, "model"), "-device", "virtio-blk-pci,drive=disk1,bus=pcie.0,addr=0x3",
        "-netdev", "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:40001-:8443",
        "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile=,bus=pcie.0,addr=0x4",
        "-qmp", "unix:/vm/qmp.sock,server=on,wait=off",
        "-run-with", "exit-with-parent=on",
    ]  # fmt: skip


def test_a_qtest_is_these_words() -> None:
    assert arguments(PLATFORM, Shape(2, 2 << 30), Boot("/fw", kernel="/vm/kernel"), "qtest", "-qtest", "x") == [
        *START, "pc-q35-11.1,hpet=off,pic=off,smm=off",
        "-accel", "qtest", "-cpu", CPU, "-smp", "2", "-m", "2048M",
        "-bios", "/fw", "-serial", "null", "-kernel", "/vm/kernel",
        "-blockdev", NO_DISK.format(0), "-device", "virtio-blk-pci,drive=disk0,bus=pcie.0,addr=0x2",
        "-blockdev", NO_DISK.format(1), "-device", "virtio-blk-pci,drive=disk1,bus=pcie.0,addr=0x3",
        "-netdev", "user,id=net0,restrict=on",
        "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile=,bus=pcie.0,addr=0x4",
        "-qtest", "x",
    ]  # fmt: skip


def test_blobs_come_from_the_machine_that_runs() -> None:
    """What firmware measures of a machine (devices, slots, CPU, options) is the same in qtest and in a run."""
    run, qtest = (arguments(PLATFORM, SHAPE, BOOT, kind) for kind in ("tcg", "qtest"))
    blobs = arguments(PLATFORM, SHAPE, Boot("/fw", kernel="/k"), "qtest")
    for option in ("-machine", "-cpu", "-smp", "-m", "-device"):
        assert values(run, option) == values(qtest, option) == values(blobs, option)


@pytest.mark.parametrize("accelerator", ["tcg", "kvm", "qtest"])
def test_the_irqchip_is_split_with_kvm_alone(accelerator: Accelerator) -> None:
    argv = arguments(PLATFORM, SHAPE, BOOT, accelerator)
    assert [value.count("kernel_irqchip=split") for value in values(argv, "-machine")] == [int(accelerator == "kvm")]
    assert values(argv, "-accel") == [{"tcg": "tcg,thread=multi", "kvm": "kvm", "qtest": "qtest"}[accelerator]]


@pytest.mark.parametrize("platform", [PLATFORM, TPM])
def test_nothing_of_the_host_gets_into_the_tables(platform: Platform) -> None:
    boot = replace(BOOT, tpm_socket="/vm/tpm.sock", fw_cfg=(("opt/x", "/vm/x"),), capture="/vm/net.pcap", append="x")
    argv = arguments(platform, SHAPE, boot, "kvm")
    options = {word for word, _ in pairs(argv)}
    assert options == {
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "-machine", "-accel", "-cpu", "-smp", "-m",
        "-bios", "-serial", "-kernel", "-append", "-blockdev", "-device", "-netdev", "-object", "-qmp", "-fw_cfg",
        *(("-chardev", "-tpmdev") if platform.tpm else ()),
    }  # fmt: skip
    assert not {"-uuid", "-smbios", "-drive", "-option-rom", "-hda", "-boot", "-initrd"} & options
    assert all("romfile=," in value for value in values(argv, "-device") if value.startswith("virtio-net"))


def test_devices_are_in_their_slots_whatever_their_order() -> None:
    devices = (Device("virtio-net", 9), Device("virtio-blk", 30), Device("virtio-blk", 1))
    argv = arguments(replace(PLATFORM, devices=devices), SHAPE, BOOT, "tcg")
    assert [value.split(",")[0] + value[value.rindex(",") :] for value in values(argv, "-device")] == [
        "virtio-blk-pci,addr=0x1",
        "virtio-net-pci,addr=0x9",
        "virtio-blk-pci,addr=0x1e",
    ]
    assert values(argv, "-blockdev") == [DISK.format(0, "root"), DISK.format(1, "model")]


def test_disks_are_read_only_and_the_network_is_this_machine_s() -> None:
    argv = arguments(PLATFORM, SHAPE, BOOT, "tcg")
    assert all("read-only=on" in value for value in values(argv, "-blockdev"))
    assert all("restrict=on" in value and "0.0.0.0" not in value for value in values(argv, "-netdev"))


def test_a_tpm_needs_a_platform_with_one() -> None:
    boot = replace(BOOT, tpm_socket="/vm/tpm.sock")
    assert "tpm-tis,tpmdev=tpm0" in arguments(TPM, SHAPE, boot, "tcg")
    assert not [word for word in arguments(PLATFORM, SHAPE, boot, "tcg") if "tpm" in word]
    assert not [word for word in arguments(TPM, SHAPE, BOOT, "tcg") if "tpm" in word]


def test_what_a_host_adds_is_there_only_when_asked() -> None:
    argv = arguments(
        PLATFORM, SHAPE, replace(BOOT, append="init=/bin/sh", capture="/vm/p", fw_cfg=(("a", "/b"),)), "tcg"
    )
    assert values(argv, "-append") == ["init=/bin/sh"]
    assert values(argv, "-object") == ["filter-dump,id=dump0,netdev=net0,file=/vm/p"]
    assert values(argv, "-fw_cfg") == ["name=a,file=/b"]
    bare = arguments(PLATFORM, SHAPE, BOOT, "tcg")
    assert not {"-append", "-object", "-fw_cfg"} & set(bare)


def test_an_unknown_device_is_a_bug() -> None:
    with pytest.raises(ValueError, match="device kind `vga`"):
        arguments(replace(PLATFORM, devices=(Device("vga", 2),)), SHAPE, BOOT, "tcg")


def test_two_devices_in_one_slot_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"share a slot: \[2, 2\]"):
        replace(PLATFORM, devices=(Device("virtio-blk", 2), Device("virtio-net", 2)))


def test_a_platform_file_becomes_a_record() -> None:
    assert (PLATFORM.qemu, PLATFORM.machine, PLATFORM.vendor, PLATFORM.phys_bits) == (
        "11.1.2", "pc-q35-11.1", "GenuineIntel", 46,
    )  # fmt: skip
    assert PLATFORM.options == (("hpet", "off"), ("kernel_irqchip", "split"), ("pic", "off"), ("smm", "off"))
    assert PLATFORM.devices == (Device("virtio-blk", 2), Device("virtio-blk", 3), Device("virtio-net", 4))
    assert (PLATFORM.tpm, TPM.tpm) == (False, True)
    assert (PLATFORM.tee, TPM.tee) == ("tdx", None)
    assert PLATFORM.booted and TPM.booted
    assert TPM.devices == PLATFORM.devices


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2 << 30), ("1536MiB", 1536 << 20), ("1KiB", 1024), ("1TiB", 1 << 40)]
)
def test_sizes_are_read_and_written(text: str, size: int) -> None:
    assert size_of(text) == size
    assert size_text(size) == text
    assert str(Shape(2, size)) == f"2 vCPU / {text}"


@pytest.mark.parametrize(
    "text", ["", "2", "2GB", "2 GiB", "-2GiB", "02GiB", "1.5GiB", "2gib", "2GiB\n", "٢GiB", "0GiB"]
)
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="expected a number with KiB"):
        size_of(text)


def test_a_size_that_is_no_unit_s_is_told_in_bytes() -> None:
    assert size_text((2 << 30) + 1) == "2147483649 bytes"
    assert size_text(0) == "0 bytes"


def test_what_a_host_may_do_against_us_comes_last() -> None:
    hostile = replace(BOOT, writable=True, extra=("-device", "e1000"))
    argv = arguments(PLATFORM, SHAPE, hostile, "tcg", "-run-with", "exit-with-parent=on")
    assert argv[-2:] == ["-device", "e1000"]
    honest = arguments(PLATFORM, SHAPE, BOOT, "tcg", "-run-with", "exit-with-parent=on")
    assert [word.replace("read-only=off", "read-only=on") for word in argv[:-2]] == honest
    assert argv[:-2] != honest


MORE = (
    Device("memory", 5, bars=(8 << 30,)),
    Device("memory", 6, bars=(128 << 30,), port=True),
    Device("virtio-net", 7, rom=True),
)


def test_large_bars_root_ports_and_option_roms() -> None:
    argv = arguments(replace(PLATFORM, devices=(*PLATFORM.devices, *MORE)), SHAPE, BOOT, "tcg")
    assert values(argv, "-device")[3:] == [
        "pci-testdev,membar=8589934592,bus=pcie.0,addr=0x5",
        "pcie-root-port,id=port6,chassis=6,bus=pcie.0,addr=0x6",
        "pci-testdev,membar=137438953472,bus=port6,addr=0x0",
        "virtio-net-pci,netdev=net1,mac=52:54:00:12:34:57,bus=pcie.0,addr=0x7",
    ]
    assert values(argv, "-netdev") == [
        "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:40001-:8443",
        "user,id=net1,restrict=on",
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"kind": "memory", "bars": (3 << 20,)}, "power of two"),
        ({"kind": "memory"}, "0 BARs"),
        ({"kind": "memory", "bars": (1 << 20, 1 << 20)}, "2 BARs"),
        ({"kind": "virtio-blk", "port": True}, "no root port"),
        ({"kind": "virtio-net", "bars": (1 << 20,)}, "no BAR"),
        ({"kind": "virtio-blk", "rom": True}, "no option ROM"),
    ],
)
def test_devices_that_are_none(words: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        Device(slot=5, **words)


CARD = Device("memory", 5, bars=(128 << 30, 32 << 20), port=True)


def test_a_card_with_several_bars_boots_as_functions_only() -> None:
    alone = replace(PLATFORM, devices=(CARD,))
    with pytest.raises(RecipeError, match="no function with 2 large BARs"):
        arguments(alone, SHAPE, BOOT, "tcg")
    assert values(arguments(alone, SHAPE, BOOT, "qtest"), "-device")[1:] == [
        "pci-testdev,membar=137438953472,bus=port5,addr=0x0"
    ]
    functions = replace(PLATFORM, devices=(replace(CARD, functions=True),))
    assert values(arguments(functions, SHAPE, BOOT, "tcg"), "-device")[1:] == [
        "pci-testdev,membar=137438953472,bus=port5,addr=0x0.0,multifunction=on",
        "pci-testdev,membar=33554432,bus=port5,addr=0x0.1,multifunction=on",
    ]
