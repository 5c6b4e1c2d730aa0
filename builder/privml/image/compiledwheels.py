"""Compile the modules of Python wheels that would compile them when they run; the guest has no compiler.

Compiler and headers of Python are unpacked into a tree of their own, whose programs run in the sandbox, without a
network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from privml.base.errors import BuildError, InputsError
from privml.base.files import remove_tree
from privml.base.steps import step
from privml.image import triton
from privml.image.tools import Bind, ToolsTree
from privml.image.unpack import unpack
from privml.lock import wheelfile
from privml.lock.models import Compiled, Lock, Wheel
from privml.recipe.compiled import Compiling, record_of
from privml.store.objects import Store

_SEEN = Path("/build")
_ENVIRONMENT = {"PATH": "/usr/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_SECONDS = 600.0


def compiled(lock: Lock, store: Store, tools: ToolsTree, place: Path) -> dict[str, bytes]:
    """The files that take the place of those of the lock's wheels, or are added to them, by their paths in the wheel.

    They are made in the new directory ``place``, which is removed. Empty if no wheel compiles anything.
    """
    locked = lock.compiled
    if locked is None:
        return {}
    wheel = next(each for each in lock.imported if each.name == locked.wheel)
    record = record_of(wheel.name, wheel.version)
    assert record is not None, "the lock was checked when it was read"
    with step(f"Compiling modules of {wheel}"):
        made = _compiled(record, wheel, lock, locked, store, tools, place)
    remove_tree(place)
    return made


def _compiled(
    record: Compiling, wheel: Wheel, lock: Lock, locked: Compiled, store: Store, tools: ToolsTree, place: Path
) -> dict[str, bytes]:
    tree, build = place / "toolchain", place / "build"
    tree.mkdir(parents=True)
    unpack(store, locked.toolchain, tree)
    _unpack(record, wheel, store, build / "wheel")
    (build / "work").mkdir()
    python = lock.base.record.release.python
    include = [Path("/usr/include") / python, _SEEN / "wheel" / record.folder / "include"]
    suffix = f".cpython-{python.removeprefix('python').replace('.', '')}-x86_64-linux-gnu.so"
    sandbox = tools.other(tree)

    def compiler(argv: Sequence[str], work: Path) -> object:
        return sandbox.run(
            argv,
            binds=[Bind(build, str(_SEEN), writable=True)],
            env=_ENVIRONMENT,
            chdir=str(_SEEN / work.name),
            timeout=_SECONDS,
            what=f"the compilation of modules of {wheel}",
            error=BuildError,
        )

    source = build / "wheel" / record.folder
    changed, utils = ((source / name).read_bytes() for name in (record.changed, record.source))
    return triton.files(changed, utils, include, suffix, build / "work", compiler)


def _unpack(record: Compiling, wheel: Wheel, store: Store, target: Path) -> None:
    """Unpack what is compiled, and the headers for it, whatever the recipe leaves out of the root."""
    path = store.path(wheel.sha256, verify=True)
    needed = [f"{record.folder}/{name}" for name in (record.changed, record.source)]
    files = {file.path: file for file in wheelfile.read(path, wheel).files}
    if absent := [name for name in needed if name not in files]:
        raise InputsError(f"{wheel.file}: has no file {absent[0]}, expected those of {wheel}")
    with wheelfile.opened(path, wheel) as archive:
        for name, file in files.items():
            if name in needed or name.startswith(f"{record.folder}/include/"):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with (target / name).open("xb") as opened:
                    wheelfile.copy(archive, file, opened, wheel)
