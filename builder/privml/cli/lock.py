"""`lock`: name every input of a recipe by its digest."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.files import sha256_file
from privml.base.steps import say, step
from privml.cli.context import tools_lock_path
from privml.image.bootstrap import mended, tools_tree, tree_apt
from privml.lock.apt import AptTools, host_tools
from privml.lock.changes import changes
from privml.lock.make import Current, Solver, bring, check, current_inputs, make_lock, make_tools_lock
from privml.lock.models import (
    Lock,
    Package,
    ToolsLock,
    own_tools_lock,
    read_lock,
    read_tools_lock,
    serialise,
    write_lock,
)
from privml.lock.moves import moves
from privml.lock.refresh import refresh
from privml.lock.trees import images_folder
from privml.recipe.distributions import DISTRIBUTIONS, Distribution
from privml.recipe.loader import Recipe, find, is_installed, load
from privml.store.fetch import GoneError
from privml.store.objects import Store
from privml.store.pools import Pool


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--tools",
    is_flag=True,
    help="Renew tools.lock.json too, beside the recipes (without TARGET: the one in recipes/, alone).",
)
@click.option(
    "--check", "only_check", is_flag=True, help="Only say whether the locks are up to date (exit 4 if not)."
)
@click.option("--upgrade", is_flag=True, help="Take the newest version of every package.")
@click.option("--upgrade-package", "packages", multiple=True, metavar="NAME", help="Take the newest version of NAME.")
@click.option("--allow-expired", is_flag=True, help="Accept an archive whose Valid-Until has passed, and record it.")
@click.option("--apt", type=click.Choice(["tree", "host"]), default="tree", help="Whose apt solves and checks.")
@click.option(
    "--refresh-to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Leave the lock; write FILE, where only what no source has any more is replaced.",
)
@click.option("--pool", "pools", multiple=True, metavar="DIR|URL", help="Where missing inputs are looked for first.")
@click.option("--fetch/--no-fetch", default=True, help="Also bring the locked bytes into the store.")
def lock(
    targets: tuple[str, ...],
    *,
    refresh_to: Path | None,
    pools: tuple[str, ...],
    tools: bool,
    only_check: bool,
    upgrade: bool,
    packages: tuple[str, ...],
    allow_expired: bool,
    apt: str,
    fetch: bool,
) -> None:
    """Write recipes/NAME.lock.json, keeping package versions unless told to move them.

    Debian packages come from the mirrors that this host's apt uses, or from those in
    $XDG_CONFIG_HOME/privml-build/mirrors.yaml (for example `debian: [https://mirror.example.invalid/debian]`);
    wheels come through this host's pip.

    \b
    privml-build lock demo-cpu
    privml-build lock demo-cpu --check
    privml-build lock demo-cpu --upgrade-package systemd
    privml-build lock demo-cpu --tools --upgrade
    privml-build lock demo-cpu --refresh-to out/locks/demo-cpu.lock.json
    """
    if not targets and not tools:
        raise UsageError("nothing to lock: name a recipe, or give --tools")
    paths = [find(target) for target in targets]
    own_tools = _own_tools(paths) if tools else None
    tools_path = tools_lock_path(paths[0] if paths else Path("recipes/any.yaml"))
    if only_check:
        if not paths:
            raise UsageError("--check is about recipes' locks: name a recipe")
        for path in paths:
            recipe = load(path)
            check(recipe, read_lock(recipe.lock_path), _current(recipe))
            click.echo(f"ok {recipe.name}")
        return
    _check_named(packages, paths, tools_path if tools else None)
    store = Store()
    sources = [Pool.parse(pool) for pool in pools]
    moved = () if upgrade else packages or None
    solver = Solver(tools=_apt(apt, tools_path, store, sources), allow_expired=allow_expired, upgrade=moved)
    if refresh_to is not None:
        if len(paths) != 1 or tools or moved is not None:
            raise UsageError("--refresh-to goes with one recipe, and with neither --tools nor upgrades")
        _refresh(paths[0], refresh_to, solver, apt, store, sources)
        return
    if own_tools is not None:
        before = read_tools_lock(tools_path) if tools_path.is_file() else None
        first = solver if before else Solver(tools=host_tools, allow_expired=allow_expired)
        after = make_tools_lock(before, store, first)
        if fetch and after == before:
            after = mended(store, after, solver, sources)
        _write(own_tools, before, after, store, sources, fetch=fetch)
    for path in paths:
        recipe = load(path)
        previous = read_lock(recipe.lock_path) if recipe.lock_path.is_file() else None
        with step(f"Locking {recipe.name}"):
            made = make_lock(recipe, _current(recipe), previous, store, solver)
            _write(recipe.lock_path, previous, made, store, sources, fetch=fetch)


def _check_named(names: Sequence[str], paths: Sequence[Path], tools_path: Path | None) -> None:
    """``UsageError`` for a package to upgrade that no lock has: nothing would move, and nobody would know."""
    locks: list[Lock | ToolsLock] = [
        read_lock(path) for path in (load(each).lock_path for each in paths) if path.is_file()
    ]
    if tools_path is not None and tools_path.is_file():
        locks.append(read_tools_lock(tools_path))
    known = {package.name for each in locks for package in each.packages}
    known |= {package.name for each in locks if isinstance(each, Lock) for package in each.firmware}
    for name in names:
        if name not in known and not any(each.kernel.is_image(name) for each in DISTRIBUTIONS.values()):
            near = difflib.get_close_matches(name, known, n=3)
            guess = f"did you mean {' or '.join(f'`{other}`' for other in near)}?" if near else None
            raise UsageError(f"--upgrade-package {name}: no such package is locked", hint=guess)


def _current(recipe: Recipe) -> Current:
    return current_inputs(recipe, images_folder(), tools_lock_path(recipe.path))


def _own_tools(paths: Sequence[Path]) -> Path:
    """The tools lock that `--tools` renews: beside the recipe that is named first, else in `recipes/` here."""
    if not paths and not Path("recipes").is_dir():
        raise UsageError(
            "whose tools lock? No recipe is named, and there is no `recipes/` here",
            hint="name a recipe, or start one with `privml-build init NAME`",
        )
    return paths[0].with_name("tools.lock.json") if paths else Path("recipes/tools.lock.json")


def _refresh(path: Path, target: Path, solver: Solver, apt: str, store: Store, pools: Sequence[Pool]) -> None:
    """Write ``target``: the committed lock with what is gone replaced, and its tools lock if that had to move."""
    recipe = load(path)
    if not target.name.endswith(".lock.json") or target.resolve() == recipe.lock_path.resolve():
        raise UsageError(
            f"--refresh-to {target}: expected a new file beside the lock, named ...lock.json",
            hint=f"as in `privml-build lock {recipe.name} --refresh-to out/locks/{recipe.name}.lock.json`",
        )
    committed = read_lock(recipe.lock_path)
    tools_path = tools_lock_path(path)
    check(recipe, committed, _current(recipe))
    tools_before = read_tools_lock(tools_path)
    tools_after = mended(store, tools_before, solver, pools)
    digest = committed.tools_sha256
    own = own_tools_lock(target)
    if tools_after != tools_before:
        _tell(tools_before, tools_after)
        write_lock(own, tools_after)
        digest = sha256_file(own)
    else:
        own.unlink(missing_ok=True)
    if apt == "tree":
        solver = replace(
            solver, tools=lambda distribution: tree_apt(tools_tree(store, tools_after, pools), distribution)
        )

    def fetch_packages(packages: Sequence[Package]) -> int:
        return bring(store, packages, pools=pools, mirrors=solver.mirrors)

    bring(store, (), committed.wheels, pools=pools)
    with step(f"Refreshing the lock of {recipe.name}"):
        after = refresh(recipe, committed, store, solver, fetch_packages)
    after = after.model_copy(update={"tools_sha256": digest})
    if after == committed:
        say("nothing is gone")
    _tell(committed, after)
    fetch_packages((*after.packages, *after.firmware))
    click.echo(f"{'wrote' if write_lock(target, after) else 'unchanged'} {target}")


def _tell(before: Lock | ToolsLock | None, after: Lock | ToolsLock) -> None:
    for line in (*changes(before, after), *moves(before, after)):
        say(line)


def _write(
    path: Path,
    before: Lock | ToolsLock | None,
    after: Lock | ToolsLock,
    store: Store,
    pools: Sequence[Pool],
    *,
    fetch: bool,
) -> None:
    _tell(before, after)
    if is_installed(path) and (not path.is_file() or path.read_bytes() != serialise(after)):
        raise UsageError(
            f"{path.name} belongs to the installed privml-build, which stays as it is",
            hint=f"make a recipe of your own: `privml-build init NAME --from {path.name.removesuffix('.lock.json')}`"
            if isinstance(after, Lock)
            else "name a recipe of your own: `privml-build lock --tools NAME`",
        )
    if fetch:
        if isinstance(after, Lock):
            bring(store, (*after.packages, *after.firmware), after.wheels, pools=pools)
        else:
            bring(store, after.packages, pools=pools)
    click.echo(f"{'wrote' if write_lock(path, after) else 'unchanged'} {path}")


def _apt(choice: str, tools_path: Path, store: Store, pools: Sequence[Pool]) -> Callable[[Distribution], AptTools]:
    def tree(distribution: Distribution) -> AptTools:
        try:
            return tree_apt(tools_tree(store, read_tools_lock(tools_path), pools), distribution)
        except GoneError as gone:
            gone.hint = "renew what is gone of the tools with `privml-build lock --tools`, or solve with --apt host"
            raise

    return host_tools if choice == "host" else tree
