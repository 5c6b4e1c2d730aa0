"""Run two cold builds of one recipe in sequence, in environments as different as this machine allows."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import privml
from privml.base import strictjson
from privml.base.errors import BuildError, HostError
from privml.base.files import remove_tree
from privml.base.freememory import free_memory
from privml.base.run import BASE_ENVIRONMENT, run
from privml.base.steps import step
from privml.image.volumekeys import VolumeKeys
from privml.lock.trees import images_folder
from privml.output import volumekey
from privml.recipe.loader import load
from privml.repro import child
from privml.repro.namespaces import FIRST_ID, MAPPED, OWN_RANGE, account, unprivileged_account
from privml.repro.resuming import Done, Resuming, key_of
from privml.repro.surroundings import Leg, file_system
from privml.repro.variations import Variation, variations
from privml.vm.predicted import ImagePredictor

# A leg in memory needs room for a store, a tools tree, mkosi's workspace and the image.
NEEDED = 5 << 30
CLOCK = "+400d"
_MEMORY = Path("/dev/shm")  # noqa: S108 - checked for its file system; a private directory is made in it
_ENVIRONMENTS: dict[str, dict[str, str]] = {
    "a": {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
    "b": {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "4242"},
}


@dataclass(frozen=True)
class Inputs:
    """What both legs build: a recipe, its lock and tools lock, whether the lock is not the committed one, and where
    encrypted volumes come from.
    """

    recipe: Path
    lock: Path
    tools_lock: Path
    refreshed: bool = False
    volumes: VolumeKeys = field(default_factory=VolumeKeys)


@dataclass(frozen=True)
class Legs:
    """Two outputs, and what varied between the environments of their builds."""

    a: Path
    b: Path
    variations: tuple[Variation, ...]
    known: dict[str, tuple[tuple[str, str], ...]]


@contextmanager
def two_legs(
    inputs: Inputs, store: Path, name: str, *, keep: Path | None = None, needed: int = NEEDED
) -> Iterator[Legs]:
    """Build ``inputs`` twice; both manifests record whether they are ``refreshed``.

    ``needed`` are the bytes that the second leg needs. The outputs are removed at the end of the block, unless
    ``keep`` is a directory for them: then a leg that an interrupted run left there is not built again.
    """
    reasons: dict[str, str] = {}
    files = (inputs.lock, inputs.tools_lock)
    recipe = load(inputs.recipe)
    prediction = ImagePredictor(store, inputs.recipe.parent).inputs(recipe.content.platforms)
    made_of = key_of(recipe.digest, files, inputs.volumes.identity, prediction, refreshed=inputs.refreshed)
    resuming = keep and Resuming(keep, made_of)
    # Through a pipe: what is in the legs' files, arguments and environment stays where others can read it.
    keys = volumekey.encode_all(tuple(inputs.volumes.keys.values()))
    with _workspace(disk()) as first, _workspace(_memory(reasons, needed)) as second:
        plan = _plan(inputs, store, name, first, second, reasons)
        one, two = (_made(leg, _ENVIRONMENTS[leg.name], keys, resuming or None) for leg in plan)
        found = variations(one.seen, two.seen, reasons)
        yield Legs(one.image, two.image, found, _known(one.seen, two.seen, one.leg, two.leg))
        if resuming:  # compared
            resuming.finish(tuple(leg.name for leg in plan))


def _made(leg: Leg, environment: Mapping[str, str], keys: bytes, resuming: Resuming | None) -> Done:
    """Build a leg, unless an interrupted run left it."""
    if resuming is not None and (done := resuming.take(leg.name)) is not None:
        return done
    with step(f"Leg {leg.name} in {leg.workspace}"):
        seen = _build(leg, environment, keys)
    return Done(leg, seen, Path(leg.output)) if resuming is None else resuming.put(leg, seen)


def disk() -> Path:
    """The directory in which legs on a disk are built."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - mkdtemp makes a directory of our own in it


