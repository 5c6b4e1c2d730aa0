"""From a built image to a started machine: QEMU's arguments, and clean-up after a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import snp_firmware
from test_image_manifest import on_one_disk, sample, without_model
from vm_fake import tools_with

from privml.base.errors import BuildError, HostError, RecipeError
from privml.image.tools import GENERIC_FIRMWARE, ToolsTree
from privml.machine.platform import Device, Size
from privml.measure import mrtd
from privml.recipe.loader import shipped
from privml.vm import accelerator, simulation, swtpm
from privml.vm.launch import launch_of
from privml.vm.machine import Launch, started
from privml.vm.platforms import platform
from privml.vm.process import Child
from privml.vm.simulation import SIM_LAUNCH, SIM_MRTD

FAKE_SANDBOX = """
import json, pathlib, sys, time
words = sys.argv[1:]
argv = words[words.index("--") + 1 :]
binds = {words[n + 2]: words[n + 1] for n, word in enumerate(words) if word in ("--bind", "--ro-bind")}
vm = pathlib.Path(binds["/vm"])
seen = {"argv": argv, "binds": binds, "writable": [words[n + 2] for n, word in enumerate(words) if word == "--bind"],
        "network": "--unshare-net" not in words, "vm": {p.name: p.read_text() for p in vm.glob("fw_cfg.*")}}
(pathlib.Path(__file__).parent / "seen.json").write_text(json.dumps(seen))
print("qemu says hello", flush=True)
if (pathlib.Path(__file__).parent / "fails").exists():
    sys.exit("qemu: no such machine")
(vm / "console.log").write_text("Linux version\\nready\\n")
(vm / "qmp.sock").touch()
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "image"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToolsTree]:
    monkeypatch.setattr(accelerator, "choose", lambda _: "tcg")
    with tools_with(FAKE_SANDBOX, tmp_path, monkeypatch) as found:
        yield found


def seen(tools: ToolsTree) -> dict[str, Any]:

    found: dict[str, Any] = json.loads((tools.mkosi_packages / "mkosi/seen.json").read_text())
    return found


def test_the_first_platform_and_shape_are_the_default(folder: Path) -> None:
    made = sample(folder)
    found = launch_of(folder, made, shipped())
    assert found == Launch(
        folder,
        platform("qemu-11-q35", shipped()),
        Size(2, 2 << 30),
        ("root.raw", "model.raw"),
        "firmware.fd",
        forward=8443,
    )
    other = launch_of(folder, made, shipped(), platform=platform("qemu-11-q35-tpm", shipped()), size=Size(4, 4 << 30))
    assert (other.platform.tpm, other.size) == (True, Size(4, 4 << 30))


def test_an_image_without_a_model_has_one_disk(folder: Path, tools: ToolsTree) -> None:
    made = replace(without_model(folder), platforms=("qemu-11-q35-one-disk",))
    (folder / "model.raw").unlink()
    found = launch_of(folder, made, shipped())
    assert found.disks == ("root.raw",)
    with started(tools, found):
        words = seen(tools)["argv"]
    assert [word for word in words if "file.filename=" in word] == [
        "driver=raw,node-name=disk0,read-only=on,file.driver=file,file.filename=/image/root.raw"
    ]
    assert sum(word.startswith("virtio-blk-pci,") for word in words) == 1


def test_an_image_that_boots_from_its_disk_has_no_kernel_and_no_other_disk(folder: Path, tools: ToolsTree) -> None:
    made = replace(on_one_disk(folder), platforms=("qemu-11-q35-one-disk",))
    with started(tools, launch_of(folder, made, shipped())):
        found = seen(tools)
    assert "-kernel" not in found["argv"]
    assert found["binds"]["/boot.raw"] == str((folder / "disk.raw").resolve())
    assert [word for word in found["argv"] if "file.filename=" in word] == [
        "driver=raw,node-name=disk0,read-only=on,file.driver=file,file.filename=/boot.raw"
    ]


def test_artefacts_are_checked_before_anything_starts(folder: Path) -> None:
    made = sample(folder)
    (folder / "root.raw").write_bytes(b"other")
    with pytest.raises(BuildError, match=r"root\.raw does not match manifest"):
        launch_of(folder, made, shipped())


def test_an_unknown_platform_is_reported(folder: Path) -> None:
    with pytest.raises(RecipeError, match="no platform `other`"):
        launch_of(folder, replace(sample(folder), platforms=("other",)), shipped())


