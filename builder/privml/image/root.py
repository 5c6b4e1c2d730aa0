"""Build the root volume: run mkosi without a network on the rendered tree and locked packages, check the result."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from privml.base import strictjson
from privml.base.errors import BuildError, EvidenceError, InputsError
from privml.base.freememory import free_memory
from privml.base.run import run
from privml.engines.registry import engine_named
from privml.events.variants import DEVELOPMENT
from privml.events.verity import Verity
from privml.image import fixednames, licences, pythonwheels, render, resources, volume
from privml.image.pythonwheels import Unpacked
from privml.image.tools import ToolsTree
from privml.lock.models import Lock
from privml.recipe import ownfiles
from privml.recipe.compression import COMPRESSIONS
from privml.recipe.kernelsettings import module_name
from privml.recipe.loader import Recipe
from privml.recipe.python import DIRECTORY
from privml.store.objects import Store

# apt's line for each address it contacts: "Get:1 file:/repository ./ name 1.0 [2 kB]", "Err:2 ...".
_APT_LINE = re.compile(rb"^\s*(?:\xe2\x80\xa3\s*)?(?:Get|Hit|Ign|Err):\s?\d+ (\S+)")
_APT_POOL = re.compile(rb"^(?:file|copy):/*repository(?:/|$)")
# Memory for building in memory, as a multiple of the packages' size; their tree has about four times that.
_MEMORY = 20
# And of the wheels' size: they are copied into the tree, and from there into the volume.
_WHEELS = 4
SOURCE = "source"
"""The folder of mkosi's input tree, which gets its outputs too, in the folder that a build makes for mkosi."""


@dataclass(frozen=True)
class Probe:
    """Files that `repro` adds to mkosi's input to observe a build, and where its outputs go."""

    files: Mapping[str, render.File]
    keep: Mapping[str, Path]


def plan_of(
    recipe: Recipe,
    lock: Lock,
    config: bytes,
    driver: Mapping[str, render.File] = MappingProxyType({}),
    wheels: Unpacked | None = None,
) -> render.Plan:
    """The inputs for rendering the tree of ``recipe``: ``config`` is the measured configuration, ``driver`` has the
    files of the GPUs' driver, and ``wheels`` those of the Python wheels.
    """
    inference, gpu = recipe.content.inference, recipe.content.gpu
    own = _own_files(recipe, lock)
    return render.Plan(
        name=recipe.name,
        base=recipe.content.base.record,
        packages=tuple(package.name for package in lock.packages if package not in lock.outside),
        outside=tuple(package.name for package in lock.outside),
        epoch=lock.source_date_epoch,
        tools=str(fixednames.ROOT / "tools"),
        overlay=resources.overlay(recipe, [file.path for file in lock.agent.files], config=config)
        | dict(driver)
        | own,
        development=recipe.content.variant == DEVELOPMENT,
        engine=None if inference is None else engine_named(inference.engine.name),
        driver=None if gpu is None else gpu.record,
        fabric=None if gpu is None else gpu.board,
        services=tuple(sorted({service.run[0] for service in recipe.content.services.values()})),
        own=tuple(path for path in own if path not in (ownfiles.SYSCTLS, ownfiles.MODULES)),
        added=(
            *recipe.content.named_packages,
            *(name for name, _ in recipe.content.archive_packages),
            *(package.name for package in lock.local),
        ),
        programs=tuple(recipe.content.programs),
        modules=tuple(map(module_name, recipe.content.kernel.modules)),
        wheels=wheels,
        compression=COMPRESSIONS[recipe.content.compression],
    )


def _own_files(recipe: Recipe, lock: Lock) -> dict[str, render.File]:
    """What the recipe adds to the root, as it was locked."""
    files = resources.own_files(recipe)
    locked = {file.path: file.sha256 for file in lock.files.files} if lock.files else {}
    for path in sorted(files.keys() | locked.keys()):
        found = files[path].digest if path in files else "nothing"
        if found != locked.get(path):
            wanted = locked.get(path, "nothing")
            raise InputsError(
                f"/{path} of {recipe.name} changed while the image was built: got {found}, expected {wanted}",
                hint=f"renew the lock with `privml-build lock {recipe.name}`",
            )
    return files


