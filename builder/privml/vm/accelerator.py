"""Which accelerator a boot can use. KVM may be there and unable to run firmware, so it is tried, not assumed."""

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
    """``kvm`` when a trial start of the firmware survives it, else ``tcg``, with the reason said."""
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
    say("KVM is there but cannot run the firmware: using TCG (emulation)")
    return "tcg"
