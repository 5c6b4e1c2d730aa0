"""`lock`: name every input of a recipe by its digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.run import Completed
from privml.base.steps import say, step
from privml.image import tools as tools_room
from privml.lock.apt import AptTools, described, host_tools
from privml.lock.changes import changes
from privml.lock.make import Solver, bring, check, current_inputs, make_lock, make_tools_lock
from privml.lock.models import Lock, ToolsLock, read_lock, read_tools_lock, write_lock
from privml.lock.trees import images_folder
from privml.recipe.loader import find, load, shipped
from privml.store.objects import Store


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--tools", is_flag=True, help="Renew the lock of the tools tree too (before the recipes').")
@click.option(
    "--check", "only_check", is_flag=True, help="Only say whether the locks are up to date (exit 4 if not)."
)
@click.option("--upgrade", is_flag=True, help="Take the newest version of every package.")
@click.option("--upgrade-package", "packages", multiple=True, metavar="NAME", help="Take the newest version of NAME.")
@click.option("--allow-expired", is_flag=True, help="Accept an archive whose Valid-Until has passed, and record it.")
@click.option("--apt", type=click.Choice(["tree", "host"]), default="tree", help="Whose apt solves and checks.")
@click.option("--fetch/--no-fetch", default=True, help="Also bring the locked bytes into the store.")
def lock(
    targets: tuple[str, ...],
    *,
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
    """
    if not targets and not tools:
        raise UsageError("nothing to lock: name a recipe, or give --tools")
    paths = [find(target) for target in targets]
    tools_path = tools_lock_path(paths[0] if paths else shipped() / "any.yaml")
    if only_check:
        for path in paths:
            recipe = load(path)
            check(recipe, read_lock(recipe.lock_path), current_inputs(recipe, images_folder(), tools_path))
            click.echo(f"ok {recipe.name}")
        return
    store = Store()
    moved = () if upgrade else packages or None
    solver = Solver(tools=_apt(apt, tools_path, store), allow_expired=allow_expired, upgrade=moved)
    if tools:
        before = read_tools_lock(tools_path) if tools_path.is_file() else None
        first = solver if before else Solver(tools=host_tools, allow_expired=allow_expired)
        _write(tools_path, before, make_tools_lock(before, store, first), store, fetch=fetch)
    for path in paths:
        recipe = load(path)
        previous = read_lock(recipe.lock_path) if recipe.lock_path.is_file() else None
        with step(f"Locking {recipe.name}"):
            current = current_inputs(recipe, images_folder(), tools_path)
            _write(
                recipe.lock_path, previous, make_lock(recipe, current, previous, store, solver), store, fetch=fetch
            )


def tools_lock_path(recipe: Path) -> Path:
    """The tools lock that belongs to a recipe: the one beside it, else the one that privml-build ships."""
    beside = recipe.with_name("tools.lock.json")
    return beside if beside.is_file() else shipped() / "tools.lock.json"


def _write(
    path: Path, before: Lock | ToolsLock | None, after: Lock | ToolsLock, store: Store, *, fetch: bool
) -> None:
    for line in changes(before, after):
        say(line)
    if fetch:
        if isinstance(after, Lock):
            bring(store, (*after.packages, *after.firmware), after.wheels)
        else:
            bring(store, after.packages)
    click.echo(f"{'wrote' if write_lock(path, after) else 'unchanged'} {path}")


def _apt(choice: str, tools_path: Path, store: Store) -> Callable[[], AptTools]:
    def tree() -> AptTools:
        known = read_tools_lock(tools_path)
        bring(store, known.packages)
        found = tools_room.ensure(store, known)
        names = tools_room.Bind(Path("/etc/resolv.conf"), "/etc/resolv.conf")

        def run(argv: list[str], binds: Mapping[str, str]) -> Completed:
            folders = [tools_room.Bind(Path(outside), inside, writable=True) for outside, inside in binds.items()]
            return found.run(argv, binds=[*folders, names], network=True, timeout=600, what=described(argv))

        return AptTools(run, "/usr/share/keyrings/debian-archive-keyring.gpg", "the tools tree's apt")

    return host_tools if choice == "host" else tree
