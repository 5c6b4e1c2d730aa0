"""Launches of SNP guests in predictions, one for each number of processors, as another program computes them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import sevsnpmeasure.guest as oracle
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType
from snp_firmware import firmware

from privml.base.errors import MeasurementError, RecipeError
from privml.events.registers import LAUNCH
from privml.machine.platform import Size
from privml.measure.snp import vmsa
from privml.measure.snp.hashes import KernelHashes
from privml.measure.snp.launch import Launcher
from privml.measure.snp.predict import predict
from privml.recipe.loader import shipped
from privml.statement.launch import BOUND, HASHED, MeasuredLaunch
from privml.vm.platforms import platform

UKI = b"MZ a kernel image"
KERNEL = KernelHashes.of_uki(hashlib.sha256(UKI).digest())
SNP = platform("qemu-11-q35-snp", shipped())
ORIGINS = {"firmware-snp.fd": "recipes/x.yaml:5 firmware.snp.package", "uki.efi": "recipes/x.yaml:4 kernel.package"}


def test_a_launch_has_the_digest_that_another_program_computes(tmp_path: Path) -> None:
    (tmp_path / "firmware").write_bytes(firmware())
    (tmp_path / "uki").write_bytes(UKI)
    for vcpus, features in ((1, 1), (3, 1), (2, 0x21)):
        machine = dataclasses.replace(SNP, sev_features=features)
        (found,) = predict(Launcher(firmware(), KERNEL), machine, [Size(vcpus, 0)], BOUND, {})
        assert found.accepted(LAUNCH) == (
            oracle.calc_launch_digest(
                SevMode.SEV_SNP, vcpus, 0xA10F10, str(tmp_path / "firmware"), str(tmp_path / "uki"), "", "",
                features, vmm_type=VMMType.QEMU,
            ),
        )  # fmt: skip
        assert found.events[-1].digest == found.accepted(LAUNCH)[0]


def test_a_launch_is_written_and_read_with_its_steps_and_their_recipe_lines() -> None:
    (found,) = predict(Launcher(firmware(), KERNEL), SNP, [Size(2, 1 << 30)], HASHED, ORIGINS)
    assert MeasuredLaunch.from_dict(found.to_dict()) == found
    assert found.label == "qemu-11-q35-snp, 2 vcpus, CPU 0xa10f10"
    assert found.machine.to_dict() == {
        "vcpus": 2, "vmm": "qemu", "cpu_signature": 0xA10F10, "sev_features": 1, "boot": "hashed",
    }  # fmt: skip
    steps = {event.origin: event for event in found.events}
    of_firmware = steps["the firmware (recipes/x.yaml:5 firmware.snp.package)"]
    assert of_firmware.count == 4 and of_firmware.note == f"sha256 {hashlib.sha256(firmware()).hexdigest()}"
    hashes = steps["the kernel hashes (recipes/x.yaml:4 kernel.package)"]
    assert hashes.note == f"kernel {hashlib.sha256(UKI).hexdigest()}, no initrd, no command line"
    assert steps["vCPU 1"].note == "CPUID 0xa10f10, SEV_FEATURES 0x1"
    assert {event.evidence.value for event in found.events} == {"source"}


def test_machines_that_differ_in_memory_are_one() -> None:
    launcher = Launcher(firmware(), KERNEL)
    found = predict(launcher, SNP, [Size(4, 1 << 31), Size(2, 1 << 31), Size(4, 1 << 32)], BOUND, {})
    assert [launch.machine.vcpus for launch in found] == [4, 2]
    for launch in found:
        assert launch.events == launcher.steps(launch.machine.vcpus, signature=0xA10F10)
        assert launch.accepted(LAUNCH) == (launcher.digest(launch.machine.vcpus, signature=0xA10F10),)


def test_only_snp_guests_of_qemu_are_predicted() -> None:
    tdx = platform("qemu-11-q35", shipped())
    for launcher, where in (
        (Launcher(firmware(), KERNEL), tdx),
        (Launcher(firmware(), KERNEL), dataclasses.replace(SNP, cpu_signature=None)),
        (Launcher(firmware(), KERNEL, vmsa.GCE), SNP),
    ):
        with pytest.raises(MeasurementError, match="are not SNP guests of QEMU"):
            predict(launcher, where, [Size(1, 0)], BOUND, {})
    with pytest.raises(RecipeError, match="256 vCPUs, expected at most 255"):
        predict(Launcher(firmware(), KERNEL), SNP, [Size(256, 0)], BOUND, {})


def test_hashes_say_what_they_are_of() -> None:
    other = dataclasses.replace(KERNEL, cmdline=hashlib.sha256(b"quiet\0").digest(), initrd=bytes(32))
    assert str(other) == (
        f"kernel {KERNEL.kernel.hex()}, initrd {bytes(32).hex()}, "
        f"command line {hashlib.sha256(b'quiet' + bytes(1)).hexdigest()}"
    )
