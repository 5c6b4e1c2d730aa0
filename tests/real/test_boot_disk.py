"""An image that boots from its own disk: equal bytes, the predicted events, and what a host adds to its ESP."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.real import disks
from tests.real.conftest import only_full, privml, succeeded
from tests.real.levers import pulled, writable

from privml.image.disk import LOADER
from privml.image.tools import Bind, ToolsTree
from privml.image.workplace import Workplace
from privml.machine.platform import Size
from privml.measure import gpt
from privml.output.artefacts import DISK, UKI
from privml.output.manifest import Manifest, read
from privml.recipe.loader import shipped
from privml.vm.bench import Bench
from privml.vm.compared import ComparedBoot
from privml.vm.launch import launch_of
from privml.vm.machine import started

pytestmark = pytest.mark.real

RECIPE = """extends: ./demo-cpu.yaml
description: demo-cpu on one disk.
boot: disk
firmware: {snp: null}
platforms: [qemu-11-q35-one-disk]
"""
SMALL = Size(2, 2 << 30)
PARTS = ["privml-esp", "privml-root", "privml-root-verity", "privml-model", "privml-model-verity"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """demo-cpu with `boot: disk`, locked again, and built."""
    folder = tmp_path_factory.mktemp("boot-disk")
    shutil.copytree(shipped(), folder / "recipes")
    (folder / "recipes/disk.yaml").write_text(RECIPE)
    # The same packages: no archive is asked.
    shutil.copy(shipped() / "demo-cpu.lock.json", folder / "recipes/disk.lock.json")
    recipe = str(folder / "recipes/disk.yaml")
    succeeded(privml("lock", recipe))
    succeeded(privml("image", recipe, "--output", str(folder / "first")))
    return folder / "first"


@pytest.fixture(scope="module")
def manifest(image: Path) -> Manifest:
    return read(image)


@pytest.fixture(scope="module")
def own_bench(image: Path, manifest: Manifest, tools: ToolsTree) -> Bench:
    return Bench(tools, Workplace().store.root, image, manifest, shipped())


def test_a_second_build_has_the_same_disk(image: Path, manifest: Manifest) -> None:
    recipe = str(image.parent / "recipes/disk.yaml")
    succeeded(privml("image", recipe, "--force", "--output", str(image.parent / "second")))
    again = read(image.parent / "second")
    assert again == manifest and manifest.boot == "disk" and DISK in manifest.artefacts
    assert (image.parent / "second/prediction.json").read_bytes() == (image / "prediction.json").read_bytes()


def test_the_disk_has_the_loader_and_every_volume(image: Path, manifest: Manifest) -> None:
    parts = gpt.read(image / DISK).partitions
    assert [part.name for part in parts] == PARTS
    with (image / DISK).open("rb") as disk:
        for volume in manifest.volumes:
            for inner in gpt.read(image / volume).partitions:
                (part,) = [part for part in parts if part.guid == inner.guid]
                disk.seek(part.start)
                with (image / volume).open("rb") as file:
                    file.seek(inner.start)
                    assert disk.read(part.size) == file.read(inner.size)


def test_a_boot_has_the_predicted_events(image: Path) -> None:
    row = json.loads(succeeded(privml("measure", str(image), "--boot", "--json")).stdout)
    assert row["equal"] and row["differences"] == [] and row["td_unexplained"] == []
    launch = json.loads((image / "prediction.json").read_bytes())["predicate"]["launches"][0]
    origins = [event["origin"] for event in launch["events"] if event["register"] == "rtmr1"]
    assert "disk's partition table (GPT) (recipes/disk.yaml:3 boot)" in origins
    refused = succeeded(privml("measure", str(image), "--boot", "--disk"), 2)
    assert "boots from its own disk" in refused.stderr


def test_its_model_answers(image: Path) -> None:
    done = succeeded(privml("run", str(image), "--prompt", "The capital of France is", "--timeout", "400"))
    assert done.stdout.strip()


@dataclass(frozen=True)
class Trial:
    """Files that a host adds to the ESP, by their paths there, and what then differs from the prediction."""

    files: dict[str, str]
    moves: frozenset[tuple[str, str]] = frozenset()


def moving(*pairs: tuple[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(pairs)


EXTRA = f"{LOADER}.extra.d"
COMPANION = moving(("RTMR2", "stub-companions"), ("RTMR2", "host-initrd"))
ADDON = moving(("RTMR1", "further-image"), ("RTMR2", "host-load-options"), ("RTMR2", "other-command-line"))
MENU = moving(("RTMR1", "further-image"))
# What is there under the names on the right is made by `inputs`.
TRIALS = {
    "an addon of the UKI": Trial({f"{EXTRA}/evil.addon.efi": "addon"}, ADDON),
    "a credential of the UKI": Trial({f"{EXTRA}/evil.cred": "credential"}, COMPANION),
    "a system extension of the UKI": Trial({f"{EXTRA}/evil.sysext.raw": "credential"}, COMPANION),
    "a configuration extension of the UKI": Trial({f"{EXTRA}/evil.confext.raw": "credential"}, COMPANION),
    "a global addon": Trial({"loader/addons/evil.addon.efi": "addon"}, ADDON),
    "a global credential": Trial({"loader/credentials/evil.cred": "credential"}, COMPANION),
    "a global system extension": Trial({"loader/extensions/evil.sysext.raw": "credential"}, COMPANION),
    "a global configuration extension": Trial({"loader/extensions/evil.confext.raw": "credential"}, COMPANION),
    "a second boot entry": Trial(
        {
            "loader/loader.conf": "loader.conf",
            "loader/entries/evil.conf": "entry",
            "EFI/Linux/evil.efi": "addon",
            "EFI/Microsoft/Boot/bootmgfw.efi": "addon",
            "startup.nsh": "entry",
        }
    ),
    "seeds": Trial({"loader/random-seed": "credential", "loader/boot-secret-mixin": "credential"}),
    "another loader in front of it": Trial({LOADER: "boot menu", "EFI/Linux/uki.efi": "uki.efi"}, MENU),
}


@pytest.fixture(scope="module")
def inputs(image: Path, tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a host would add: an addon with words, bytes for a credential, an entry of a boot menu."""
    folder = tmp_path_factory.mktemp("host")
    tools.run(
        [
            "ukify", "build", "--cmdline=evil=1", "--stub=/usr/lib/systemd/boot/efi/addonx64.efi.stub",
            "--output=/work/addon",
        ],
        binds=[Bind(folder, "/work", writable=True)],
    )  # fmt: skip
    shutil.copy(tools.root / "usr/lib/systemd/boot/efi/systemd-bootx64.efi", folder / "boot menu")
    shutil.copy(image / UKI, folder / UKI)
    (folder / "credential").write_bytes(b"from the host" * 100)
    (folder / "loader.conf").write_text("default evil.conf\ntimeout 0\n")
    (folder / "entry").write_text("title evil\nefi /EFI/Linux/evil.efi\n")
    return folder


