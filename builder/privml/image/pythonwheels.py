"""The Python wheels of a recipe in the root: which files of them stay, and unpacking them.

Files go one by one from the store's archive into mkosi's input tree, so memory does not depend on their size. They
are in a folder of their own, which only services have on their search path.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.steps import say
from privml.lock import wheelfile
from privml.lock.models import Lock, Wheel
from privml.lock.wheelfile import WheelFile
from privml.recipe.python import DIRECTORY, Python, matches
from privml.store.objects import Store

# Python would run these at its start, if they are at the top of a folder on its search path.
_START = ("*.pth", "sitecustomize*", "usercustomize*")
# The build compiles modules itself, for the guest's Python.
_COMPILED = ("*/__pycache__/*", "__pycache__/*", "*.pyc")
MAX_BYTES = 32 << 30


@dataclass(frozen=True)
class Unpacked:
    """The files of the wheels by their paths below ``DIRECTORY``, each with its wheel; and what was left out.

    ``programs`` are the paths that stay executable; ``removed`` has the bytes that each pattern of the recipe saved.
    ``made`` are files that the build makes, by path: they take the place of a wheel's, or are added.
    """

    files: Mapping[str, tuple[Wheel, WheelFile]]
    programs: frozenset[str] = frozenset()
    imports: tuple[str, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)
    made: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        own = sum(file.size for path, (_, file) in self.files.items() if path not in self.made)
        return own + sum(map(len, self.made.values()))

    @property
    def facts(self) -> dict[str, object]:
        """What ``finalize`` checks: folder, files with SHA-256, and the modules to import."""
        of_wheels = {path: file.sha256 for path, (_, file) in self.files.items()}
        made = {path: hashlib.sha256(data).hexdigest() for path, data in self.made.items()}
        return {
            "directory": DIRECTORY,
            "files": dict(sorted({**of_wheels, **made}.items())),
            "programs": sorted(self.programs),
            "imports": list(self.imports),
        }


def unpacked(python: Python, lock: Lock, store: Store) -> Unpacked:
    """What stays of the locked wheels; ``InputsError`` if a wheel breaks a rule, or two have different files."""
    kept: dict[str, tuple[Wheel, WheelFile]] = {}
    removed = dict.fromkeys(python.remove, 0)
    for wheel in lock.imported:
        for file in wheelfile.read(store.path(wheel.sha256, verify=True), wheel).files:
            if not file.path or any(fnmatchcase(file.path, each) for each in _COMPILED):
                continue
            if found := [pattern for pattern in python.remove if matches(file.path, pattern)]:
                removed[found[0]] += file.size
                continue
            wheelfile.check_size(file, wheel)
            _check_start(wheel, file)
            other = kept.setdefault(file.path, (wheel, file))
            if other[1].sha256 != file.sha256:
                raise InputsError(
                    f"wheel-clash: {file.path} is in {other[0].file} and in {wheel.file}, with other bytes",
                    hint="leave it out of both with `python.remove`",
                )
    _check_folders(kept)
    if sum(file.size for _, file in kept.values()) > MAX_BYTES:
        raise InputsError(f"wheel-size: the wheels unpack to more than {MAX_BYTES >> 30} GiB")
    if unused := [pattern for pattern, size in removed.items() if not size]:
        raise InputsError(f"wheel-remove: `{unused[0]}` of `python.remove` matches no file of the wheels")
    if absent := [name for name in python.programs if name not in kept]:
        raise InputsError(f"wheel-program: {absent[0]} of `python.programs` is not a file of the wheels that stays")
    return Unpacked(kept, frozenset(python.programs), tuple(python.imports), removed)


def with_made(found: Unpacked, made: Mapping[str, bytes]) -> Unpacked:
    """``found`` with files that the build makes, if it has those that they belong to."""
    if not any(path in found.files for path in made):
        return found
    if taken := [path for path in made if path in found.programs]:
        raise InputsError(f"wheel-program: {taken[0]} of `python.programs` is made by the build, and is no program")
    return replace(found, made=made)


def announce(found: Unpacked) -> None:
    """Say what the wheels hold, and what each pattern of the recipe saved."""
    wheels = {wheel.name for wheel, _ in found.files.values()}
    say(f"Python wheels: {len(wheels)}, {len(found.files)} files, {_megabytes(found.size)}")
    for pattern, saved in found.removed.items():
        say(f"  without {pattern}: {_megabytes(saved)} less")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def write(found: Unpacked, store: Store, root: Path, *, epoch: int) -> None:
    """Unpack into the new directory ``root``, with fixed modes and times; compares every file with RECORD."""
    root.mkdir(parents=True)
    of_wheel: dict[Wheel, list[tuple[str, WheelFile]]] = {}
    for path, (wheel, file) in sorted(found.files.items()):
        of_wheel.setdefault(wheel, []).append((path, file))
    for wheel, files in of_wheel.items():
        with wheelfile.opened(store.path(wheel.sha256, verify=False), wheel) as archive:
            for path, file in files:
                if path in found.made:
                    continue
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as opened:
                    wheelfile.copy(archive, file, opened, wheel)
                target.chmod(0o755 if path in found.programs else 0o644)
                os.utime(target, (epoch, epoch))
    for path, data in found.made.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o644)
        os.utime(target, (epoch, epoch))
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
        os.utime(folder, (epoch, epoch))


def is_of_wheels(path: str) -> bool:
    """Whether ``path`` in the root is of a wheel."""
    return path == DIRECTORY or path.startswith(f"{DIRECTORY}/")


def _check_start(wheel: Wheel, file: WheelFile) -> None:
    if "/" in file.path.removesuffix("/") and not file.path.startswith(("sitecustomize/", "usercustomize/")):
        return
    if any(fnmatchcase(file.path.partition("/")[0], each) for each in _START):
        raise InputsError(
            f"wheel-start: {wheel.file}: {file.path} would run at the start of every Python program of the services",
            hint=f"leave it out with `python.remove: [{file.path.partition('/')[0]}]`, if the wheel works without it",
        )


def _check_folders(kept: Mapping[str, object]) -> None:
    for path in kept:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (above := "/".join(parts[:depth])) in kept:
                raise InputsError(f"wheel-clash: {above} is a file of one wheel and a folder of another")
