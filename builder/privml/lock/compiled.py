"""Lock what compiles modules for a recipe's Python wheels: a compiler and the headers of the guest's Python.

A guest has no compiler. A wheel that would need one is refused, unless the build can compile its modules.
"""

from __future__ import annotations

from privml.base.errors import InputsError
from privml.lock.models import ChangedFile, Compiled, Lock, Requirements
from privml.lock.solver import Solver, pins_of, solve
from privml.lock.wanted import Wanted
from privml.recipe import compiled
from privml.recipe.compiled import Compiling
from privml.recipe.loader import Recipe
from privml.recipe.packages import Request
from privml.store.objects import Store


def compiled_of(
    recipe: Recipe, requirements: Requirements | None, previous: Lock | None, store: Store, solver: Solver
) -> Compiled | None:
    """What the build compiles for the wheels of ``requirements``; None if nothing.

    ``InputsError`` for a version of a wheel that compiles C in the guest.
    """
    record = _record(requirements, recipe.origin("python.requirements"))
    if record is None:
        return None
    before = previous.compiled if previous is not None else None
    if previous is not None and before is not None and previous.base.record != recipe.content.base.record:
        before = None
    if before is not None and solver.upgrade is None and _same(before, record):
        return before
    held = before.toolchain if before is not None else ()
    requests = tuple(map(Request, compiled.TOOLCHAIN))
    wanted = Wanted(recipe.content.base.record, requests, (), pins_of(held, solver))
    found = solve(wanted, held, before.archives if before is not None else (), store, solver)
    return Compiled(
        wheel=record.wheel,
        version=record.version,
        changed=ChangedFile(path=record.path, before=record.before, after=record.after),
        modules=record.modules,
        archives=found.archives,
        requested=compiled.TOOLCHAIN,
        toolchain=found.packages,
    )


def same_compiled(lock: Lock) -> bool:
    """Whether ``lock`` names what this version compiles for its wheels."""
    record = _record(lock.requirements, "the lock")
    if record is None or lock.compiled is None:
        return record is None and lock.compiled is None
    return _same(lock.compiled, record)


def _same(locked: Compiled, record: Compiling) -> bool:
    changed = (locked.changed.path, locked.changed.before, locked.changed.after)
    return (
        (locked.wheel, locked.version, locked.modules) == (record.wheel, record.version, record.modules)
        and changed == (record.path, record.before, record.after)
        and locked.requested == compiled.TOOLCHAIN
    )


def _record(requirements: Requirements | None, where: str) -> Compiling | None:
    found = None
    for wheel in requirements.wheels if requirements else ():
        try:
            found = compiled.record_of(wheel.name, wheel.version) or found
        except ValueError as error:
            raise InputsError(
                f"python-compiler: {where}: {error}",
                hint="ask for versions that require it, such as those before `python.before`",
            ) from error
    return found
