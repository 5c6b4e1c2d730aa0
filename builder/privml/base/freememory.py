"""How much memory this process may still use: what the kernel has free, and what its control groups leave."""

from __future__ import annotations

from pathlib import Path


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that can be used without swapping; 0 where ``/proc`` does not say."""
    found = [_available(root / "proc/meminfo")]
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        groups = []
    # Control groups of version 2 have one line, `0::/PATH`; a limit above binds as well.
    for line in groups:
        number, _, path = line.partition("::")
        if number == "0":
            top = root / "sys/fs/cgroup"
            place = top / path.strip("/")
            found += [
                left for each in (place, *place.parents) if each.is_relative_to(top) if (left := _left(each)) >= 0
            ]
    return min(found)


def _available(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    for line in lines:
        words = line.split()
        if len(words) == 3 and words[0] == "MemAvailable:" and words[1].isdecimal():
            return int(words[1]) << 10
    return 0


def _left(group: Path) -> int:
    """What one control group leaves; -1 if it has no limit."""
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return -1
    return max(0, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else -1