def test_only_a_development_guest_gets_a_simulated_platform(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mrtd, "mrtd", lambda data: b"\x01" + data[:3])
    made = sample(folder)
    assert launch_of(folder, made, shipped()).fw_cfg == {}
    found = launch_of(folder, replace(made, variant="development"), shipped())
    assert found.fw_cfg == {SIM_MRTD: (b"\x01" + b"fir").hex().encode()}
    assert not found.simulates_snp


def snp_guest(folder: Path, variant: str = "development") -> Launch:
    """A launch on a platform of SNP guests, of an image whose firmware starts both kinds of guest."""
    made = sample(folder)
    made = replace(made, variant=variant, firmware={**made.firmware, "snp": made.firmware["tdx"]})
    return launch_of(folder, made, shipped(), platform=platform("qemu-11-q35-snp", shipped()))


def test_a_guest_on_a_platform_of_snp_guests_simulates_one(folder: Path) -> None:
    found = snp_guest(folder)
    assert (found.simulates_snp, found.fw_cfg) == (True, {})
    assert not snp_guest(folder, "production").simulates_snp


def test_a_simulated_snp_guest_gets_the_digest_of_what_is_started(
    folder: Path, tools: ToolsTree, tmp_path: Path
) -> None:
    made = snp_guest(folder)
    (folder / "firmware.fd").write_bytes(snp_firmware.firmware())
    (tmp_path / "other.efi").write_bytes(b"another kernel")
    digests = []
    for change in (None, lambda argv: [*argv, "-append", "x"], lambda argv: [*argv, "-kernel", "/attached/other"]):
        with started(tools, replace(made, change=change, attached={"other": tmp_path / "other.efi"})) as running:
            argv = seen(tools)["argv"]
            digests.append((running.directory / "snp-launch").read_text())
        words = simulation.snp(argv, lambda name: files(folder, tmp_path)[name], signature=0xA10F10, features=1)
        assert words.digest.hex() == digests[-1]
        assert f"name={SIM_LAUNCH},file=/vm/snp-launch" in argv
        assert "loader,file=/vm/snp-hashes,addr=0x810000,force-raw=on" in argv
    assert len(set(digests)) == 3


def files(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    return {
        "/image/firmware.fd": (folder / "firmware.fd").read_bytes(),
        "/image/uki.efi": (folder / "uki.efi").read_bytes(),
        "/attached/other": (tmp_path / "other.efi").read_bytes(),
    }


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"generic_firmware": True}, "is no file of this machine"),
        ({"platform": "qemu-11-q35"}, "names no processors of SNP guests"),
    ],
)
def test_what_cannot_be_computed_is_not_simulated(
    folder: Path, tools: ToolsTree, how: dict[str, Any], why: str
) -> None:
    if "platform" in how:
        how = {"platform": platform(how["platform"], shipped())}
    with (
        pytest.raises(HostError, match=why),
        started(tools, replace(snp_guest(folder), **how)),
    ):
        pass


def test_a_started_machine_has_the_image_read_only(folder: Path, tools: ToolsTree) -> None:
    made = launch_of(folder, sample(folder), shipped())
    with started(tools, made) as running:
        found = seen(tools)
        assert running.console.read_text().endswith("ready\n")
        assert "  | ready" in running.console_tail()
        running.check_running()
        directory = running.directory
    assert not directory.exists()
    assert not running.qemu.running()
    assert found["binds"]["/image"] == str(folder)
    assert found["writable"] == ["/proc", "/vm"]
    argv = found["argv"]
    assert argv[0] == "qemu-system-x86_64"
    assert argv[argv.index("-bios") + 1] == "/image/firmware.fd"
    assert argv[argv.index("-kernel") + 1] == "/image/uki.efi"
    assert f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{running.port}-:8443" in argv
    assert argv[-2:] == ["-run-with", "exit-with-parent=on"]


def test_memory_and_fw_cfg_are_files_of_the_run(folder: Path, tools: ToolsTree) -> None:
    made = launch_of(folder, sample(folder), shipped())
    made = replace(made, share_memory=True, fw_cfg={"opt/b": b"2", "opt/a": b"1"})
    with started(tools, made) as running:
        found = seen(tools)
        assert running.memory == running.directory / "ram"
    words = " ".join(found["argv"])
    assert f"memory-backend-file,id=ram,size={2 << 30},mem-path=/vm/ram,share=on" in words
    assert "-fw_cfg name=opt/a,file=/vm/fw_cfg.0 -fw_cfg name=opt/b,file=/vm/fw_cfg.1" in words
    assert found["vm"] == {"fw_cfg.0": "1", "fw_cfg.1": "2"}


