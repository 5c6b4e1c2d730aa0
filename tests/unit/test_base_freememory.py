"""Free memory is the least of what the kernel has and what each control group above this process leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from privml.base.freememory import free_memory

MEMINFO = "MemTotal:       8000000 kB\nMemFree:         100 kB\nMemAvailable:    4096 kB\n"


def machine(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0),
        ({"proc/meminfo": "MemFree: 1 kB\n"}, 0),
        ({"proc/meminfo": "MemAvailable: many kB\n"}, 0),
        ({"proc/meminfo": MEMINFO}, 4 << 20),
        ({"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a/b\n"}, 4 << 20),
        (
            {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "7\n"},
            4 << 20,
        ),
        ({"sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.current": "300\n"}, 700),
        ({"sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/memory.current": "400\n"}, 600),
        ({"sys/fs/cgroup/memory.max": "1000\n", "sys/fs/cgroup/memory.current": "1400\n"}, 0),
        ({"sys/fs/cgroup/c/memory.max": "1000\n", "sys/fs/cgroup/c/memory.current": "400\n"}, 4 << 20),
    ],
)
def test_the_least_of_all_limits(files: Mapping[str, str], expected: int, tmp_path: Path) -> None:
    if any(name.startswith("sys/") for name in files):
        files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "1:cpu:/x\n0::/a/b\n", **files}
    assert free_memory(machine(tmp_path, files)) == expected


def test_this_machine_has_some() -> None:
    assert free_memory() > 0
