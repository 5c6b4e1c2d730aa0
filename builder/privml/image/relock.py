"""Create and refresh the locks of recipes and tools with the apt of the tools tree.

Only this module writes committed locks. Every change is reported: packages, and the registers they move.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from privml.base.errors import UsageError
from privml.base.steps import say, step
from privml.image.bootstrap import mended, tools_tree, tree_apt
from privml.lock.apttools import SECONDS, AptTools, host_tools
from privml.lock.changes import changes
from privml.lock.contents import bring_all, debs
from privml.lock.earlier import previous_lock, previous_tools_lock
from privml.lock.localdebs import store_local
from privml.lock.locate import inputs_now, tools_lock_path
from privml.lock.lockfile import own_tools_lock, read_lock, read_tools_lock, serialise, write_lock
from privml.lock.make import bring, check, make_lock, make_tools_lock
from privml.lock.models import Lock, Package, ToolsLock, VendorFile
from privml.lock.moves import moves
from privml.lock.refresh import refresh
from privml.lock.solver import Solver
from privml.recipe.distributions import DISTRIBUTIONS, Distribution
from privml.recipe.loader import Recipe, is_installed, load
from privml.store.fetch import GoneError
from privml.store.objects import Store
from privml.store.pools import Pool


@dataclass(frozen=True)
class Relocking:
    """Options for making locks: store, pools, which ``apt``, what may be upgraded, and whether to ``fetch``.

    ``upgrade`` is None to keep all pins, empty to upgrade all packages, else the names to upgrade.
    """

    store: Store
    pools: Sequence[Pool]
    tools_lock: Path
    apt: Literal["tree", "host"] = "tree"
    upgrade: tuple[str, ...] | None = None
    allow_expired: bool = False
    fetch: bool = True
    # Of each run of apt.
    seconds: float = SECONDS

    def solver(self) -> Solver:
        """The solver. The tools tree is created only if packages must be resolved."""
        chosen: Callable[[Distribution], AptTools] = self._host_apt if self.apt == "host" else self._tree_apt
        return Solver(tools=chosen, allow_expired=self.allow_expired, upgrade=self.upgrade, pools=self.pools)

    def _host_apt(self, distribution: Distribution) -> AptTools:
        return host_tools(distribution, seconds=self.seconds)

    def _tree_apt(self, distribution: Distribution) -> AptTools:
        try:
            tree = tools_tree(self.store, read_tools_lock(self.tools_lock), self.pools)
            return tree_apt(tree, distribution, seconds=self.seconds)
        except GoneError as gone:
            gone.hint = "replace missing tools packages with `privml-build lock --tools`, or resolve with --apt host"
            raise

    def lock(self, recipe: Recipe) -> bool:
        """Write the lock of ``recipe``; returns whether it changed."""
        previous = previous_lock(recipe.lock_path)
        with step(f"Locking {recipe.name}"):
            made = make_lock(recipe, inputs_now(recipe), previous, self.store, self.solver())
            return self._write(recipe.lock_path, previous, made)

    def lock_tools(self, target: Path) -> bool:
        """Write the tools lock to ``target``, based on the current one; returns whether it changed."""
        before = previous_tools_lock(self.tools_lock)
        solver = self.solver()
        first = solver if before else Solver(tools=self._host_apt, allow_expired=self.allow_expired)
        after = make_tools_lock(before, self.store, first)
        if self.fetch and after == before:
            after = mended(self.store, after, solver, self.pools, host=self._host_apt)
        return self._write(target, before, after)

    def refresh(self, recipe: Recipe, target: Path) -> bool:
        """Write ``target``: the committed lock without unavailable packages, and its tools lock if it changed."""
        if not target.name.endswith(".lock.json") or target.resolve() == recipe.lock_path.resolve():
            raise UsageError(
                f"--refresh-to {target}: expected a new file other than the committed lock, named ...lock.json",
                hint=f"example: `privml-build lock {recipe.name} --refresh-to out/locks/{recipe.name}.lock.json`",
            )
        committed = read_lock(recipe.lock_path)
        check(recipe, committed, inputs_now(recipe))
        solver = self.solver()
        tools_before = read_tools_lock(tools_lock_path(recipe.path))
        tools_after = mended(self.store, tools_before, solver, self.pools, host=self._host_apt)
        digest = committed.tools_sha256
        own = own_tools_lock(target)
        if tools_after != tools_before:
            _say_changes(tools_before, tools_after)
            write_lock(own, tools_after)
            digest = tools_after.digest
        else:
            own.unlink(missing_ok=True)
        if self.apt == "tree":
            solver = replace(
                solver,
                tools=lambda each: tree_apt(
                    tools_tree(self.store, tools_after, self.pools), each, seconds=self.seconds
                ),
            )

        def fetch_packages(packages: Sequence[Package | VendorFile]) -> int:
            return bring(self.store, packages, pools=self.pools, mirrors=solver.mirrors)

        store_local(recipe, self.store)
        bring(self.store, (), committed.wheels, committed.volumes, folder=recipe.path.parent, pools=self.pools)
        with step(f"Refreshing the lock of {recipe.name}"):
            after = refresh(recipe, committed, self.store, solver, fetch_packages)
        after = after.model_copy(update={"tools_sha256": digest})
        if after == committed:
            say("all locked packages are still available")
        _say_changes(committed, after)
        fetch_packages(after.debs)
        return write_lock(target, after)

    def _write(self, path: Path, before: Lock | ToolsLock | None, after: Lock | ToolsLock) -> bool:
        _say_changes(before, after)
        if is_installed(path) and (not path.is_file() or path.read_bytes() != serialise(after)):
            own = f"start your own recipe: `privml-build init NAME --from {path.name.removesuffix('.lock.json')}`"
            tools = "name your own recipe: `privml-build lock --tools NAME`"
            raise UsageError(
                f"{path.name} is part of the installed privml-build and cannot be changed",
                hint=own if isinstance(after, Lock) else tools,
            )
        if self.fetch:
            bring_all(self.store, [after], self.pools, folder=path.parent)
        return write_lock(path, after)


def check_upgrades(names: Sequence[str], recipes: Sequence[Path], tools_lock: Path | None) -> None:
    """Raise ``UsageError`` if a package to upgrade is in no lock; otherwise a typing error would go unnoticed."""
    locks: list[Lock | ToolsLock | None] = [previous_lock(load(recipe).lock_path) for recipe in recipes]
    if tools_lock is not None:
        locks.append(previous_tools_lock(tools_lock))
    known = {package.name for lock in locks if lock is not None for package in debs(lock)}
    for name in names:
        if name not in known and not any(each.kernel.is_image(name) for each in DISTRIBUTIONS.values()):
            near = difflib.get_close_matches(name, known, n=3)
            guess = f"did you mean {' or '.join(f'`{other}`' for other in near)}?" if near else None
            raise UsageError(f"--upgrade-package {name}: no lock has this package", hint=guess)


def _say_changes(before: Lock | ToolsLock | None, after: Lock | ToolsLock) -> None:
    for line in (*changes(before, after), *moves(before, after)):
        say(line)
