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

_TRIAL = 2.0


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
            end = time.monotonic() + 5
            while child.running() and not (directory / "qmp.sock").exists() and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(_TRIAL)
            if child.running():
                with Qmp(directory / "qmp.sock") as qmp:
                    if qmp.command("query-status")["status"] == "running":
                        return "kvm"
        except (OSError, ValueError):
            pass
        finally:
            child.stop()
    say("KVM is present but cannot run the firmware: using TCG (emulation)")
    return "tcg"