def boot(bench: Bench, disk: Path) -> ComparedBoot:
    booted = bench.boot(bench.launch(SMALL, boot_disk=disk))
    assert booted.disagreeing == ()
    return booted


def differing(booted: ComparedBoot) -> frozenset[tuple[str, str]]:
    """The registers that differ, each with the name of the difference."""
    return frozenset(
        (one.register.upper(), one.known.id if one.known else "") for one in booted.comparison.differences
    )


@only_full
@pytest.mark.parametrize("name", TRIALS)
def test_what_a_host_adds_to_the_esp_moves_a_register_or_is_not_read(
    own_bench: Bench, image: Path, inputs: Path, tools: ToolsTree, tmp_path: Path, name: str
) -> None:
    disk = disks.copy(image / DISK, tmp_path / "boot.raw")
    for path, source in TRIALS[name].files.items():
        disks.put_file(tools, disk, inputs / source, path)
    assert gpt.read(disk).event == gpt.read(image / DISK).event
    booted = boot(own_bench, disk)
    assert differing(booted) == TRIALS[name].moves
    assert booted.equal == (not TRIALS[name].moves)


GUID = uuid.UUID("8108ac4e-9f11-4d59-850e-e21a522c59b2").bytes_le
HONEST, EVIL = (f"UEFI {word} Device".encode("utf-16-le") for word in ("Misc", "Evil"))


@pytest.fixture(scope="module")
def with_variables(own_bench: Bench, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk with the file in which generic OVMF keeps its variables, its boot options now a host's."""
    disk = disks.copy(image / DISK, tmp_path_factory.mktemp("variables") / "boot.raw")
    launch = own_bench.launch(SMALL, boot_disk=disk)
    own_bench.boot(pulled(launch, writable("boot.raw"), attached={"boot.raw": disk}))
    data = disk.read_bytes()
    assert GUID in data and HONEST in data
    # Without the bytes by which firmware knows the options that it made, it keeps them beside new ones.
    disk.write_bytes(data.replace(GUID, b"\1" * 16).replace(HONEST, EVIL))
    return disk


@only_full
def test_generic_firmware_reads_its_variables_from_the_disk_and_rtmr0_shows_them(
    own_bench: Bench, with_variables: Path
) -> None:
    found = differing(boot(own_bench, with_variables))
    assert ("RTMR0", "boot-options") in found
    assert found <= {("RTMR0", "boot-options"), ("RTMR2", "host-load-options"), ("RTMR2", "other-command-line")}


@only_full
@pytest.mark.parametrize("generic", [True, False], ids=["generic", "the image's"])
def test_the_image_s_firmware_does_not_read_variables_from_the_disk(
    image: Path, manifest: Manifest, tools: ToolsTree, with_variables: Path, *, generic: bool
) -> None:
    launch = launch_of(image, manifest, shipped(), size=SMALL)
    launch = replace(launch, boot_disk=with_variables, share_memory=True, generic_firmware=generic)
    with started(tools, launch) as machine:
        end = time.monotonic() + 200
        while not (machine.memory.exists() and disks.holds(machine.memory, b"Linux version")):
            assert time.monotonic() < end, machine.console_tail()
            machine.check_running()
            time.sleep(2)
        assert disks.holds(machine.memory, HONEST)
        assert disks.holds(machine.memory, EVIL) == generic
