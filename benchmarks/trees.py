"""Comparing two trees of 1 GB, over `sha256sum` of the same files on both cores; and the memory that takes.

``compare-trees-KIND-over-sha256sum`` is a ratio, taken in pairs that alternate; ``compare-trees-memory`` is the peak
of a process that does nothing else. The kinds: ``same``, equal trees, and ``other``, trees in which each hundredth
file differs. ``python -m benchmarks.trees compare A B`` is one comparison.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from privml.repro.findings import Findings
from privml.repro.tree import read_trees
from privml.repro.treecomparison import TreeComparer

SIZE = 1_000_000_000
_BIGGEST = 40_000_000
_EACH = 100
Figure = Callable[[str, list[float], float, str], None]


def make(root: Path, *, differ: bool) -> None:
    """A tree of some 4,000 files whose sizes are spread as in a root file system; equal for equal arguments."""
    draw = random.Random(1)
    total = number = 0
    while total < SIZE:
        size = min(int(draw.lognormvariate(10.5, 2)), _BIGGEST)
        data = draw.randbytes(size)
        if differ and number % _EACH == 0:
            data += b"built on 2026-11-22 01:02:03\n"
        place = root / f"d{number % 97}" / f"f{number}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        total += size
        number += 1
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1, 1))


def compared(a: Path, b: Path) -> dict[str, float]:
    """Compare in this process: seconds, differences found, and the peak of its memory in MB."""
    start = time.perf_counter()
    findings = Findings()
    TreeComparer(findings, {}).compare("root.raw", *read_trees(a, b))
    return {
        "seconds": time.perf_counter() - start,
        "differences": len(findings.mismatches),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _child(a: Path, b: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.trees", "compare", str(a), str(b)]
    done = subprocess.run(words, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _sums(a: Path, b: Path) -> float:
    start = time.perf_counter()
    words = f"find {a} {b} -type f -print0 | xargs -0 -P{os.cpu_count()} -n64 sha256sum >/dev/null"
    subprocess.run(["sh", "-c", words], check=True)
    return time.perf_counter() - start


def run(figure: Figure, pairs: int = 3) -> None:
    """Print the lines."""
    with tempfile.TemporaryDirectory(prefix="privml-bench.") as name:
        base = Path(name)
        for side, differ in (("a", False), ("same", False), ("other", True)):
            make(base / side, differ=differ)
        peaks = []
        for kind in ("same", "other"):
            _sums(base / "a", base / kind)  # what is read first is read from disk
            ratios = []
            for number in range(pairs):
                before = _sums(base / "a", base / kind) if number % 2 else 0.0
                found = _child(base / "a", base / kind)
                if (found["differences"] == 0) is not (kind == "same"):
                    raise SystemExit(f"trees that are {kind} have {found['differences']} differences")
                ratios.append(found["seconds"] / (before or _sums(base / "a", base / kind)))
                peaks.append(found["peak"])
            figure(f"compare-trees-{kind}-over-sha256sum", ratios, 1.5, "ratio")
        figure("compare-trees-memory", [max(peaks)], 300, "MB")


if __name__ == "__main__":
    print(json.dumps(compared(Path(sys.argv[2]), Path(sys.argv[3]))))
