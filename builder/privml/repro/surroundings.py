"""The environment of one leg: the requested settings, and what the leg observes."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.image.render import File
from privml.image.tools import ToolsTree
from privml.repro.namespaces import id_map

# In the leg's own copy of the tools tree, and in its mkosi tree until the packages are installed.
CLOCK_FOLDER = "usr/lib/privml-clock"
CLOCK_LIBRARY = "libfaketime.so.1"
_SOURCE = "usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
TOOL_CLOCK, SCRIPT_CLOCK = "clock.tool", "clock.script"

# mkosi's postinst runs after the packages' scripts. They call update-alternatives, which logs its time.
_POSTINST = rb"""#!/bin/sh
date -u +%Y-%m-%dT%H:%M:%SZ > "$OUTPUTDIR/clock.tool"
sed -n 's/^update-alternatives \([0-9-]*\) \([0-9:]*\):.*/\1T\2Z/p' "$BUILDROOT/var/log/alternatives.log" |
    tail -n 1 > "$OUTPUTDIR/clock.script"
"""


@dataclass(frozen=True)
class Leg:
    """The requested settings of one leg.

    ``volumes`` is the directory that encrypted volumes without a key come from; the keys themselves come through a
    pipe. ``import_from`` fills an empty store; ``clock`` is an offset such as ``+400d``; ``user`` as in
    ``namespaces.enter``.
    """

    name: str
    recipe: str
    lock: str
    tools_lock: str
    refreshed: bool
    volumes: str
    workspace: str
    output: str
    store: str
    import_from: str
    umask: int
    processors: int
    host_name: str
    user: str
    clock: str

    def encode(self) -> bytes:
        """Encode the file that the child reads."""
        return strictjson.pretty(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Leg:
        """Read the child's file."""
        top = strictjson.Fields(strictjson.loads(data, what="leg"), "leg")
        readers: dict[str, Any] = {"str": top.text, "int": top.integer, "bool": top.boolean}
        leg = cls(**{item.name: readers[str(item.type)](item.name) for item in fields(cls)})
        top.end()
        return leg


def with_clock(tools: ToolsTree, offset: str) -> ToolsTree:
    """Copy of the tools tree in which every program sees a shifted wall clock, if an offset is given.

    File times and timers are not changed; only queries of the current time are.
    """
    if not offset:
        return tools
    folder = tools.root / CLOCK_FOLDER
    folder.mkdir(exist_ok=True, mode=0o755)
    library = folder / CLOCK_LIBRARY
    library.write_bytes((tools.root / _SOURCE).read_bytes())
    library.chmod(0o644)
    environment = {
        "LD_PRELOAD": f"/{CLOCK_FOLDER}/{CLOCK_LIBRARY}",
        "FAKETIME": offset,
        "NO_FAKE_STAT": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }
    return ToolsTree(tools.root, tools.digest, environment)


def probe_files(tools: ToolsTree) -> dict[str, File]:
    """Files added to mkosi's input: a script that records the clock, and the shifted clock of maintainer scripts."""
    files = {"mkosi.postinst": File(_POSTINST, executable=True)}
    if tools.environment:
        library = (tools.root / CLOCK_FOLDER / CLOCK_LIBRARY).read_bytes()
        files[f"mkosi.skeleton/{CLOCK_FOLDER}/{CLOCK_LIBRARY}"] = File(library)
        files["mkosi.conf.d/90-clock.conf"] = File(f"[Content]\nRemoveFiles=/{CLOCK_FOLDER}\n".encode())
    return files


def look_around(leg: Leg, tools: ToolsTree) -> dict[str, str]:
    """What this process observes of its environment; keys are those of ``variations.NAMES``."""
    mask = os.umask(0)
    os.umask(mask)
    workspace = Path(leg.workspace)
    return {
        "workspace": f"{workspace} -> {leg.output}",
        "file_system": file_system(workspace),
        "directory_order": directory_order(workspace),
        "time_zone": f"{os.environ.get('TZ', '')} {time.strftime('%z')}",
        "locale": os.environ.get("LC_ALL", ""),
        "umask": f"{mask:04o}",
        "home": os.environ.get("HOME", ""),
        "host_name": os.uname().nodename,
        "user": f"{os.geteuid()}, map {id_map()}",
        "processors": str(len(os.sched_getaffinity(0))),
        "hash_seed": f"{hash('privml') & 0xFFFFFFFF:08x}",
        "store": leg.store,
        "tools": str(tools.root),
        "builder_clock": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "kernel": f"{os.uname().release} {os.uname().version}",
        "processor_model": _processor(),
        "python": f"{platform.python_version()} {Path(sys.executable).resolve()}",
    }


def file_system(path: Path) -> str:
    """The type of the file system of ``path``."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        place = words[4].encode().decode("unicode_escape")
        if path.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, words[words.index("-") + 1]
    return kind


def directory_order(folder: Path) -> str:
    """A digest of the order in which the file system lists 64 names."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for number in range(64):
            (Path(name) / f"entry-{number * 7919 % 64:02}").touch()
        return hashlib.sha256("\n".join(os.listdir(name)).encode()).hexdigest()[:12]  # noqa: PTH208 - order matters


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
