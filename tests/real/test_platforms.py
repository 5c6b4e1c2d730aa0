"""Platforms learnt from real QEMUs: that of the tools, and Debian 13's, whose machine is also booted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.conftest import only_full

from privml.base.errors import HostError, UsageError
from privml.image.target import recipes_directory, resolve
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.lock import deb
from privml.lock.lockfile import read_tools_lock
from privml.lock.make import bring
from privml.machine import commandline
from privml.machine.platform import Platform, Size
from privml.machine.qemu import HostSide, arguments
from privml.recipe.loader import shipped
from privml.store.objects import Store
from privml.vm import foreign, learn
from privml.vm.bench import Bench
from privml.vm.platforms import platform as load_platform
from privml.vm.platforms import record
from privml.vm.qtest import Qemu, blobs, read_of

pytestmark = pytest.mark.real

GIB = 1 << 30
PROGRAM = "usr/bin/qemu-system-x86_64"
SHIPPED = load_platform("qemu-11-q35", shipped())
CPU = SHIPPED.cpu.partition(",")[2].removesuffix(",pdpe1gb=on")
DEBIAN_13 = Path(__file__).parent / "platforms/debian-13-qemu.lock.json"
# Other devices in other slots than any shipped platform has, some where QEMU chooses.
FOREIGN = [
    *("-nodefaults", "-nographic", "-m", "4G", "-smp", "4", "-cpu", f"host,{CPU}", "-bios", "f", "-kernel", "u"),
    *("-object", "tdx-guest,id=tdx", "-machine", "q35,hpet=off,confidential-guest-support=tdx"),
    *("-device", "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-rng-pci,addr=0x12", "-serial", "stdio"),
    *("-device", "virtio-blk-pci,drive=a,addr=0x5", "-device", "virtio-blk-pci,drive=b,addr=0x9"),
    *("-device", "vhost-vsock-pci,guest-cid=3", "-global", "ICH9-LPC.disable_s3=1"),
]


@pytest.fixture(scope="module")
def tools() -> ToolsTree:
    return Workplace().tools()


def of_a_td(platform: Platform, size: Size) -> list[str]:
    """The arguments with which `run --tdx` starts the platform's machine."""
    return arguments(platform, size, HostSide("firmware.fd", kernel="uki.efi"), "tdx")


def test_the_shipped_platform_is_learnt_from_its_own_arguments(tools: ToolsTree, tmp_path: Path) -> None:
    found = foreign.find(tools, tools.root / PROGRAM)
    assert found.version == SHIPPED.qemu
    line = commandline.read(of_a_td(SHIPPED, Size(2, 2 * GIB)), {})
    learnt = learn.learn("again", tools, found, line, ((1, 3, 64), (2 * GIB, 16 * GIB, 64 * GIB)))
    Store(tmp_path).add_bytes(learnt.tables)
    platform = record(learnt.file)
    same = replace(SHIPPED, name="again", booted=False, max_vcpus=64, page_order="single-pass")
    assert replace(platform, tables=None, binary=None) == same
    for size in (Size(1, 64 * GIB), Size(3, 2 * GIB), Size(64, 16 * GIB), Size(2, 2 * GIB)):
        read = read_of(Qemu(tools), tools, SHIPPED, size)
        kept = blobs(tools, platform, size, tmp_path)
        assert kept == {name: read[name] for name in kept}, str(size)
        assert len(kept) >= 6


@pytest.mark.parametrize("size", [Size(1, 2 * GIB), Size(300, 8 * GIB)], ids=str)
def test_a_machine_that_is_never_started_has_the_tables_of_qtest(tools: ToolsTree, size: Size) -> None:
    one, other = (
        read_of(Qemu(tools, accelerator=accelerator), tools, SHIPPED, size) for accelerator in ("qtest", "stopped")
    )
    assert one == other


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("echo QEMU emulator version 9.9.9; exit 0", HostError, "exited with status 0"),
        ("echo something else", UsageError, "is not QEMU: `--version` prints `something else`"),
        ("echo QEMU emulator version 9.9.9; exit 7", HostError, "failed with status 7"),
    ],
)
def test_a_qemu_that_dies_or_is_none_is_named(
    tools: ToolsTree, tmp_path: Path, script: str, error: type[Exception], said: str
) -> None:
    fake = tmp_path / "bin/qemu"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    with pytest.raises(error, match=said):
        foreign.find(tools, fake)


@pytest.fixture(scope="module")
def debian_13(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian 13's QEMU with everything that it needs, unpacked from its locked packages."""
    store, packages = Store(), read_tools_lock(DEBIAN_13).packages
    bring(store, packages)
    root = tmp_path_factory.mktemp("debian-13")
    for package in sorted(packages, key=lambda one: (one.name != "base-files", one.name)):
        deb.unpack(store.read(package.sha256), root, package.name)
    return root / PROGRAM


@only_full
def test_a_foreign_machine_is_learnt_and_its_boot_is_predicted(
    tools: ToolsTree, debian_13: Path, demo_cpu: Path
) -> None:
    place, target = Workplace(), resolve(str(demo_cpu))
    found = foreign.find(tools, debian_13)
    assert found.version.startswith("10.0.")
    learnt = learn.learn("debian-13", tools, found, commandline.read(FOREIGN, {}), ((1, 2), (2 * GIB, 8 * GIB)))
    place.store.add_bytes(learnt.tables)
    bench = Bench(
        tools,
        place.store.root,
        demo_cpu,
        target.manifest(),
        recipes_directory(target),
        platform=record(learnt.file),
        qemu=found.qemu,
    )
    for size in (Size(2, 2 * GIB), Size(1, 8 * GIB)):
        booted = bench.boot(bench.launch(size))
        assert booted.problems() == []
        assert booted.comparison.matched["rtmr0"] > 10
