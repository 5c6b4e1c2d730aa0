"""A host that gives a guest another size and other firmware than were predicted: both are in the verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, only_full, privml
from tests.real.demo import READY
from tests.real.levers import pulled, swapped

from privml.image.target import recipes_directory, resolve
from privml.image.tools import ToolsTree
from privml.machine.platform import Size
from privml.measure.mrtd import mrtd
from privml.vm.ask import await_ready
from privml.vm.launch import launch_of
from privml.vm.machine import started

pytestmark = [pytest.mark.real, only_full]

FREE = b"\xff" * 4096


def changed(firmware: bytes) -> bytes:
    """Firmware with one bit flipped in the free space of its last volume, where it runs nothing."""
    end = firmware.rindex(FREE)
    start = end
    while firmware[start - 1] == 0xFF:
        start -= 1
    at = (start + end) // 2
    return firmware[:at] + b"\xfe" + firmware[at + 1 :]


def test_another_size_and_other_firmware_are_refused_by_name(
    demo_cpu_dev: Path, tools: ToolsTree, tmp_path: Path
) -> None:
    target = resolve("demo-cpu-dev", demo_cpu_dev)
    honest = launch_of(demo_cpu_dev, target.manifest(), recipes_directory(target), size=Size(1, 2 << 30))
    firmware = tmp_path / honest.firmware
    firmware.write_bytes(changed((demo_cpu_dev / honest.firmware).read_bytes()))
    launch = pulled(honest, swapped(firmware.name), attached={firmware.name: firmware})
    # The launcher tells the simulation what hardware would measure of the firmware that is started.
    measured = {name: mrtd(firmware.read_bytes()).hex().encode() for name in honest.fw_cfg}
    with started(tools, replace(launch, fw_cfg=measured)) as machine:
        await_ready(machine, READY)
        trust = ("--expect", str(demo_cpu_dev), "--allow-simulated", str(ROOT / "builder/privml/sim/pki/root.pem"))
        done = privml("verify", f"https://127.0.0.1:{machine.port}", *trust, "--json")
    assert done.returncode == 8, done.stderr
    assert [refusal["code"] for refusal in json.loads(done.stdout)["refusals"]] == ["mrtd", "rtmr0"]
