"""Platforms of real QEMUs: the shipped ones and a foreign machine, learnt from that of the tools and Debian 13's, and
booted with a software TPM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.conftest import only_full, unpacked

from privml.base.errors import HostError, UsageError
from privml.events.event import Evidence
from privml.events.registers import RTMR0
from privml.image.target import recipes_directory, resolve
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.lock.tables import carry
from privml.machine import commandline
from privml.machine.platform import MEMORY, Platform, Size
from privml.machine.qemu import HostSide, arguments
from privml.measure import acpi, smbios
from privml.measure.tables import decode
from privml.recipe.loader import qemus_in, shipped
from privml.recipe.platform import NO_TEE, PlatformFile
from privml.store.objects import Store
from privml.vm import foreign, learn
from privml.vm.bench import Bench
from privml.vm.platforms import platform as load_platform
from privml.vm.platforms import record
from privml.vm.predicted import MachinePredictor
from privml.vm.qtest import Qemu, blobs, read_of

pytestmark = pytest.mark.real

GIB = 1 << 30
PROGRAM = "usr/bin/qemu-system-x86_64"
SHIPPED = load_platform("qemu-11-q35", shipped())
OF_THE_TOOLS = [one for one in qemus_in(shipped()) if one.tables is None]
OF_DEBIAN_13 = [one for one in qemus_in(shipped()) if one.tables is not None]
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
    assert replace(platform, tables=None) == same
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
    return unpacked(DEBIAN_13, tmp_path_factory.mktemp("debian-13")) / PROGRAM


def test_shipped_platforms_are_of_the_locked_qemu(tools: ToolsTree) -> None:
    found = foreign.find(tools, tools.root / PROGRAM)
    said = (found.version, found.package, found.binary)
    assert {(one.vmm.version, one.vmm.package, one.vmm.binary) for one in OF_THE_TOOLS} == {said}
    for one in OF_THE_TOOLS:
        assert found.machine(one.machine.type) == one.machine.type


@pytest.mark.parametrize("file", OF_DEBIAN_13, ids=lambda one: one.name)
def test_shipped_tables_are_those_that_debian_13_says_again(
    tools: ToolsTree, debian_13: Path, file: PlatformFile
) -> None:
    platform = record(file)
    assert platform.tables is not None
    store = Store()
    assert carry(store, platform.tables.sha256)
    sizes = decode(store.read(platform.tables.sha256))
    found = foreign.find(tools, debian_13)
    line = commandline.read(of_a_td(platform, sizes.base), {})
    learnt = learn.learn(file.name, tools, found, line, (sizes.by_vcpus, sizes.by_memory))
    assert replace(record(learnt.file), booted=True, page_order=None) == platform
    assert learnt.file.vmm.package == file.vmm.package


@pytest.mark.parametrize(
    "file",
    [one for one in qemus_in(shipped()) if one.tee != NO_TEE and one.registers.get(RTMR0) == "booted-tables"],
    ids=lambda one: one.name,
)
def test_a_platforms_file_names_the_events_that_only_a_td_can_confirm(
    tools: ToolsTree, demo_cpu: Path, file: PlatformFile
) -> None:
    predictor = MachinePredictor(tools, Workplace().store.root, demo_cpu, resolve(str(demo_cpu)).manifest())
    events = predictor.predict(record(file), Size(2, 2 * GIB)).events
    read_only = {one.origin for one in events if one.register == RTMR0 and one.evidence is Evidence.SOURCE}
    assert read_only == {"BootMenu", "bootorder", f"{smbios.TABLES} type 1"}
    text = (shipped() / f"platforms/{file.name}.yaml").read_text()
    assert all(word in text for word in ("BootMenu", "bootorder", "SMBIOS type 1"))


def bench_on(tools: ToolsTree, image: Path, platform: Platform, qemu: Qemu | None = None) -> Bench:
    """Boots of ``image`` on ``platform``, with its QEMU."""
    target = resolve(str(image))
    store, recipes = Workplace().store.root, recipes_directory(target)
    return Bench(tools, store, image, target.manifest(), recipes, platform=platform, qemu=qemu)


def booted_as_predicted(tools: ToolsTree, image: Path, platform: Platform, qemu: Qemu | None, size: Size) -> None:
    """Boot ``image`` on ``platform``; each event is the predicted one."""
    bench = bench_on(tools, image, platform, qemu)
    booted = bench.boot(bench.launch(size))
    assert booted.problems() == []
    assert booted.comparison.matched["rtmr0"] > 10


@only_full
@pytest.mark.parametrize("size", [Size(2, 2 * GIB), Size(1, 8 * GIB), Size(64, 2 * GIB)], ids=str)
def test_each_event_of_debian_13s_platform_is_predicted(
    tools: ToolsTree, debian_13: Path, demo_cpu: Path, size: Size
) -> None:
    (file,) = OF_DEBIAN_13
    booted_as_predicted(tools, demo_cpu, record(file), foreign.find(tools, debian_13).qemu, size)


@only_full
@pytest.mark.parametrize("size", [Size(2, 2 * GIB), Size(1, 8 * GIB)], ids=str)
def test_each_event_of_an_older_machine_type_is_predicted(tools: ToolsTree, demo_cpu: Path, size: Size) -> None:
    booted_as_predicted(tools, demo_cpu, load_platform("qemu-11-q35-10.0", shipped()), None, size)


@only_full
def test_each_event_of_the_platform_with_a_card_is_predicted_for_stand_ins(tools: ToolsTree, demo_cpu: Path) -> None:
    card = load_platform("qemu-11-q35-h100", shipped())
    stands_in = tuple(replace(one, functions=one.kind == MEMORY) for one in card.devices)
    booted_as_predicted(tools, demo_cpu, replace(card, devices=stands_in), None, Size(2, 2 * GIB))


@only_full
def test_a_foreign_machine_is_learnt_and_its_boot_is_predicted(
    tools: ToolsTree, debian_13: Path, demo_cpu: Path
) -> None:
    found = foreign.find(tools, debian_13)
    assert found.version.startswith("10.0.")
    learnt = learn.learn("debian-13", tools, found, commandline.read(FOREIGN, {}), ((1, 2), (2 * GIB, 8 * GIB)))
    Workplace().store.add_bytes(learnt.tables)
    for size in (Size(2, 2 * GIB), Size(1, 8 * GIB)):
        booted_as_predicted(tools, demo_cpu, record(learnt.file), found.qemu, size)


@only_full
def test_a_boot_with_another_qemu_than_the_platforms_names_the_events_that_differ(
    tools: ToolsTree, debian_13: Path, demo_cpu: Path
) -> None:
    """What a host sees whose QEMU is not that of its platform: Debian 13's QEMU on the tables of Debian 14's."""
    bench = bench_on(tools, demo_cpu, load_platform("qemu-11-q35-10.0", shipped()))
    launch = replace(bench.launch(Size(2, 2 * GIB)), qemu=foreign.find(tools, debian_13).qemu)
    booted = bench.boot(launch)
    named = {one.predicted.origin for one in booted.comparison.differences if one.predicted is not None}
    assert named == {acpi.TABLE_LOADER, acpi.RSDP, acpi.TABLES}
    assert not booted.equal
