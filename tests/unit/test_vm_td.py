"""`run --tdx`: it starts the arguments whose registers are predicted, shows them, and refuses what would differ."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_image_manifest import on_one_disk, sample
from vm_fake import tools_with

from privml.base.errors import HostError, PrivmlError, RecipeError, UsageError
from privml.cli import run as verb
from privml.host import ladder
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.machine.platform import Tables
from privml.machine.qemu import HostSide
from privml.recipe.loader import qemus_in, shipped
from privml.recipe.platform import NO_TEE
from privml.vm import foreign, td
from privml.vm.foreign import ForeignQemu
from privml.vm.launch import launch_of
from privml.vm.machine import Launch
from privml.vm.platforms import platform, platform_named
from privml.vm.qtest import Qemu, asked
from privml.vm.td import TdHost, cards, qemu_for, quote_socket, started_td, td_arguments

PLAIN = platform("qemu-11-q35", shipped())
H100 = platform("qemu-11-q35-h100", shipped())
CARD = "0000:18:00.0"
FAKE_SANDBOX = """
import json, pathlib, sys, time
words = sys.argv[1:]
argv = words[words.index("--") + 1 :]
bound = [words[n + 2] for n, word in enumerate(words) if word == "--bind"]
vm = next(pathlib.Path(path) for path in bound if "privml-td." in path)
seen = {"argv": argv, "dev": "/dev" in bound}
(pathlib.Path(__file__).parent / "seen.json").write_text(json.dumps(seen))
(vm / "qmp.sock").touch()
time.sleep(60)
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToolsTree]:
    with tools_with(FAKE_SANDBOX, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return launch_of(tmp_path / "image", sample(tmp_path / "image"), shipped())


def values(argv: list[str], option: str) -> list[str]:
    return [value for word, value in pairwise(argv) if word == option]


# What of an argument names the host's side, which no table holds.
def measured(argv: list[str]) -> dict[str, list[str]]:
    """The arguments that decide what is measured, with the host's card as its stand-in."""
    devices = [
        word.replace("vfio-pci,host=0000:18:00.0,iommufd=iommufd0", "pci-testdev,membar=137438953472")
        for word in values(argv, "-device")
    ]
    ours = ("confidential-guest-support=guest0", "kernel_irqchip=split", "memory-backend=ram")
    machine = [word for text in values(argv, "-machine") for word in text.split(",") if word not in ours]
    cpu = [value.partition(",")[2] for value in values(argv, "-cpu")]
    rest = {option: values(argv, option) for option in ("-smp", "-m", "-boot", "-global", "-uuid", "-smbios")}
    flags = [word for word in argv if word in ("-nodefaults", "-no-user-config")]
    return {"devices": devices, "machine": machine, "cpu": cpu, "flags": flags, **rest}


@pytest.mark.parametrize("name", [one.name for one in qemus_in(shipped()) if one.tee != NO_TEE])
def test_a_td_is_the_machine_whose_tables_are_read(name: str, launch: Launch, tmp_path: Path) -> None:
    chosen = platform(name, shipped())
    own = replace(launch, platform=chosen)
    host = TdHost((2, 4050), (CARD,) if chosen is H100 or "h100" in name else (), Qemu(ToolsTree(tmp_path, "")))
    started = td_arguments(own, host, tmp_path, 40000)
    predicted = asked(chosen, own.size, HostSide("/firmware.fd", kernel="/vm/kernel"))
    assert measured(started) == measured(predicted)
    assert measured(td_arguments(replace(own, platform=replace(chosen, devices=())), host, tmp_path, 1)) != measured(
        predicted
    )


def test_a_td_that_boots_from_its_disk_is_the_machine_whose_tables_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    own = launch_of(folder, replace(on_one_disk(folder), platforms=("qemu-11-q35-one-disk",)), shipped())
    started = td_arguments(own, TdHost((2, 4050), (), Qemu(ToolsTree(tmp_path, ""))), tmp_path, 40000)
    assert measured(started) == measured(asked(own.platform, own.size, HostSide("/firmware.fd")))
    assert "-kernel" not in started
    (disk,) = values(started, "-blockdev")
    assert disk.endswith(f"file.filename={folder.resolve()}/disk.raw") and "read-only=on" in disk


def test_what_is_started_is_what_is_shown(launch: Launch, tools: ToolsTree) -> None:
    own = replace(launch, platform=H100)
    host = TdHost("/run/tdx-qgs/qgs.socket", (CARD,), Qemu(tools))
    with started_td(own, host) as machine:
        found = json.loads((tools.mkosi_packages / "mkosi/seen.json").read_text())
        argv, directory, port = found["argv"], machine.directory, machine.port
    text = " ".join(argv).replace(str(directory), str(directory.parent / "privml-td")).replace(f":{port}-", ":8443-")
    assert text.removesuffix(" -run-with exit-with-parent=on") == " ".join(shlex.split(td.shown(own, host)))
    assert found["dev"], "a TD needs the host's devices"
    assert '"quote-generation-socket":{"path":"/run/tdx-qgs/qgs.socket","type":"unix"}' in text
    assert values(argv, "-object")[-1] == "iommufd,id=iommufd0"


def test_a_quote_service_is_a_vsock_or_a_path() -> None:
    assert quote_socket("vsock:2:4050") == (2, 4050)
    assert quote_socket("/run/qgs.socket") == "/run/qgs.socket"
    with pytest.raises(UsageError, match="expected vsock:CID:PORT or the path"):
        quote_socket("qgs")


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ((), "got 0 GPUs, but platform qemu-11-q35-h100 has 1"),
        (("18:00.0", "19:00.0"), "got 2 GPUs"),
        (("18:00.0", "0000:18:00.0"), "the same card is given twice"),
        (("card0",), "expected a PCI address such as 0000:18:00.0"),
    ],
)
def test_cards_are_those_of_the_platform(addresses: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        cards(addresses, H100)
    assert said in caught.value.message
    assert cards(("18:00.0",), H100) == (CARD,)
    assert cards((), PLAIN) == ()


def test_a_card_that_the_host_does_not_give_is_named(launch: Launch, tmp_path: Path) -> None:
    host = TdHost((2, 4050), (CARD,), Qemu(ToolsTree(tmp_path, "")))
    two = replace(H100, devices=(*H100.devices, replace(H100.devices[-1], slot=6)))
    with pytest.raises(RecipeError, match="device at slot 6: got no card for it"):
        td_arguments(replace(launch, platform=two), host, tmp_path, 1)


def test_the_qemu_is_the_one_that_was_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = ToolsTree(tmp_path, "")
    learnt = replace(PLAIN, name="mine", qemu="10.1.0", binary="ab" * 32, tables=Tables("cd" * 32, 9))
    assert qemu_for(tools, PLAIN, None) == Qemu(tools)
    with pytest.raises(UsageError, match=r"mine was learnt from a QEMU 10\.1\.0 of a host"):
        qemu_for(tools, learnt, None)

    def finds(version: str, binary: str) -> None:
        monkeypatch.setattr(foreign, "find", lambda *_: ForeignQemu(Qemu(tools, "/own"), version, None, binary))

    finds("10.1.0", "ab" * 32)
    assert qemu_for(tools, learnt, Path("qemu")).program == "/own"
    with pytest.raises(UsageError, match="is predicted with the QEMU of the tools"):
        qemu_for(tools, PLAIN, Path("qemu"))
    finds("10.1.1", "cd" * 32)
    with pytest.raises(HostError, match=r"is QEMU 10\.1\.1 with the SHA-256 cdcd.* but mine was learnt from"):
        qemu_for(tools, learnt, Path("qemu"))
    finds("10.0.13", "ab" * 32)
    with pytest.raises(HostError, match=r"is QEMU 10\.0\.13, expected 10\.1 or newer"):
        qemu_for(tools, learnt, Path("qemu"))


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The directory of an image, in a folder without recipes."""
    folder = tmp_path / "image"
    (folder / "manifest.json").write_bytes(sample(folder).encode())
    monkeypatch.setattr(Workplace, "tools_of", lambda self, target: ToolsTree(tmp_path, ""))
    monkeypatch.chdir(tmp_path)
    return str(folder)


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(verb.run, list(words))
    if isinstance(done.exception, PrivmlError):
        return done.exception.exit_code, done.exception.message
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_without_tdx_it_is_exit_5_and_the_command_is_shown_all_the_same(image: str, tmp_path: Path) -> None:
    code, message = invoke(image, "--tdx")
    assert (code, message.startswith("this machine cannot run a TD: ")) == (5, True)
    code, output = invoke(image, "--tdx", "--print-command")
    assert code == 0
    assert output.startswith("qemu-system-x86_64 -nodefaults")
    assert f"-bios {tmp_path / 'image/firmware.fd'}" in output
    code, output = invoke(image, "--tdx", "--print-command", "--platform", "qemu-11-q35-h100", "--gpu", "18:00.0")
    assert "vfio-pci,host=0000:18:00.0" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "18:00.0"), "need --tdx"),
        (("--print-command",), "need --tdx"),
        (("--tdx", "--gpu", "18:00.0"), "got 1 GPUs, but platform qemu-11-q35 has 0"),
        (("--tdx", "--platform", "qemu-11-q35-tpm"), "platform qemu-11-q35-tpm is not one of TDs"),
        (("--tdx", "--platform", "qemu-11-q35-one-disk"), "has 1 disks, but the image has 2 volumes"),
        (("--tdx", "--quote-socket", "what"), "expected vsock:CID:PORT"),
    ],
)
def test_options_that_do_not_fit_are_refused(image: str, words: tuple[str, ...], said: str) -> None:
    code, message = invoke(image, *words)
    assert (code, said in message) == (2, True), message


def test_a_platform_without_a_predicted_boot_from_a_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = on_one_disk(tmp_path / "image")
    shutil.copytree(shipped() / "platforms", tmp_path / "platforms")
    path = tmp_path / "platforms/qemu-11-q35-one-disk.yaml"
    text = path.read_text()
    assert platform_named("qemu-11-q35-one-disk", tmp_path, made).name == "qemu-11-q35-one-disk"
    path.write_text(text + "\nboot: {strict: on}\n")
    assert platform_named("qemu-11-q35-one-disk", tmp_path, made).boot == (("strict", "on"),)
    tables = f"\ntables: {{sha256: {'0' * 64}, size: 1}}\n"
    for changed, said in (
        (text.replace('slot: "02.0"', 'slot: "02.0", bootindex: 1'), "gives QEMU a boot order"),
        (text + "\nboot: {menu: on}\n", "gives QEMU a boot order"),
        (text + tables, "were learnt for a direct boot"),
        (text.replace("tee: tdx", "tee: none").replace("tpm: false", "tpm: true"), "runs its guests in none"),
        (text.replace('  - {kind: virtio-blk, slot: "02.0"} # root.raw\n', ""), "has 0 disks"),
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(UsageError, match=said):
            platform_named("qemu-11-q35-one-disk", tmp_path, made)


def test_a_kvm_without_tdx_is_no_host(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"kvm_intel\.tdx is `not there`"):
        ladder.require_tdx(tmp_path)
    parameter = tmp_path / ladder.PARAMETER
    parameter.parent.mkdir(parents=True)
    parameter.write_text("N\n")
    with pytest.raises(HostError, match=r"kvm_intel\.tdx is `N`"):
        ladder.require_tdx(tmp_path)
    parameter.write_text("Y\n")
    with pytest.raises(HostError, match="it may not use /dev/kvm"):
        ladder.require_tdx(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kvm").touch()
    ladder.require_tdx(tmp_path)
