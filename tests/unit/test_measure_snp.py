"""Launch digests of SNP guests: equal to an independent program's, and refused where a firmware cannot be right."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import sevsnpmeasure.guest as oracle
from sevsnpmeasure.gctx import GCTX
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType
from snp_firmware import RESET_EIP, SECTIONS, firmware

from privml.base.errors import MeasurementError
from privml.events.registers import ZERO
from privml.measure.firmwarefile import describe
from privml.measure.snp import pages, table, vmsa
from privml.measure.snp.hashes import SIZE, KernelHashes
from privml.measure.snp.launch import Launcher
from privml.measure.snp.pages import PageType
from privml.measure.snp.table import SectionType

UKI = b"MZ a kernel image"
KERNEL = KernelHashes.of_uki(hashlib.sha256(UKI).digest())
THEIRS = {"qemu": VMMType.QEMU, "ec2": VMMType.ec2, "gce": VMMType.gce}
MILAN = vmsa.cpu_signature(25, 1, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("snp")
    (place / "firmware").write_bytes(firmware())
    (place / "kernel").write_bytes(UKI)
    return place


def theirs(files: Path, vmm: str, vcpus: int, signature: int, features: int = 1, *, hashed: bool = True) -> bytes:
    return oracle.calc_launch_digest(
        SevMode.SEV_SNP, vcpus, signature, str(files / "firmware"), str(files / "kernel") if hashed else "", "", "",
        features, vmm_type=THEIRS[vmm],
    )  # fmt: skip


@pytest.mark.parametrize("hashed", [True, False], ids=["hashed", "unhashed"])
@pytest.mark.parametrize("vmm", vmsa.VMMS)
def test_digests_are_those_of_another_program(files: Path, vmm: str, hashed: bool) -> None:
    launcher = Launcher(firmware(), KERNEL if hashed else None, vmsa.VMMS[vmm])
    signatures = sorted(set(CPU_SIGS.values()))
    for number, signature in enumerate(signatures):
        for vcpus in (1, 2, 3 + number, 64):
            expected = theirs(files, vmm, vcpus, signature, hashed=hashed)
            assert launcher.digest(vcpus, signature=signature) == expected, (vcpus, hex(signature))
    assert launcher.digest(2, signature=MILAN, features=0x21) == theirs(files, vmm, 2, MILAN, 0x21, hashed=hashed)


def test_initrd_and_command_line_count(files: Path, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"an initrd")
    digests = (hashlib.sha256(part).digest() for part in (UKI, b"an initrd", b"quiet\0"))
    found = Launcher(firmware(), KernelHashes(*digests)).digest(2, signature=MILAN)
    assert found == oracle.calc_launch_digest(
        SevMode.SEV_SNP,
        2,
        MILAN,
        str(files / "firmware"),
        str(files / "kernel"),
        str(tmp_path / "initrd"),
        "quiet",
        1,
    )


def test_signatures_are_those_of_another_program() -> None:
    ours = {
        "EPYC": (23, 1, 2), "EPYC-Rome": (23, 49, 0), "EPYC-Milan": (25, 1, 1), "EPYC-Genoa": (25, 17, 0),
        "EPYC-Turin": (26, 0, 0),
    }  # fmt: skip
    assert {name: vmsa.cpu_signature(*of) for name, of in ours.items()} == {name: CPU_SIGS[name] for name in ours}
    for wrong in ((0x10F, 0, 0), (25, 0x100, 0), (25, 1, 16), (-1, 0, 0)):
        with pytest.raises(ValueError, match="family"):
            vmsa.cpu_signature(*wrong)


def test_every_type_of_page_is_chained_as_by_another_program() -> None:
    theirs = GCTX()
    data = bytes(range(256)) * 32
    theirs.update_normal_pages(0x1000, data)
    found = pages.extend_data(ZERO, 0x1000, data)
    for kind, update in (
        (PageType.ZERO, theirs.update_zero_pages),
        (PageType.UNMEASURED, theirs.update_unmeasured_pages),
    ):
        update(0x5000, 0x3000)
        found = pages.extend_empty(found, kind, 0x5000, 0x3000)
    theirs.update_secrets_page(0x9000)
    theirs.update_cpuid_page(0xA000)
    found = pages.extend(pages.extend(found, PageType.SECRETS, 0x9000), PageType.CPUID, 0xA000)
    assert found == theirs.ld()
    for gpa, size in ((0x1001, 4096), (0x1000, 4095)):
        with pytest.raises(MeasurementError, match="no whole pages"):
            pages.extend_data(ZERO, gpa, bytes(size))


@pytest.mark.parametrize("vmm", vmsa.VMMS)
def test_steps_say_what_moves_the_digest(vmm: str) -> None:
    launcher = Launcher(firmware(), KERNEL, vmsa.VMMS[vmm])
    steps = launcher.steps(3, signature=MILAN)
    assert steps[-1].digest == launcher.digest(3, signature=MILAN)
    assert [step.origin for step in steps[:1] + steps[-3:]] == ["the firmware", "vCPU 0", "vCPU 1", "vCPU 2"]
    assert sum(step.origin == "the kernel hashes" for step in steps) == 1
    cpuid = [step.origin for step in steps].index("section CPUID of the firmware")
    assert (steps[cpuid + 1].origin == "vCPU 0") is (vmm == "ec2")
    assert steps[0].gpa == (1 << 32) - 0x4000 and steps[0].count == 4
    other = Launcher(firmware(), KernelHashes.of_uki(bytes(32)), vmsa.VMMS[vmm]).steps(3, signature=MILAN)
    moved = [one.origin for one, two in zip(steps, other, strict=True) if one != two]
    assert moved[0] == "the kernel hashes" and moved[-1] == "vCPU 2"


def test_without_a_kernel_the_step_says_so() -> None:
    steps = Launcher(firmware(), None).steps(1, signature=MILAN)
    assert [step.type for step in steps if step.origin == "no kernel hashes"] == [PageType.ZERO]


def test_each_input_moves_the_digest() -> None:
    base = Launcher(firmware(), KERNEL).digest(2, signature=MILAN)
    body = bytearray(firmware())
    body[0] ^= 1
    found = {
        base,
        Launcher(bytes(body), KERNEL).digest(2, signature=MILAN),
        Launcher(firmware(), None).digest(2, signature=MILAN),
        Launcher(firmware(reset=RESET_EIP + 1), KERNEL).digest(2, signature=MILAN),
        Launcher(firmware(hashes=0x810C10), KERNEL).digest(2, signature=MILAN),
        Launcher(firmware(SECTIONS[1:]), KERNEL).digest(2, signature=MILAN),
        Launcher(firmware(), KERNEL).digest(1, signature=MILAN),
        Launcher(firmware(), KERNEL).digest(2, signature=MILAN + 1),
        Launcher(firmware(), KERNEL).digest(2, signature=MILAN, features=3),
        Launcher(firmware(), KERNEL, vmsa.EC2).digest(2, signature=MILAN),
    }
    assert len(found) == 10


def test_sections_are_read_in_order_and_empty_ones_add_nothing() -> None:
    found = table.read(firmware())
    assert [(one.gpa, one.size, one.kind) for one in found.sections] == [row for row in SECTIONS if row[1]]
    assert (found.reset_eip, found.hashes) == (RESET_EIP, 0x810C00)


def rows(*, but: int = 0, more: tuple[tuple[int, int, int], ...] = ()) -> tuple[tuple[int, int, int], ...]:
    return tuple(row for row in SECTIONS if row[2] != but) + more


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "half a page": ({"size": 0x3FFF}, "whole pages"),
    "nothing": ({"metadata": b""}, "no `ASEV`"),
    "another signature": ({"metadata": b"VESA" + bytes(12)}, "no `ASEV`"),
    "another version": ({"metadata": b"ASEV" + struct.pack("<III", 28, 2, 1) + bytes(12)}, "version 2"),
    "no sections": ({"sections": ()}, "0 SEV sections"),
    "33 sections": ({"sections": SECTIONS[:1] * 33}, "33 SEV sections"),
    "a length of other sections": ({"metadata": b"ASEV" + struct.pack("<III", 40, 1, 1) + bytes(12)}, "in 40 bytes"),
    "an unknown section": ({"sections": rows(more=((0x1000, 0x1000, 5),))}, "type 5"),
    "a section between pages": ({"sections": rows(more=((0x1001, 0x1000, 1),))}, "malformed"),
    "a section of half a page": ({"sections": rows(more=((0x1000, 0x800, 1),))}, "malformed"),
    "a huge section": ({"sections": rows(more=((0x1000, 1 << 29, 1),))}, "malformed"),
    "a section above 4 GiB": ({"sections": rows(more=((0xFFFFF000, 0x2000, 1),))}, "malformed"),
    "two pages of secrets": ({"sections": rows(but=2, more=((0x80D000, 0x2000, 2),))}, "SECRETS is not one page"),
    "two CPUID pages": ({"sections": rows(more=((0x900000, 0x1000, 3),))}, "CPUID is not one page"),
    "no secrets": ({"sections": rows(but=2)}, "no section SECRETS"),
    "no CPUID page": ({"sections": rows(but=3, more=((0, 0, 3),))}, "no section CPUID"),
    "hashes elsewhere": ({"hashes": 0x812C00}, "in none of its sections"),
    "hashes across a page's end": ({"hashes": 0x810F80}, "crosses the end"),
    "no reset block": ({"reset": None}, "no SEV-ES reset block"),
    "no place for hashes": ({"hashes": None}, "would start any"),
    "a place for hashes at 0": ({"hashes": 0}, "would start any"),
    "no section for hashes": ({"sections": rows(but=0x10)}, "would start any"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_firmware_that_cannot_be_right_is_refused(case: str) -> None:
    changes, why = REFUSED[case]
    with pytest.raises(MeasurementError, match=why):
        Launcher(firmware(**changes), KERNEL)


def test_a_firmware_without_the_tables_is_refused() -> None:
    for data, why in (
        (b"", "whole pages"),
        (bytes(0x4000), "no GUID table"),
        (firmware()[:-0x1000], "no GUID table"),
    ):
        with pytest.raises(MeasurementError, match=why):
            table.read(data)
    without = firmware().replace(bytes.fromhex("66658 8dc4a98".replace(" ", "")), bytes(6))
    with pytest.raises(MeasurementError, match="cannot start an SNP guest"):
        table.read(without)


def test_arguments_that_are_no_machine_are_refused() -> None:
    launcher = Launcher(firmware(), KERNEL)
    with pytest.raises(ValueError, match="at least one"):
        launcher.digest(0, signature=MILAN)
    for signature, features in ((1 << 32, 1), (-1, 1), (MILAN, 1 << 64)):
        with pytest.raises(ValueError, match="32 bits"):
            launcher.digest(1, signature=signature, features=features)
    with pytest.raises(ValueError, match="32 bytes"):
        KernelHashes(b"", bytes(32), bytes(32)).table()
    with pytest.raises(ValueError, match="cross the end"):
        KERNEL.page(0x1000 - SIZE + 1)
    assert SectionType.KERNEL_HASHES == 0x10


def test_a_firmware_file_is_described() -> None:
    found = describe(firmware())
    assert found.title == "SEV-SNP firmware of 16384 bytes"
    assert found.facts["SNP section 3 CPUID"] == "0x80e000, 4096 bytes"
    assert found.facts["SNP hashes of kernel, initrd, command line"] == "0x810c00"
    theirs = GCTX()
    theirs.update_normal_pages((1 << 32) - 0x4000, firmware())
    assert found.facts["SNP launch digest after the firmware"] == theirs.hex_ld()
    assert not found.mrtd and not found.events
    bare = describe(firmware(hashes=None))
    assert any("says nothing of its kernel" in note for note in bare.notes)
    with pytest.raises(MeasurementError, match="cannot start a TD"):
        describe(firmware(rows(but=3)))
