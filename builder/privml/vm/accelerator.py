"""Choose the accelerator of a boot. KVM may be present but unable to run the firmware, so it is tried first."""

from __future__ import annotations

import os
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Literal

from privml.base.steps import say
from privml.image.tools import GENERIC_FIRMWARE, Bind, ToolsTree
from privml.vm.process import Child
from privml.vm.qmp import Qmp

_START = 5.0
_TRIAL = 2.0
_PAUSE = 0.05


@cache
def choose(tools: ToolsTree) -> Literal["kvm", "tcg"]:
    """``kvm`` if a trial start of the firmware succeeds, else ``tcg`` with a message."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with tempfile.TemporaryDirectory(prefix="privml-kvm.") as name:
        directory = Path(name)
        child = Child(
            tools,
            [
                "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,smm=off",
                "-accel", "kvm", "-cpu", "host", "-m", "256M", "-bios", GENERIC_FIRMWARE,
                "-qmp", "unix:/vm/qmp.sock,server=on,wait=off", "-run-with", "exit-with-parent=on",
            ],
            directory / "qemu.log",
            binds=[Bind(directory, "/vm", writable=True)],
            devices=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + _START
            while child.running() and not (directory / "qmp.sock").exists() and time.monotonic() < end:
                time.sleep(_PAUSE)
            if child.running() and _keeps_running(directory / "qmp.sock"):
                return "kvm"
        except (OSError, ValueError):
            pass
        finally:
            child.stop()
    say("KVM is present but cannot run the firmware: using TCG (emulation)")
    return "tcg"


def _keeps_running(socket: Path) -> bool:
    """Whether the machine runs for the whole trial; a KVM that cannot run it stops it in its first instructions."""
    with Qmp(socket) as qmp:
        end = time.monotonic() + _TRIAL
        while qmp.command("query-status")["status"] == "running":
            if time.monotonic() >= end:
                return True
            time.sleep(_PAUSE)
    return False