def write_tree(files: Mapping[str, render.File], root: Path, *, epoch: int) -> None:
    """Write a rendered tree with fixed modes and times, whatever the caller's umask."""
    for name, file in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.link is not None:
            path.symlink_to(file.link)
        else:
            path.write_bytes(file.data)
            path.chmod(0o755 if file.executable else 0o644)
    for path in [root, *root.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def write_source(
    plan: render.Plan,
    lock: Lock,
    store: Store,
    tools: ToolsTree,
    source: Path,
    probe: Probe | None,
    *,
    store_seen: Path | None = None,
) -> None:
    """Write mkosi's input tree into the new directory ``source``; ``store_seen`` is the store's path for mkosi."""
    source.mkdir(parents=True)
    files = render.tree(plan, resources.templates())
    if tools.environment:
        # mkosi runs its tools, and through them the maintainer scripts, with its own environment and this file.
        lines = "".join(f"{key}={value}\n" for key, value in sorted(tools.environment.items()))
        files["mkosi.env"] = render.File(files["mkosi.env"].data + lines.encode())
    write_tree(files | dict(probe.files) if probe else files, source, epoch=plan.epoch)
    if plan.wheels is not None:
        pythonwheels.write(plan.wheels, store, source / "mkosi.extra" / DIRECTORY, epoch=plan.epoch)
    if plan.based:
        return
    pool = source / "packages"
    pool.mkdir()
    for package in lock.packages:
        locked = store.path(package.sha256, verify=True).relative_to(store.root)
        (pool / package.file.replace("%3a", ":").replace(":", "%3a")).symlink_to((store_seen or store.root) / locked)


def make(
    plan: render.Plan,
    lock: Lock,
    store: Store,
    tools: ToolsTree,
    place: Path,
    out: Path,
    *,
    base: Path | None = None,
    probe: Probe | None = None,
    in_memory: bool = True,
) -> Verity:
    """Build ``out/root.raw`` in the new directory ``place``; mkosi's other outputs stay in ``place/SOURCE``.

    ``in_memory``: mkosi may unpack in memory, if there is enough.

    Starts from the package tree ``base``, which is moved there, or from the packages. Returns the verity parameters.
    """
    source = place / SOURCE
    write_source(
        replace(plan, based=base is not None), lock, store, tools, source, probe, store_seen=fixednames.ROOT / "store"
    )
    if base is not None:
        base.rename(source / render.BASE)
    wheels = plan.wheels.size if plan.wheels else 0
    need = _MEMORY * sum(package.size for package in lock.packages) + _WHEELS * wheels
    run_mkosi(tools, store, place, memory=need if in_memory and free_memory() >= need else 0)
    for name, place in (probe.keep if probe else {}).items():
        if (source / name).is_file():
            place.write_bytes((source / name).read_bytes())
    raw = source / "root.raw"
    for name in (
        "root.raw",
        "installed.json",
        licences.FILE,
        "root.roothash",
        "kernel-version",
        "vmlinuz",
        render.BASE,
    ):
        if not (source / name).is_file():
            raise BuildError(f"mkosi succeeded but did not write {name}")
    _check_installed(source / "installed.json", lock)
    root_hash = word(source, "root.roothash")
    verity = volume.verity_of(raw, render.ROOT_LABEL, root_hash)
    raw.rename(out / "root.raw")
    return verity


def word(folder: Path, name: str) -> str:
    """The single word in the file ``name`` of mkosi's output."""
    text = (folder / name).read_bytes().decode("ascii", "replace").strip()
    if not text or not text.isprintable() or " " in text:
        raise BuildError(f"mkosi's {name} contains {text[:80]!r}, expected one word")
    return text


def run_mkosi(tools: ToolsTree, store: Store, place: Path, *, memory: int) -> None:
    """Run mkosi from the tools tree on ``place/SOURCE``, without a network, on fixed paths.

    It works in so many bytes of ``memory``, or on the disk of ``place`` if there are none.
    """
    workspace = place / "workspace"
    workspace.mkdir()
    folders: dict[str, Path | int] = {"work": place, "tools": tools.root, "store": store.root}
    seen = fixednames.ROOT / "work"
    if memory:
        folders["workspace"] = memory
    # On a disk, one mount for both: mkosi renames its outputs from the workspace, and copies them where it cannot.
    scratch = (fixednames.ROOT if memory else seen) / "workspace"
    try:
        # apt, maintainer scripts and finalize have only a loopback interface, which is down.
        done = run(
            [
                *tools.cell(),
                *fixednames.arguments(folders),
                sys.executable,
                "-m",
                "mkosi",
                "--directory",
                seen / SOURCE,
                "--workspace-directory",
                scratch,
                "--package-cache-directory",
                scratch / "cache",
                "--force",
                "build",
            ],
            env={
                "PYTHONPATH": str(fixednames.ROOT / "tools" / tools.mkosi_packages.relative_to(tools.root)),
                "HOME": str(scratch),
            },
            what="mkosi",
            error=BuildError,
        )
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    check_sources(done.stdout + b"\n" + done.stderr)


def check_sources(output: bytes) -> None:
    """Fail if apt contacted any address other than the pool of locked packages, even without success."""
    for line in output.splitlines():
        found = _APT_LINE.match(line)
        if found and not _APT_POOL.match(found[1]):
            address = found[1].decode("utf-8", "replace")
            raise BuildError(
                f"apt contacted `{address}`, expected only the pool of locked packages",
                hint="remove the archive from mkosi's input tree: see images/mkosi and mkosi.sandbox",
            )


def _check_installed(path: Path, lock: Lock) -> None:
    """Fail if the installed packages are not exactly the locked ones."""
    try:
        rows = strictjson.loads(path.read_bytes(), what=path.name)
        installed = {(row["package"], row["version"], row["architecture"]) for row in rows}
    except (EvidenceError, KeyError, TypeError) as error:
        raise BuildError(f"finalize wrote a malformed list of installed packages: {error}") from error
    locked_set = {(package.name, package.version, package.architecture) for package in lock.packages}
    if installed != locked_set:
        extra = ", ".join(sorted(" ".join(row) for row in installed - locked_set)) or "none"
        missing = ", ".join(sorted(" ".join(row) for row in locked_set - installed)) or "none"
        raise BuildError(f"installed packages are not the locked ones: extra: {extra}; missing: {missing}")