def _memory(reasons: dict[str, str], needed: int) -> Path:
    """A workspace on a second file system, or the disk with the reason why not."""
    if not _MEMORY.is_dir() or file_system(_MEMORY) == file_system(disk()):
        reasons["file_system"] = f"{_MEMORY} is on the same file system as {disk()}"
    elif shutil.disk_usage(_MEMORY).free < needed or free_memory() < needed:
        reasons["file_system"] = f"less than {needed >> 30} GiB of memory are free"
    else:
        return _MEMORY
    return disk()


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
    given = [path.resolve() for path in inputs.volumes.files]
    files = (inputs.recipe.resolve(), inputs.lock.resolve(), inputs.tools_lock.resolve(), *given)
    user = _user(files, store, reasons)
    if len(os.sched_getaffinity(0)) < 2:
        reasons["processors"] = "this process may use only one processor"
    reasons["builder_clock"] = "privml-build and mkosi run on the host's Python, outside the shifted clock"
    reasons["directory_order"] = reasons.get("file_system", "both file systems list names in the same order")
    for key in ("kernel", "processor_model", "python"):
        reasons[key] = "both legs ran on this machine; repeat on another and compare with `privml-build diff`"
    common: dict[str, Any] = {
        "recipe": str(inputs.recipe.resolve()),
        "lock": str(inputs.lock.resolve()),
        "tools_lock": str(inputs.tools_lock.resolve()),
        "refreshed": inputs.refreshed,
        "volumes": "" if inputs.volumes.directory is None else str(inputs.volumes.directory.resolve()),
    }
    a = Leg(
        name="a", workspace=str(first), output=str(first / "out" / name), store=str(store), import_from="",
        umask=0o022, processors=0, host_name="", user="", clock="", **common,
    )  # fmt: skip
    b = Leg(
        name="b", workspace=str(second), output=str(second / "another/deeper/place" / f"{name}-again"),
        store=str(second / "store"), import_from=str(store), umask=0o077, processors=1,
        host_name="privml-leg-b.invalid" if os.geteuid() == 0 or user else "", user=user, clock=CLOCK, **common,
    )  # fmt: skip
    return a, b


def _user(files: Sequence[Path], store: Path, reasons: dict[str, str]) -> str:
    """The user of leg b: a real unprivileged user if root calls, else root of a user namespace."""
    if os.geteuid() != 0:
        if account(os.geteuid()) is not None:
            return OWN_RANGE
        reasons["user"] = "this user has no subordinate ids: see /etc/subuid, and install uidmap"
        reasons["host_name"] = "setting a host name requires root, on the host or in a user namespace"
        return ""
    needed = (Path(sys.executable).resolve(), Path(privml.__file__), images_folder(), *files, store)
    if (closed := _closed(needed)) is not None:
        reasons["user"] = f"another user cannot read {closed}"
        return ""
    other = unprivileged_account()
    return f"{other.uid}:{other.gid}" if other is not None else MAPPED


def _closed(paths: Sequence[Path]) -> Path | None:
    """The first of ``paths`` and their parents that is not world-readable; None if all are."""
    for path in paths:
        for step_up in path.parents:
            if not step_up.stat().st_mode & 0o001:
                return step_up
        if not path.stat().st_mode & 0o004:
            return path
    return None


def _build(leg: Leg, environment: Mapping[str, str], keys: bytes) -> dict[str, str]:
    workspace = Path(leg.workspace)
    home = workspace / f"home-of-{leg.name}"
    home.mkdir()
    spec = workspace / "leg.json"
    spec.write_bytes(leg.encode())
    if leg.user and leg.user != OWN_RANGE:
        uid, gid = (FIRST_ID, FIRST_ID) if leg.user == MAPPED else map(int, leg.user.split(":"))
        for path in (workspace, home, spec):
            os.chown(path, uid, gid)
    package = str(Path(privml.__file__).resolve().parents[1])
    run(
        [sys.executable, "-m", child.__name__, str(spec)],
        env={"HOME": str(home), "PATH": BASE_ENVIRONMENT["PATH"], "PYTHONPATH": package, **environment},
        cwd=workspace,
        stdin=keys,
        what=f"leg {leg.name}",
        error=BuildError,
    )
    observed = workspace / child.OBSERVED
    if not observed.is_file():
        raise HostError(f"leg {leg.name} succeeded but did not write its observations to {observed}")
    seen: dict[str, str] = strictjson.loads(observed.read_bytes(), what=child.OBSERVED)
    if not seen.get("tool_clock"):
        raise BuildError(
            f"leg {leg.name} has an image, but no tool of mkosi ran in it: it is not an independent build",
            hint="look for a cache or a copy between the legs",
        )
    return seen


def _known(a: Mapping[str, str], b: Mapping[str, str], one: Leg, two: Leg) -> dict[str, tuple[tuple[str, str], ...]]:
    """Differences between the environments of the legs, by the cause they would have."""
    zones = (a["time_zone"].split()[0], b["time_zone"].split()[0])
    return {
        "build-path": ((one.output, two.output), (one.workspace, two.workspace), (a["home"], b["home"])),
        "builder-name": ((a["host_name"], b["host_name"]),),
        "time-zone": (zones,),
        "locale": ((a["locale"], b["locale"]),),
    }
