"""Real images, built once a session and shared by the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from privml.base.files import remove_tree
from privml.image.target import recipes_directory, resolve
from privml.image.tools import ToolsTree
from privml.image.unpack import unpack
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_tools_lock
from privml.lock.make import bring
from privml.store.objects import Store
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


PUBLISHED = ("tdx-min",)
"""Both images stay in out/legs, for what is published of them."""
LONG = ("tdx-h100-vllm",)
"""Both images are in out/legs until they are compared: an interrupted run goes on with the one that is there."""


def rebuilt(name: str, page: Path, timeout: float = 3000) -> dict[str, Any]:
    """The report of `repro NAME`, whose leg a becomes out/NAME; with a refreshed lock when inputs are unavailable."""
    kept = ("--keep", f"out/legs/{name}") if name in PUBLISHED + LONG else ()
    words = ("repro", name, "--json", "--html", str(page), "--output", f"out/{name}", *kept)
    done = privml(*words, timeout=timeout)
    if done.returncode == 4 and json.loads(done.stdout)["outcome"] == "inputs-gone":
        elsewhere = f"out/locks/{name}.lock.json"
        succeeded(privml("lock", name, "--refresh-to", elsewhere))
        done = privml(*words, "--lock", elsewhere, timeout=timeout)
    report: dict[str, Any] = json.loads(succeeded(done).stdout)
    if name in LONG:
        remove_tree(ROOT / "out/legs" / name)
    return report


def unpacked(lock: Path, root: Path) -> Path:
    """``root``, with the packages of a lock in the form of the tools' lock."""
    store, packages = Store(), read_tools_lock(lock).packages
    bring(store, packages)
    unpack(store, packages, root)
    return root


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
    """The processes that still run after a few seconds."""
    end = time.monotonic() + patience
    while (left := processes(word)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def in_mkosi(place: Path) -> bool:
    """True while mkosi runs for a build that works below ``place``."""
    return any(" -m mkosi " in line for line in processes(str(place)))


def await_mkosi(place: Path, build: subprocess.Popen[str], patience: float = 300) -> None:
    """Wait until mkosi runs for ``build``, which works below ``place``; it must get there."""
    end = time.monotonic() + patience
    while not in_mkosi(place):
        assert build.poll() is None, "the build ended before mkosi was seen"
        assert time.monotonic() < end, f"mkosi did not run within {patience:g} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """The report of a recipe's two legs, made on first use."""
    return cache(lambda name: rebuilt(name, tmp_path_factory.mktemp(name) / "report.html"))


def built(request: pytest.FixtureRequest, name: str) -> Path:
    """out/NAME: leg a of `repro` if the session runs that test, else a separate build."""
    if any(item.path.name == "test_repro.py" for item in request.session.items):
        request.getfixturevalue("reports")(name)
    else:
        succeeded(privml("image", name))
    return ROOT / "out" / name


@pytest.fixture(scope="session")
def demo_cpu(request: pytest.FixtureRequest) -> Path:
    """out/demo-cpu, built."""
    return built(request, "demo-cpu")


@pytest.fixture(scope="session")
def demo_cpu_dev() -> Path:
    """out/demo-cpu-dev, built."""
    succeeded(privml("image", "demo-cpu-dev"))
    return ROOT / "out/demo-cpu-dev"


@pytest.fixture(scope="session")
def tdx_min(request: pytest.FixtureRequest) -> Path:
    """out/tdx-min, built."""
    return built(request, "tdx-min")


@pytest.fixture(scope="session")
def bench(demo_cpu: Path) -> Bench:
    """Boots of out/demo-cpu, each compared with its predictions."""
    target, place = resolve("demo-cpu"), Workplace()
    tools = place.tools(target.recipe)
    return Bench(tools, place.store.root, demo_cpu, target.manifest(), recipes_directory(target))


@pytest.fixture(scope="session")
def tools() -> ToolsTree:
    """The tree of the tools."""
    return Workplace().tools()


@pytest.fixture(scope="session")
def full() -> bool:
    """True in `make check-full`."""
    return os.environ.get("PRIVML_FULL") == "1"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel; its dependencies come from this environment."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / "bin/python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Directories that a .pth names are searched, but their own .pth files (our editable checkout) are not read.
    (Path(site.stdout.strip()) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent
