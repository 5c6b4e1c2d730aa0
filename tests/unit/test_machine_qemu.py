"""Platforms, shapes and QEMU's argument list, pinned because every argument can change a register."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from privml.base.errors import RecipeError
from privml.machine.platform import Device, Platform, Size
from privml.machine.qemu import ACCELERATORS, AcceleratorName, HostSide, arguments
from privml.recipe.loader import shipped
from privml.vm.platforms import platform as load_platform

PLATFORM = load_platform("qemu-11-q35", shipped())
TPM = load_platform("qemu-11-q35-tpm", shipped())
SHAPE = Size(4, 4 << 30)
HOST = HostSide(
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


def test_the_command_line_of_a_run_is_pinned() -> None:
    assert arguments(PLATFORM, SHAPE, HOST, "tcg", "-run-with", "exit-with-parent=on") == [
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


def test_the_command_line_of_a_qtest_run_is_pinned() -> None:
    assert arguments(PLATFORM, Size(2, 2 << 30), HostSide("/fw", kernel="/vm/kernel"), "qtest", "-qtest", "x") == [
        *START, "pc-q35-11.1,hpet=off,pic=off,smm=off",
        "-accel", "qtest", "-cpu", CPU, "-smp", "2", "-m", "2048M",
        "-bios", "/fw", "-serial", "null", "-kernel", "/vm/kernel",
        "-blockdev", NO_DISK.format(0), "-device", "virtio-blk-pci,drive=disk0,bus=pcie.0,addr=0x2",
        "-blockdev", NO_DISK.format(1), "-device", "virtio-blk-pci,drive=disk1,bus=pcie.0,addr=0x3",
        "-netdev", "user,id=net0,restrict=on",
        "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile=,bus=pcie.0,addr=0x4",
        "-qtest", "x",
    ]  # fmt: skip


def test_blobs_are_read_from_the_same_machine_definition() -> None:
    """What firmware measures of a machine (devices, slots, CPU, options) is the same in qtest and in a run."""
    run, qtest = (arguments(PLATFORM, SHAPE, HOST, kind) for kind in ("tcg", "qtest"))
    blobs = arguments(PLATFORM, SHAPE, HostSide("/fw", kernel="/k"), "qtest")
    for option in ("-machine", "-cpu", "-smp", "-m", "-device"):
        assert values(run, option) == values(qtest, option) == values(blobs, option)


@pytest.mark.parametrize(
    ("accelerator", "accel", "irqchips"),
    [("tcg", "tcg,thread=multi", 0), ("kvm", "kvm", 1), ("qtest", "qtest", 0), ("tdx", "kvm", 1)],
)
def test_the_irqchip_is_split_only_with_kvm(accelerator: AcceleratorName, accel: str, irqchips: int) -> None:
    argv = arguments(PLATFORM, SHAPE, HOST, accelerator)
    assert [value.count("kernel_irqchip=split") for value in values(argv, "-machine")] == [irqchips]
    assert values(argv, "-accel") == [accel]


def test_more_cpus_than_255_are_declared_and_take_interrupts_with_kvm_only() -> None:
    many = Size(256, 4 << 30)
    plain = replace(PLATFORM, max_vcpus=255)
    with pytest.raises(RecipeError, match="platform qemu-11-q35: 256 vCPUs, expected at most 255") as caught:
        arguments(plain, many, HOST, "qtest")
    assert caught.value.hint == "a platform with more than 255 says so with `max_vcpus`"
    for kind in ACCELERATORS:
        (cpu,) = values(arguments(PLATFORM, many, HOST, kind), "-cpu")
        assert ("kvm-msi-ext-dest-id=on" in cpu) == ACCELERATORS[kind].kvm
        (below,) = values(arguments(plain, Size(255, 4 << 30), HOST, kind), "-cpu")
        assert "msi" not in below
        assert not [word for word in arguments(PLATFORM, many, HOST, kind) if "iommu" in word]


def test_the_command_line_of_a_td_is_pinned() -> None:
    host = replace(HOST, quote_socket=(2, 4050))
    assert arguments(PLATFORM, SHAPE, host, "tdx", "-run-with", "exit-with-parent=on") == [
        *START,
        "pc-q35-11.1,hpet=off,kernel_irqchip=split,pic=off,smm=off,confidential-guest-support=guest0",
        "-accel", "kvm",
        "-object", '{"id":"guest0","qom-type":"tdx-guest",'
        '"quote-generation-socket":{"cid":"2","port":"4050","type":"vsock"},"sept-ve-disable":true}',
        "-cpu", "host,vendor=GenuineIntel,family=6,model=143,stepping=8,phys-bits=46,pdpe1gb=on",
        "-smp", "4", "-m", "4096M",
        "-bios", "/image/firmware.fd", "-serial", "file:/vm/console.log", "-kernel", "/image/uki.efi",
        "-blockdev", DISK.format(0, "root"), "-device", "virtio-blk-pci,drive=disk0,bus=pcie.0,addr=0x2",
        "-blockdev", DISK.format(1, "model"), "-device", "virtio-blk-pci,drive=disk1,bus=pcie.0,addr=0x3",
        "-netdev", "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:40001-:8443",
        "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile=,bus=pcie.0,addr=0x4",
        "-qmp", "unix:/vm/qmp.sock,server=on,wait=off",
        "-run-with", "exit-with-parent=on",
    ]  # fmt: skip


def test_only_a_td_with_a_quote_service_has_its_socket() -> None:
    (guest,) = values(arguments(PLATFORM, SHAPE, HOST, "tdx"), "-object")
    assert guest == '{"id":"guest0","qom-type":"tdx-guest","sept-ve-disable":true}'
    for accelerator in set(ACCELERATORS) - {"tdx"}:
        argv = arguments(PLATFORM, SHAPE, replace(HOST, quote_socket=(2, 4050)), accelerator)
        assert argv == arguments(PLATFORM, SHAPE, HOST, accelerator)
        assert "-object" not in argv


def test_a_td_has_the_tables_that_qtest_reads() -> None:
    """Devices, slots, size and machine are equal, and so is everything that identifies the CPU."""
    for platform in (PLATFORM, replace(PLATFORM, devices=(*PLATFORM.devices, *MORE))):
        td, qtest = (arguments(platform, SHAPE, HOST, kind) for kind in ("tdx", "qtest"))
        for option in ("-device", "-blockdev", "-netdev", "-smp", "-m", "-bios", "-serial", "-kernel"):
            assert values(td, option) == values(qtest, option)
        assert [value.partition(",")[2] for value in values(td, "-cpu")] == [CPU.partition(",")[2]]
        machine = values(td, "-machine")[0].split(",")
        assert set(machine) - set(values(qtest, "-machine")[0].split(",")) == {
            "kernel_irqchip=split", "confidential-guest-support=guest0",
        }  # fmt: skip


@pytest.mark.parametrize("platform", [PLATFORM, TPM])
def test_the_host_does_not_influence_the_tables(platform: Platform) -> None:
    host = replace(HOST, tpm_socket="/vm/tpm.sock", fw_cfg=(("opt/x", "/vm/x"),))
    argv = arguments(platform, SHAPE, host, "kvm")
    options = {word for word, _ in pairs(argv)}
    assert options == {
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "-machine", "-accel", "-cpu", "-smp", "-m",
        "-bios", "-serial", "-kernel", "-blockdev", "-device", "-netdev", "-qmp", "-fw_cfg",
        *(("-chardev", "-tpmdev") if platform.tpm else ()),
    }  # fmt: skip
    assert not {"-uuid", "-smbios", "-drive", "-option-rom", "-hda", "-boot", "-initrd", "-append"} & options
    assert all("romfile=," in value for value in values(argv, "-device") if value.startswith("virtio-net"))


def test_devices_are_in_their_slots_whatever_their_order() -> None:
    devices = (Device("virtio-net", 9), Device("virtio-blk", 30), Device("virtio-blk", 1))
    argv = arguments(replace(PLATFORM, devices=devices), SHAPE, HOST, "tcg")
    assert [value.split(",")[0] + value[value.rindex(",") :] for value in values(argv, "-device")] == [
        "virtio-blk-pci,addr=0x1",
        "virtio-net-pci,addr=0x9",
        "virtio-blk-pci,addr=0x1e",
    ]
    assert values(argv, "-blockdev") == [DISK.format(0, "root"), DISK.format(1, "model")]


def test_disks_are_read_only_and_the_network_is_local() -> None:
    argv = arguments(PLATFORM, SHAPE, HOST, "tcg")
    assert all("read-only=on" in value for value in values(argv, "-blockdev"))
    assert all("restrict=on" in value and "0.0.0.0" not in value for value in values(argv, "-netdev"))


def test_a_tpm_needs_a_platform_with_one() -> None:
    host = replace(HOST, tpm_socket="/vm/tpm.sock")
    assert "tpm-tis,tpmdev=tpm0" in arguments(TPM, SHAPE, host, "tcg")
    assert not [word for word in arguments(PLATFORM, SHAPE, host, "tcg") if "tpm" in word]
    assert not [word for word in arguments(TPM, SHAPE, HOST, "tcg") if "tpm" in word]


def test_fw_cfg_files_are_only_added_when_requested() -> None:
    argv = arguments(PLATFORM, SHAPE, replace(HOST, fw_cfg=(("a", "/b"),)), "tcg")
    assert values(argv, "-fw_cfg") == ["name=a,file=/b"]
    assert "-fw_cfg" not in arguments(PLATFORM, SHAPE, HOST, "tcg")


def test_an_unknown_device_raises() -> None:
    with pytest.raises(RecipeError, match="device at slot 5: got `floppy`, expected virtio-blk, virtio-net"):
        Device("floppy", 5)


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


def test_a_shape_is_written_with_the_shortest_size() -> None:
    assert str(Size(2, 1536 << 20)) == "2 vCPU / 1536MiB"


MORE = (
    Device("memory", 5, bars=(8 << 30,)),
    Device("memory", 6, bars=(128 << 30,), port=True),
    Device("virtio-net", 7, rom=True),
)


def test_large_bars_root_ports_and_option_roms() -> None:
    argv = arguments(replace(PLATFORM, devices=(*PLATFORM.devices, *MORE)), SHAPE, HOST, "tcg")
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
def test_malformed_devices_are_refused(words: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        Device(slot=5, **words)


CARD = Device("memory", 5, bars=(128 << 30, 32 << 20), port=True)


def test_a_card_with_several_bars_is_booted_as_several_functions() -> None:
    alone = replace(PLATFORM, devices=(CARD,))
    with pytest.raises(RecipeError, match="no function with 2 large BARs"):
        arguments(alone, SHAPE, HOST, "tcg")
    assert values(arguments(alone, SHAPE, HOST, "qtest"), "-device")[1:] == [
        "pci-testdev,membar=137438953472,bus=port5,addr=0x0"
    ]
    functions = replace(PLATFORM, devices=(replace(CARD, functions=True),))
    assert values(arguments(functions, SHAPE, HOST, "tcg"), "-device")[1:] == [
        "pci-testdev,membar=137438953472,bus=port5,addr=0x0.0,multifunction=on",
        "pci-testdev,membar=33554432,bus=port5,addr=0x0.1,multifunction=on",
    ]
