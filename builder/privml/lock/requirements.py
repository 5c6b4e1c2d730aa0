"""Lock the wheels that a recipe's services and engine import: one file with one SHA-256 for each package.

uv resolves, as a process of its own, for the guest's Python and not for the one that runs here: pip's own resolver
evaluates markers of the running Python. It sees wheels only, and no file that the index got on the recipe's day or
later. What is locked stays until the recipe asks for something else.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from privml.base.errors import InputsError
from privml.engines.engine import Engine
from privml.lock import wheelfile
from privml.lock.debian import upstream_version
from privml.lock.models import Lock, Requirements, Wheel
from privml.lock.wheels import bring_wheel
from privml.recipe.loader import Recipe
from privml.recipe.python import matches
from privml.store import pypi
from privml.store.objects import Store
from privml.store.pools import Pool

MANYLINUX = (2, 40)
"""The newest glibc that wheels may be made for: uv knows no newer one, and every release has it."""
_ARCHITECTURE = "x86_64"
_LEGACY = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
_OLDEST = 5
# Phrases of uv, and the name of the error that each means; the first one that it says counts.
_CAUSES = {
    "Failed to fetch": "wheel-index",
    "yanked": "wheel-yanked",
    "was not found in": "wheel-missing",
    "with a matching": "wheel-platform",
    "no usable wheels": "wheel-sdist",
}
_UNDATED = "missing an upload date"


def requirements_of(
    recipe: Recipe, previous: Lock | None, store: Store, pools: Sequence[Pool]
) -> Requirements | None:
    """The wheels of ``recipe``, taken from ``previous`` if that is for the same request; None without any."""
    python = recipe.content.python
    if python is None:
        return None
    version = python_of(recipe)
    before = previous.requirements if previous else None
    asked = tuple(python.requirements)
    if before is not None and (before.python, before.requested, before.before) == (version, asked, python.before):
        return before
    if datetime.date.fromisoformat(python.before) > datetime.datetime.now(datetime.UTC).date():
        where = recipe.origin("python.before")
        raise InputsError(f"{where}: got {python.before}, expected a day that has begun: the index may still change")
    wheels = []
    for wheel in _resolved(recipe, asked, python.before, version):
        bring_wheel(store, wheel, pools)
        path = store.path(wheel.sha256, verify=True)
        for file in wheelfile.read(path, wheel).files:
            # What the recipe leaves out is never unpacked.
            if not any(matches(file.path, pattern) for pattern in python.remove):
                wheelfile.check_size(file, wheel)
        # Not every index says the size.
        wheels.append(wheel.model_copy(update={"size": path.stat().st_size}))
    return Requirements(python=version, requested=asked, before=python.before, wheels=tuple(wheels))


def same_requirements(recipe: Recipe, lock: Lock) -> bool:
    """Whether the lock has what the recipe asks for."""
    python, locked = recipe.content.python, lock.requirements
    if python is None or locked is None:
        return python is None and locked is None
    wanted = (python_of(recipe), tuple(python.requirements), python.before)
    return wanted == (locked.python, locked.requested, locked.before)


def engine_version(engine: Engine, lock: Lock) -> str:
    """The locked version of an engine: that of its own wheel, or upstream's of its first package."""
    if engine.wheels is None:
        return upstream_version(lock.package(engine.packages[0]).version)
    name = engine.wheels.requirement
    found = next((wheel.version for wheel in lock.imported if wheel.name == name), None)
    if found is None:
        raise InputsError(f"the lock has no wheel {name} of the engine `{engine.name}`", hint="lock the recipe again")
    return found


def python_of(recipe: Recipe) -> str:
    """The version of the guest's Python, such as 3.14."""
    return recipe.content.base.record.release.python.removeprefix("python")


def _resolved(recipe: Recipe, asked: Sequence[str], before: str, python: str) -> tuple[Wheel, ...]:
    where = recipe.origin("python.requirements")
    platform = f"{_ARCHITECTURE}-manylinux_{MANYLINUX[0]}_{MANYLINUX[1]}"
    try:
        data, said = pypi.resolve(asked, before=f"{before}T00:00:00Z", python=python, platform=platform)
    except InputsError as error:
        name = next((name for phrase, name in _CAUSES.items() if phrase in error.message), "wheel-missing")
        if name == "wheel-missing" and _UNDATED in error.message:
            name = "wheel-undated"
        raise InputsError(f"{name}: {where}: {error.message}", hint=_hint(name, error.hint)) from error
    if yanked := re.findall(r"`([^`]+)` is yanked(?: \(reason: ([^)]*)\))?", said):
        listed = ", ".join(f"{name} ({reason})" if reason else name for name, reason in yanked)
        raise InputsError(f"wheel-yanked: {where}: its publisher withdrew {listed}; ask for another version")
    order = {tag: number for number, tag in enumerate(_tags(python))}
    try:
        rows = tomllib.loads(data.decode())["packages"]
        return tuple(sorted((_chosen(row, order, where) for row in rows), key=lambda wheel: wheel.name))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputsError(f"{where}: uv wrote a pylock.toml that cannot be read: {error}") from error


def _hint(name: str, hint: str | None) -> str | None:
    return {
        "wheel-sdist": "there is only its source: nothing is compiled here, so ask for a version that has wheels",
        "wheel-platform": "it has wheels, but none for the guest's Python, glibc and x86-64; ask for another version",
        "wheel-undated": "the index does not say when it got its files (PEP 700), so `python.before` excludes all",
        "wheel-missing": "files younger than `python.before` do not count; `pip config list` shows the index",
    }.get(name, hint)


def _chosen(row: dict[str, Any], order: dict[Tag, int], where: str) -> Wheel:
    """The one wheel of a package that fits the guest best, as an installer would choose."""
    name, version = str(row["name"]), str(row["version"])
    best: tuple[tuple[int, int, str], Wheel] | None = None
    for each in row.get("wheels", ()):
        file = str(each.get("name") or str(each.get("url") or each.get("path")).rpartition("/")[2]).partition("#")[0]
        file = file.replace("%2B", "+").replace("%2b", "+")
        try:
            of, _, build, tags = parse_wheel_filename(file)
        except InvalidWheelFilename as error:
            raise InputsError(f"{where}: {name} {version}: {error}") from error
        ranks = [order[tag] for tag in tags if tag in order]
        if of != canonicalize_name(name) or not ranks:
            continue
        sha256 = str(each["hashes"].get("sha256", ""))
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise InputsError(f"wheel-undigested: {where}: the index has no SHA-256 of {file}")
        key = (min(ranks), -(build[0] if build else -1), file)
        if best is None or key < best[0]:
            best = key, Wheel(name=name, version=version, file=file, sha256=sha256, size=int(each.get("size") or 0))
    if best is None:
        raise InputsError(f"wheel-platform: {where}: {name} {version} has no wheel for the guest's Python on x86-64")
    return best[1]


def _tags(python: str) -> Iterator[Tag]:
    """The tags of wheels that run in the guest, the best first."""
    major, minor = map(int, python.split("."))
    platforms = list(_platforms())
    yield from cpython_tags((major, minor), [f"cp{major}{minor}"], platforms)
    yield from compatible_tags((major, minor), f"cp{major}{minor}", platforms)


def _platforms() -> Iterator[str]:
    for minor in range(MANYLINUX[1], _OLDEST - 1, -1):
        yield f"manylinux_2_{minor}_{_ARCHITECTURE}"
        if (old := _LEGACY.get((2, minor))) is not None:
            yield f"{old}_{_ARCHITECTURE}"
    yield f"linux_{_ARCHITECTURE}"
