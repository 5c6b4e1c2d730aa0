"""What a simulated SNP guest is told of its launch: the digest that QEMU's arguments make, whoever changed them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import snp_firmware

from privml.base.errors import MeasurementError
from privml.measure.snp.hashes import KernelHashes
from privml.measure.snp.launch import Launcher
from privml.vm import simulation
from privml.vm.simulation import SIM_LAUNCH, SnpLaunch

FILES = {
    "/image/firmware.fd": snp_firmware.firmware(),
    "/image/uki.efi": b"a kernel",
    "/attached/uki.efi": b"another kernel",
    "/attached/initrd": b"an initrd",
    "/attached/firmware.fd": snp_firmware.firmware(reset=0x80B008),
}
GENOA = 0xA10F10
HONEST = ("-smp", "2", "-bios", "/image/firmware.fd", "-kernel", "/image/uki.efi", "-append-not", "x")


def launched(*more: str, argv: tuple[str, ...] = HONEST) -> SnpLaunch:
    return simulation.snp([*argv, *more], FILES.__getitem__, signature=GENOA, features=1)


def test_the_honest_arguments_have_the_digest_that_is_predicted() -> None:
    kernel = KernelHashes.of_uki(hashlib.sha256(b"a kernel").digest())
    predicted = Launcher(FILES["/image/firmware.fd"], kernel)
    found = launched()
    assert found.digest == predicted.digest(2, signature=GENOA)
    assert (found.page, found.address) == (kernel.page(0x810C00), 0x810000)
    assert launched("-smp", "4,sockets=4").digest == predicted.digest(4, signature=GENOA)


@pytest.mark.parametrize(
    "words",
    [
        ("-append", "audit=0"),
        ("-kernel", "/attached/uki.efi"),
        ("-initrd", "/attached/initrd"),
        ("-bios", "/attached/firmware.fd"),
        ("-smp", "3"),
    ],
    ids=lambda words: words[0],
)
def test_whatever_decides_the_launch_changes_the_digest(words: tuple[str, str]) -> None:
    assert launched(*words).digest != launched().digest
    # QEMU takes the last of an option.
    assert launched(*words, argv=(*HONEST, words[0], "other")).digest == launched(*words).digest


def test_what_is_not_measured_changes_nothing() -> None:
    assert launched("-m", "8G", "-smbios", "type=11,value=x", "-shim", "/attached/uki.efi") == launched()


def test_without_a_kernel_the_digest_covers_none_and_no_page_is_given(tmp_path: Path) -> None:
    found = launched(argv=HONEST[:4])
    assert found.digest == Launcher(FILES["/image/firmware.fd"], None).digest(2, signature=GENOA)
    assert found.page == b""
    assert found.written(tmp_path, "/vm") == ["-fw_cfg", f"name={SIM_LAUNCH},file=/vm/snp-launch"]


def test_qemu_is_given_the_digest_and_the_page(tmp_path: Path) -> None:
    found = launched()
    assert found.written(tmp_path, "/vm") == [
        "-fw_cfg", f"name={SIM_LAUNCH},file=/vm/snp-launch",
        "-device", "loader,file=/vm/snp-hashes,addr=0x810000,force-raw=on",
    ]  # fmt: skip
    assert (tmp_path / "snp-launch").read_text() == found.digest.hex()
    assert (tmp_path / "snp-hashes").read_bytes() == found.page


@pytest.mark.parametrize("argv", [HONEST[2:], HONEST[:2]])
def test_arguments_that_decide_no_launch_are_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(MeasurementError, match="name no firmware or no processors"):
        launched(argv=argv)


def test_firmware_that_checks_no_kernel_is_refused() -> None:
    other = snp_firmware.firmware(hashes=None)
    with pytest.raises(MeasurementError, match="no place for the hashes"):
        simulation.snp(HONEST, {**FILES, "/image/firmware.fd": other}.__getitem__, signature=GENOA, features=1)
