"""Each change that a host can make before the kernel of an honest image runs changes the expected register."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.real import disks
from tests.real.conftest import only_full, privml, succeeded
from tests.real.levers import append, fw_cfg, oem_strings, pulled, writable

from privml.base.sizes import PLAIN_VCPUS
from privml.image.disk import LOADER
from privml.image.target import resolve
from privml.image.tools import Bind
from privml.image.workplace import Workplace
from privml.machine.platform import Size
from privml.vm import bootdisk
from privml.vm.bench import Bench
from privml.vm.machine import Change, Launch
from privml.vm.predicted import LARGEST_BOOTED

pytestmark = pytest.mark.real

SMALL = Size(2, 2 << 30)

# QEMU refuses -initrd beside a UKI (no bzImage), but not the fw_cfg file that firmware would read it from.
ATTEMPTS: dict[str, tuple[Change, set[tuple[str, str]]]] = {
    "a command line": (
        append("console=ttyS0 evil=1"),
        {("RTMR2", "host-load-options"), ("RTMR2", "other-command-line")},
    ),
    "a credential": (
        oem_strings("io.systemd.credential:evil=1"),
        {("RTMR0", "smbios-table"), ("RTMR0", "stub-smbios")},
    ),
    "an initrd": (
        fw_cfg("etc/boot/initrd", "initrd"),
        {("RTMR2", "host-initrd")},
    ),
}


def moved(bench: Bench, launch: Launch) -> set[tuple[str, str]]:
    """The registers that differ in a boot, each with the name of the difference."""
    booted = bench.boot(launch)
    assert booted.disagreeing == ()
    assert booted.explanation.unexplained and not booted.equal
    return {(one.register.upper(), one.known.id if one.known else "") for one in booted.comparison.differences}


@only_full
@pytest.mark.parametrize("name", ATTEMPTS)
def test_everything_a_host_adds_is_measured(bench: Bench, tmp_path: Path, name: str) -> None:
    change, expected = ATTEMPTS[name]
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"host initrd" * 100)
    assert moved(bench, pulled(bench.launch(SMALL), change, attached={"initrd": initrd})) == expected


@only_full
def test_an_addon_next_to_the_uki_is_measured(bench: Bench, demo_cpu: Path, tmp_path: Path) -> None:
    target, place = resolve("demo-cpu"), Workplace()
    tools = place.tools(target.recipe)
    tools.run(
        [
            "ukify", "build", "--cmdline=evil=1", "--stub=/usr/lib/systemd/boot/efi/addonx64.efi.stub",
            "--output=/work/evil.addon.efi",
        ],
        binds=[Bind(tmp_path, "/work", writable=True)],
    )  # fmt: skip
    disk = bootdisk.make(tools, demo_cpu / "uki.efi", tmp_path / "boot.raw")
    disks.add_file(tools, disk, tmp_path / "evil.addon.efi", f"{LOADER}.extra.d")
    assert moved(bench, bench.launch(SMALL, boot_disk=disk)) == {
        ("RTMR1", "further-image"),
        ("RTMR2", "host-load-options"),
        ("RTMR2", "other-command-line"),
    }


@only_full
def test_a_writable_disk_changes_the_registers(bench: Bench, demo_cpu: Path, tmp_path: Path) -> None:
    """Firmware stores its variables on it, and the stub a random seed that it adds to the initrd."""
    target, place = resolve("demo-cpu"), Workplace()
    disk = bootdisk.make(place.tools(target.recipe), demo_cpu / "uki.efi", tmp_path / "boot.raw")
    launch = bench.launch(SMALL, boot_disk=disk)
    copies = {name: disks.copy(demo_cpu / name, tmp_path / name) for name in launch.disks}
    copies["boot.raw"] = disk
    found = moved(bench, pulled(launch, writable(*copies), attached=copies))
    assert found == {("RTMR1", "exit-boot-services-retried"), ("RTMR2", "host-initrd")}


def test_predictions_hold_over_a_matrix_of_shapes(demo_cpu: Path, full: bool) -> None:
    vcpus, memory = ("1..64", "2GiB..512GiB") if full else ("1..4", "2GiB,2815MiB,4GiB")
    count = 64 * 9 if full else 12
    size = ("--vcpus", vcpus, "--memory", memory)
    done = succeeded(privml("measure", "demo-cpu", "--tee", "tdx", *size, "--json", "--events"))
    rows = json.loads(done.stdout)
    assert len(rows) == count and len({row["rtmr0"] for row in rows}) == count
    assert len({row["rtmr1"] for row in rows}) == len({row["rtmr2"] for row in rows}) == 1
    assert set(rows[0]["mrtd"]) == {"single_pass", "two_pass"}
    assert {row["evidence"]["rtmr0"] for row in rows} == {"source"}
    for row in rows:
        (tables,) = [event for event in row["events"] if event["origin"] == "etc/acpi/tables"]
        shown = row["vcpus"] <= PLAIN_VCPUS and row["memory"] <= LARGEST_BOOTED.memory
        assert tables["evidence"] == ("hardware" if shown else "source")
