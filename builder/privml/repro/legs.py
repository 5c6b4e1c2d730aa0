"""Two cold builds of one recipe in surroundings as different as this machine allows, one after the other."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import privml
from privml.base import strictjson
from privml.base.errors import BuildError, HostError
from privml.base.files import remove_tree
from privml.base.run import BASE_ENVIRONMENT, run
from privml.base.steps import step
from privml.lock.trees import images_folder
from privml.repro import child
from privml.repro.namespaces import FIRST_ID
from privml.repro.surroundings import Leg, file_system
from privml.repro.variations import Variation, variations

# A leg in memory holds a store, a tools tree, mkosi's workspace and the image.
NEEDED = 5 << 30
CLOCK = "+400d"
_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at for its file system, and a directory of our own made in it
_ENVIRONMENTS: dict[str, dict[str, str]] = {
    "a": {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
    "b": {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "4242"},
}


@dataclass(frozen=True)
class Inputs:
    """What both legs build: a recipe, by which lock and tools lock, and whether that is not the committed one."""

    recipe: Path
    lock: Path
    tools_lock: Path
    refreshed: bool = False


@dataclass(frozen=True)
class Legs:
    """Two outputs, and what moved between the surroundings in which they were made."""

    a: Path
    b: Path
    variations: tuple[Variation, ...]
    known: dict[str, tuple[tuple[str, str], ...]]


@contextmanager
def two_legs(inputs: Inputs, store: Path, name: str, *, keep: Path | None = None) -> Iterator[Legs]:
    """Build ``inputs`` twice. The outputs live as long as the block, unless ``keep`` is a directory for them."""
    reasons: dict[str, str] = {}
    with _workspace(_disk()) as first, _workspace(_memory(reasons)) as second:
        one, two = _plan(inputs, store, name, first, second, reasons)
        seen = []
        for leg, environment in ((one, _ENVIRONMENTS["a"]), (two, _ENVIRONMENTS["b"])):
            with step(f"Leg {leg.name} in {leg.workspace}"):
                seen.append(_build(leg, environment))
        found = variations(seen[0], seen[1], reasons)
        if keep is not None:
            for leg in (one, two):
                remove_tree(keep / leg.name)
                shutil.copytree(leg.output, keep / leg.name)
        yield Legs(Path(one.output), Path(two.output), found, _known(seen[0], seen[1], one, two))


def _disk() -> Path:
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - mkdtemp makes a directory of our own in it


def _memory(reasons: dict[str, str]) -> Path:
    """A place on another file system than the disk's, else the disk with the reason."""
    if not _MEMORY.is_dir() or file_system(_MEMORY) == file_system(_disk()):
        reasons["file_system"] = f"{_MEMORY} is no other file system than {_disk()}"
    elif shutil.disk_usage(_MEMORY).free < NEEDED or _available() < NEEDED:
        reasons["file_system"] = f"less than {NEEDED >> 30} GiB are free in memory"
    else:
        return _MEMORY
    return _disk()


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


@contextmanager
def _workspace(parent: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="privml-repro.", dir=parent))
    try:
        yield place
    finally:
        remove_tree(place)


def _plan(
    inputs: Inputs, store: Path, name: str, first: Path, second: Path, reasons: dict[str, str]
) -> tuple[Leg, Leg]:
    root = os.geteuid() == 0
    if not root:
        reasons["host_name"] = reasons["user"] = "only root can give a leg a host name and ids of its own"
    ours = (Path(sys.executable), Path(privml.__file__), images_folder(), store)
    closed = _closed([path.resolve() for path in (*ours, inputs.recipe, inputs.lock, inputs.tools_lock)])
    if root and closed is not None:
        reasons["user"] = f"another user cannot read {closed}"
    if len(os.sched_getaffinity(0)) < 2:
        reasons["processors"] = "this process may use one processor only"
    reasons["builder_clock"] = "privml-build and mkosi run on the host's Python, which no preload of the tree reaches"
    for key in ("kernel", "processor_model", "python"):
        reasons[key] = "both legs ran on this machine; repeat on another and compare with `privml-build diff`"
    common = {
        "recipe": str(inputs.recipe.resolve()),
        "lock": str(inputs.lock.resolve()),
        "tools_lock": str(inputs.tools_lock.resolve()),
    }
    a = Leg(
        name="a", workspace=str(first), output=str(first / "out" / name), store=str(store), import_from="",
        umask=0o022, processors=0, host_name="", other_user=False, clock="", refreshed=inputs.refreshed, **common,
    )  # fmt: skip
    b = Leg(
        name="b", workspace=str(second), output=str(second / "another/deeper/place" / f"{name}-again"),
        store=str(second / "store"), import_from=str(store), umask=0o077, processors=1,
        host_name="privml-leg-b.invalid" if root else "", other_user=root and closed is None, clock=CLOCK,
        refreshed=inputs.refreshed, **common,
    )  # fmt: skip
    return a, b


def _closed(paths: Sequence[Path]) -> Path | None:
    """The first of ``paths`` and of what leads to them that not everybody may read; None when all are open."""
    for path in paths:
        for step_up in path.parents:
            if not step_up.stat().st_mode & 0o001:
                return step_up
        if not path.stat().st_mode & 0o004:
            return path
    return None


def _build(leg: Leg, environment: Mapping[str, str]) -> dict[str, str]:
    workspace = Path(leg.workspace)
    home = workspace / f"home-of-{leg.name}"
    home.mkdir()
    spec = workspace / "leg.json"
    spec.write_bytes(leg.encode())
    if leg.other_user:
        for path in (workspace, home, spec):
            os.chown(path, FIRST_ID, FIRST_ID)
    package = str(Path(privml.__file__).resolve().parents[1])
    run(
        [sys.executable, "-m", child.__name__, str(spec)],
        env={"HOME": str(home), "PATH": BASE_ENVIRONMENT["PATH"], "PYTHONPATH": package, **environment},
        cwd=workspace,
        what=f"leg {leg.name}",
        error=BuildError,
    )
    observed = workspace / child.OBSERVED
    if not observed.is_file():
        raise HostError(f"leg {leg.name} ended well but saw nothing: {observed} is not there")
    seen: dict[str, str] = strictjson.loads(observed.read_bytes(), what=child.OBSERVED)
    return seen


def _known(a: Mapping[str, str], b: Mapping[str, str], one: Leg, two: Leg) -> dict[str, tuple[tuple[str, str], ...]]:
    """What differed around the legs, by the cause that it would be."""
    zones = (a["time_zone"].split()[0], b["time_zone"].split()[0])
    return {
        "build-path": ((one.output, two.output), (one.workspace, two.workspace), (a["home"], b["home"])),
        "builder-name": ((a["host_name"], b["host_name"]),),
        "time-zone": (zones,),
        "locale": ((a["locale"], b["locale"]),),
    }
