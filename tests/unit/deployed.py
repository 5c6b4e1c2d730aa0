"""An image, and `deploy` of it, for the tests of each kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from privml.base.errors import PrivmlError
from privml.cli.deploy import deploy
from privml.deploy.deployment import Deployment
from privml.machine.platform import Platform, Size
from privml.recipe.loader import shipped
from privml.vm.machine import Launch
from privml.vm.platforms import platform
from privml.vm.td import HostParts

CARD = "0000:18:00.0"
SIZE = Size(2, 2 << 30)
QUOTES = "/run/tdx-qgs/qgs.socket"
ODD = '/srv/a b\'s "x", $HOME `id` 100% \\n;&<>é'
"""A folder whose name has a character that means something in each format."""


def of(chosen: Platform, folder: str = "/srv/demo-cpu", size: Size = SIZE, **more: Any) -> Deployment:
    disks = sum(device.kind == "virtio-blk" for device in chosen.devices)
    cards = sum(device.kind == "memory" for device in chosen.devices)
    names = ("root.raw", "model.raw", "model-2.raw", "model-3.raw")[:disks]
    launch = Launch(Path(folder), chosen, size, names, firmware="firmware.fd", forward=8443)
    values = {
        "name": "demo-cpu",
        "launch": launch,
        "parts": HostParts(QUOTES, (CARD,) * cards),
        "qemu": "/usr/bin/qemu-system-x86_64",
        "port": 8443,
        "state": Path("/run/privml-demo-cpu"),
        **more,
    }
    return Deployment(**values)


def from_disk(chosen: Platform, folder: str = "/srv/demo-cpu", **more: Any) -> Deployment:
    """The deployment of an image that boots from its disk."""
    found = of(chosen, folder, **more)
    return replace(found, launch=replace(found.launch, disks=(), boot_disk=Path(f"{folder}/disk.raw")))


def shipped_platform(name: str) -> Platform:
    return platform(name, shipped())


def invoke(*words: str) -> tuple[int, str]:
    """Exit status, and all output or the error's message."""
    done = CliRunner().invoke(deploy, list(words))
    if isinstance(done.exception, PrivmlError):
        return done.exception.exit_code, f"{done.exception.message}\n{done.exception.hint or ''}"
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def document(*words: str) -> dict[str, Any]:
    code, output = invoke(*words, "--json")
    assert code == 0, output
    found: dict[str, Any] = json.loads(output)
    return found
