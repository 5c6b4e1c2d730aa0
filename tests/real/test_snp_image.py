"""The launch digests of a real image are those that an independent program computes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sevsnpmeasure.guest as oracle
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType
from tests.real.conftest import only_full, privml, succeeded

from privml.events.registers import LAUNCH
from privml.image.tools import ToolsTree
from privml.machine.platform import Size
from privml.measure.snp import vmsa
from privml.measure.snp.bound import bound
from privml.measure.snp.launch import Launcher
from privml.output.manifest import Manifest, read
from privml.output.prediction import read_prediction
from privml.recipe.loader import shipped
from privml.recipe.processors import EPYC
from privml.statement.launch import BOUND, MeasuredLaunch, SnpMachine
from privml.vm.platforms import platform
from privml.vm.predicted import SnpPredictor, hashes_of

pytestmark = pytest.mark.real

STOCK = "usr/share/ovmf/OVMF.amdsev.fd"
THEIRS = {"qemu": VMMType.QEMU, "ec2": VMMType.ec2, "gce": VMMType.gce}


@pytest.fixture
def manifest(demo_cpu: Path) -> Manifest:
    return read(demo_cpu)


def launches(demo_cpu: Path, manifest: Manifest) -> list[MeasuredLaunch]:
    return [launch for launch in read_prediction(demo_cpu, manifest).launches if launch.tee == "snp"]


def theirs(demo_cpu: Path, vcpus: int, signature: int, vmm: str = "qemu", *, hashed: bool = True) -> bytes:
    files = [str(demo_cpu / name) if name else "" for name in ("firmware-snp.fd", "uki.efi" if hashed else "")]
    return oracle.calc_launch_digest(
        SevMode.SEV_SNP, vcpus, signature, *files, "", "", 1, vmm_type=THEIRS[vmm]
    )  # fmt: skip


def test_the_prediction_is_what_another_program_computes(demo_cpu: Path, manifest: Manifest) -> None:
    found = launches(demo_cpu, manifest)
    assert [launch.machine.vcpus for launch in found] == [size.vcpus for size in manifest.shapes]
    for launch in found:
        machine = launch.machine
        assert isinstance(machine, SnpMachine) and machine.boot == BOUND
        assert launch.accepted(LAUNCH) == (theirs(demo_cpu, machine.vcpus, machine.cpu_signature),)


def test_every_processor_and_vmm_gives_the_digest_of_another_program(demo_cpu: Path, manifest: Manifest) -> None:
    firmware = (demo_cpu / "firmware-snp.fd").read_bytes()
    signatures = {name: vmsa.cpu_signature(*identity) for name, identity in EPYC.items()}
    assert signatures == {name: CPU_SIGS[name] for name in EPYC}
    for vmm in THEIRS:
        launcher = Launcher(firmware, hashes_of(manifest), vmsa.VMMS[vmm])
        for number, signature in enumerate(signatures.values()):
            vcpus = 1 + 7 * number
            assert launcher.digest(vcpus, signature=signature) == theirs(demo_cpu, vcpus, signature, vmm), (
                vmm,
                vcpus,
            )
    bare = Launcher(firmware, None).digest(2, signature=signatures["EPYC-Genoa"])
    assert bare == theirs(demo_cpu, 2, signatures["EPYC-Genoa"], hashed=False)


@only_full
def test_64_numbers_of_processors_give_the_digests_of_another_program(demo_cpu: Path, manifest: Manifest) -> None:
    machine = platform("qemu-11-q35-snp", shipped())
    found = SnpPredictor(demo_cpu, manifest).launches(machine, [Size(vcpus, 2 << 30) for vcpus in range(1, 65)])
    for launch in found:
        assert launch.accepted(LAUNCH) == (theirs(demo_cpu, launch.machine.vcpus, 0xA10F10),)


def test_the_firmware_is_derived_from_the_package_s(demo_cpu: Path, manifest: Manifest, tools: ToolsTree) -> None:
    stock = (tools.root / STOCK).read_bytes()
    one = manifest.firmware_for("snp")
    assert one.derived_from == hashlib.sha256(stock).hexdigest()
    made = bound(stock)
    assert (demo_cpu / one.file).read_bytes() == made != stock
    assert manifest.artefacts[one.file].sha256 == hashlib.sha256(made).hexdigest()


def test_measure_prints_the_launches_of_one_tee(demo_cpu: Path, manifest: Manifest) -> None:
    said = succeeded(privml("measure", str(demo_cpu), "--tee", "snp")).stdout
    for launch in launches(demo_cpu, manifest):
        assert f"launch  {launch.accepted(LAUNCH)[0].hex()}  source" in said
    assert "mrtd" not in said
