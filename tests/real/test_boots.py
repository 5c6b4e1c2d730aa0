"""Boot the unchanged production image on many machines and predict every event that firmware, stub and kernel log.

Each boot ends when its kernel has taken over. The TPM's registers equal the log's, and a rule of
privml.measure.tdtpm explains every difference from the prediction for a TD; an unused rule fails the full run.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.real.conftest import only_full
from tests.real.levers import more, pulled

from privml.base.sizes import size_of
from privml.image.target import resolve
from privml.image.workplace import Workplace
from privml.machine.platform import Device, Size
from privml.measure import pe
from privml.measure.tdtpm import RULES
from privml.output.artefacts import UKI
from privml.vm import bootdisk
from privml.vm.bench import Bench
from privml.vm.compared import ComparedBoot

pytestmark = pytest.mark.real

SHAPES = [(vcpus, memory) for memory in ("2GiB", "2815MiB", "4GiB", "8GiB") for vcpus in (1, 2, 4, 8)]
# From the 256th on, the tables have other entries for CPUs.
SHAPES += [(255, "4GiB"), (288, "4GiB")]
IN_CHECK = ((1, "2815MiB"), (4, "4GiB"))
SMALL = Size(2, size_of("2GiB"))
GIB = 1 << 30
H100 = (128 * GIB, 32 << 20, 16 << 20)
MACHINES: dict[str, tuple[Device, ...]] = {
    "a 64-bit BAR above 4 GiB": (Device("memory", 5, bars=(8 * GIB,)),),
    "a GPU's BAR behind a root port": (Device("memory", 5, bars=(128 * GIB,), port=True),),
    # As an H100 has them, each a function of its own; the third card's order decides where the hole ends.
    "GPUs with three BARs behind root ports, and a BAR on the root bus": (
        Device("memory", 5, bars=H100, port=True, functions=True),
        Device("memory", 6, bars=H100[:1], port=True),
        Device("memory", 7, bars=H100, port=True, functions=True),
        Device("memory", 8, bars=(16 * GIB,)),
    ),
    "an option ROM": (Device("virtio-net", 5, rom=True),),
}
USED: Counter[str] = Counter()


@pytest.fixture(scope="module")
def boot_disk(demo_cpu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with the production UKI on it."""
    target, place = resolve("demo-cpu"), Workplace()
    tools = place.tools(target.recipe)
    return bootdisk.make(tools, demo_cpu / "uki.efi", tmp_path_factory.mktemp("disk") / "boot.raw")


def predicted(booted: ComparedBoot) -> ComparedBoot:
    """Require a boot to match its prediction, and record the rules that it used."""
    assert [one.text() for one in booted.comparison.differences] == []
    assert booted.disagreeing == ()
    assert [one.text() for one in booted.explanation.unexplained] == []
    assert booted.explanation.unused == ()
    assert all(booted.comparison.matched.values())
    USED.update(booted.explanation.used)
    return booted


@pytest.mark.parametrize(("vcpus", "memory"), SHAPES, ids=lambda value: str(value))
def test_the_boot_log_of_a_shape_equals_its_prediction(bench: Bench, full: bool, vcpus: int, memory: str) -> None:
    if not full and (vcpus, memory) not in IN_CHECK:
        pytest.skip("`make check-full` boots all shapes")
    predicted(bench.boot(bench.launch(Size(vcpus, size_of(memory)))))


@only_full
@pytest.mark.parametrize("name", MACHINES)
def test_the_boot_log_of_a_machine_equals_its_prediction(bench: Bench, name: str) -> None:
    predicted(bench.boot(bench.launch(SMALL, devices=MACHINES[name])))


@only_full
@pytest.mark.parametrize(
    ("shape", "devices"),
    [
        (SMALL, ()),
        (Size(4, size_of("2815MiB")), (Device("virtio-net", 6),)),
        (Size(1, size_of("4GiB")), (Device("virtio-blk", 5), Device("memory", 6, bars=(64 * GIB,), port=True))),
    ],
    ids=["two disks and a card beside it", "two cards", "three disks and a large BAR"],
)
def test_the_boot_log_of_a_disk_boot_equals_its_prediction(
    bench: Bench, boot_disk: Path, shape: Size, devices: Sequence[Device]
) -> None:
    predicted(bench.boot(bench.launch(shape, devices=devices, boot_disk=boot_disk)))


def test_a_shim_in_the_kernels_place_moves_rtmr1(bench: Bench, demo_cpu_dev: Path, tmp_path: Path) -> None:
    """An SNP guest's launch digest shows no shim that stock firmware starts; RTMR1 has an event for it."""
    shim = tmp_path / "shim"
    shutil.copy(demo_cpu_dev / UKI, shim)
    launch = pulled(bench.launch(SMALL), more("-shim", "/attached/shim"), attached={"shim": shim})
    booted = bench.boot(launch)
    assert booted.disagreeing == () and not booted.equal
    moved = [one for one in booted.comparison.differences if one.register.upper() == "RTMR1"]
    assert moved and all(one.register.upper() in {"RTMR1", "RTMR2"} for one in booted.comparison.differences)
    started = pe.authenticode(shim.read_bytes())
    assert any(entry.digest == started for entry in booted.log), "the shim's load is in the log"


@only_full
def test_no_rule_is_unused() -> None:
    """Runs last, over the whole matrix: a rule that no boot needs must be removed."""
    assert sorted(rule.id for rule in RULES if not USED[rule.id]) == []
