"""Measure and print one figure."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_here(work: Callable[[], object]) -> float:
    """Seconds of processor time that ``work`` takes in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def cpu(*words: str, status: int = 0) -> float:
    """Seconds of processor time, user and system, of one program; pages it reads are in the cache."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, check=False, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != status:
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def figure(name: str, values: list[float], bound: float, unit: str) -> None:
    """Print the median of ``values`` as a JSON line."""
    value = round(statistics.median(values), 4)
    line = {"name": name, "value": value, "bound": bound, "unit": unit, "ok": value <= bound, "runs": len(values)}
    print(json.dumps(line), flush=True)