def test_a_change_edits_the_whole_command_line_and_names_its_files(
    folder: Path, tools: ToolsTree, tmp_path: Path
) -> None:
    """Only the option that ends the machine with its parent cannot be changed."""
    (tmp_path / "evil.raw").write_bytes(b"x")
    made = replace(launch_of(folder, sample(folder), shipped()), share_memory=True)
    with started(tools, made):
        honest = seen(tools)["argv"]
    lists: list[list[str]] = []

    def change(argv: list[str]) -> list[str]:
        lists.append(argv)
        return ["-drive", "file=/attached/evil"]

    with started(tools, replace(made, change=change, attached={"evil": tmp_path / "evil.raw"})):
        found = seen(tools)
    assert found["argv"] == ["qemu-system-x86_64", "-drive", "file=/attached/evil", *honest[-2:]]
    (given,) = lists
    assert [word for word in given if "hostfwd" not in word] == [
        word for word in honest[1:-2] if "hostfwd" not in word
    ]
    assert found["binds"]["/attached/evil"] == str(tmp_path / "evil.raw")
    assert found["writable"] == ["/proc", "/vm", "/attached/evil"]


def test_a_boot_disk_comes_first_and_replaces_the_kernel(folder: Path, tools: ToolsTree, tmp_path: Path) -> None:
    (tmp_path / "boot.raw").write_bytes(b"x")
    made = launch_of(folder, sample(folder), shipped())
    devices = (Device("virtio-blk", 1), *made.platform.devices)
    made = replace(made, boot_disk=tmp_path / "boot.raw", platform=replace(made.platform, devices=devices))
    with started(tools, made):
        found = seen(tools)
    words = " ".join(found["argv"])
    assert "-kernel" not in words
    assert found["binds"]["/boot.raw"] == str(tmp_path / "boot.raw")
    assert [word.rsplit("=", 1)[1] for word in found["argv"] if word.startswith("driver=raw")] == [
        "/boot.raw",
        "/image/root.raw",
        "/image/model.raw",
    ]


def test_generic_firmware_comes_from_the_tools_tree(folder: Path, tools: ToolsTree) -> None:
    made = replace(launch_of(folder, sample(folder), shipped()), generic_firmware=True)
    with started(tools, made):
        argv = seen(tools)["argv"]
    assert argv[argv.index("-bios") + 1] == GENERIC_FIRMWARE


def test_a_machine_that_does_not_start_shows_qemu_s_output(folder: Path, tools: ToolsTree) -> None:
    (tools.mkosi_packages / "mkosi/fails").touch()
    made = launch_of(folder, sample(folder), shipped())
    with pytest.raises(HostError) as caught, started(tools, made):
        pass
    assert "qemu-system-x86_64 exited with status 1" in caught.value.message
    assert "  | qemu: no such machine" in caught.value.message


def test_a_machine_that_ends_is_noticed(folder: Path, tools: ToolsTree) -> None:
    with started(tools, launch_of(folder, sample(folder), shipped())) as running:
        running.qemu.stop()
        with pytest.raises(HostError, match="the machine exited") as caught:
            running.check_running()
    assert "  | qemu says hello" in caught.value.message
    assert "  | ready" in caught.value.message


def test_an_error_in_the_block_ends_the_machine(folder: Path, tools: ToolsTree) -> None:
    with pytest.raises(KeyboardInterrupt), started(tools, launch_of(folder, sample(folder), shipped())) as running:
        raise KeyboardInterrupt
    assert not running.qemu.running()


def test_a_tpm_that_does_not_start_leaves_no_process(
    folder: Path, tools: ToolsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object, **_more: object) -> Child:
        raise HostError("swtpm: no")

    monkeypatch.setattr(swtpm, "start", no)
    made = launch_of(folder, sample(folder), shipped(), platform=platform("qemu-11-q35-tpm", shipped()))
    with pytest.raises(HostError, match="swtpm: no"), started(tools, made):
        pass
    assert not (tools.mkosi_packages / "mkosi/seen.json").exists()
