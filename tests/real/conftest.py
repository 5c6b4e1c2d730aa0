"""Real parts, built once a session: every later test uses the same images."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from privml.cli.context import Workplace, recipes_directory, resolve
from privml.vm.bench import Bench

ROOT = Path(__file__).resolve().parents[2]
only_full = pytest.mark.skipif(os.environ.get("PRIVML_FULL") != "1", reason="minutes more: `make check-full` does it")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def privml(*words: str, timeout: float = 1500, **more: object) -> subprocess.CompletedProcess[str]:
    """`privml-build` as a user runs it, from the checkout's root."""
    command = [str(Path(sys.executable).with_name("privml-build")), *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, env=dict(os.environ), **more
    )


def succeeded(done: subprocess.CompletedProcess[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done


def processes(word: str) -> list[str]:
    """Every process whose command line, directory or root has ``word`` in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            places = [os.readlink(entry / name) for name in ("cwd", "root")]
        except OSError:
            continue
        if word in " ".join([line, *places]):
            found.append(f"{entry.name} {line}")
    return found


def settled(word: str, patience: float) -> list[str]:
    """The processes that are left after a while."""
    end = time.monotonic() + patience
    while (left := processes(word)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


@pytest.fixture(scope="session")
def demo_cpu() -> Path:
    """out/demo-cpu, built."""
    succeeded(privml("image", "demo-cpu"))
    return ROOT / "out/demo-cpu"


@pytest.fixture(scope="session")
def demo_cpu_dev() -> Path:
    """out/demo-cpu-dev, built."""
    succeeded(privml("image", "demo-cpu-dev"))
    return ROOT / "out/demo-cpu-dev"


@pytest.fixture(scope="session")
def tdx_min() -> Path:
    """out/tdx-min, built."""
    succeeded(privml("image", "tdx-min"))
    return ROOT / "out/tdx-min"


@pytest.fixture(scope="session")
def bench(demo_cpu: Path) -> Bench:
    """Boots of out/demo-cpu, each compared with its predictions."""
    target, place = resolve("demo-cpu"), Workplace()
    tools = place.tools(target.recipe)
    return Bench(tools, place.store.root, demo_cpu, target.manifest(), recipes_directory(target))


@pytest.fixture(scope="session")
def full() -> bool:
    """True in `make check-full`."""
    return os.environ.get("PRIVML_FULL") == "1"
