"""What a host may do to an honest image before its kernel runs: each moves the register that is named for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.conftest import privml, succeeded

from privml.cli.context import Workplace, recipes_directory, resolve
from privml.vm.compared import boot
from privml.vm.launch import launch_of
from privml.vm.machine import GENERIC_FIRMWARE
from privml.vm.platforms import platform
from privml.vm.predicted import Predictor

pytestmark = pytest.mark.real


def test_command_line_credential_and_initrd_are_measured(demo_cpu: Path, full: bool) -> None:
    if not full:
        pytest.skip("`make check` has the log of this boot as a golden test; booted anew by `make check-full`")
    target, place = resolve("demo-cpu"), Workplace()
    manifest, recipes, tools = target.manifest(), recipes_directory(target), place.tools(target.recipe)
    machine = replace(platform(manifest.platforms[0], recipes), tpm=True)
    shape = manifest.shapes[0]
    predictor = Predictor(tools, place.store.root, target.directory, manifest)
    predictor.use_firmware((tools.root / GENERIC_FIRMWARE.lstrip("/")).read_bytes())
    launch = launch_of(target.directory, manifest, recipes, platform=machine, shape=shape)
    # QEMU refuses -initrd beside a UKI (no bzImage), but not the fw_cfg file that firmware would read it from.
    hostile = replace(
        launch,
        append="console=ttyS0 evil=1",
        oem_strings=("io.systemd.credential:evil=1",),
        fw_cfg={**launch.fw_cfg, "etc/boot/initrd": b"host initrd" * 100},
    )
    booted = boot(tools, hostile, predictor.predict(machine, shape).events)
    assert booted.disagreeing == ()
    moved = {(one.register.name, one.known.id) for one in booted.comparison.differences if one.known is not None}
    assert moved == {
        ("RTMR0", "smbios-table"),
        ("RTMR0", "stub-smbios"),
        ("RTMR2", "host-load-options"),
        ("RTMR2", "other-command-line"),
        ("RTMR2", "host-initrd"),
    }


def test_a_matrix_of_shapes(demo_cpu: Path) -> None:
    done = succeeded(privml("measure", "demo-cpu", "--vcpus", "1..4", "--memory", "2GiB,2815MiB,4GiB", "--json"))
    rows = json.loads(done.stdout)
    assert len(rows) == 12 and len({row["rtmr0"] for row in rows}) == 12
    assert len({row["rtmr1"] for row in rows}) == len({row["rtmr2"] for row in rows}) == 1
    assert set(rows[0]["mrtd"]) == {"single_pass", "two_pass"}
