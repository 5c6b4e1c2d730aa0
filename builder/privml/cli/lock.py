"""`lock`: name every input of a recipe by its digest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from privml.base.errors import UsageError
from privml.cli.completion import TARGET
from privml.cli.output import show
from privml.image.relock import Relocking, check_upgrades
from privml.lock.apttools import OPTION, SECONDS
from privml.lock.locate import inputs_now, tools_lock_path
from privml.lock.lockfile import read_lock
from privml.lock.make import check
from privml.recipe.loader import find, load
from privml.store.objects import Store
from privml.store.pools import Pool


@click.command()
@click.argument("targets", nargs=-1, type=TARGET, metavar="[TARGET]...")
@click.option(
    "--tools",
    is_flag=True,
    help="Also lock the build tools, in tools.lock.json next to the recipe (without TARGET: only the tools).",
)
@click.option(
    "--check", "only_check", is_flag=True, help="Write nothing; exit with status 4 when a lock is out of date."
)
@click.option("--upgrade", is_flag=True, help="Use the newest version of every package.")
@click.option(
    "--upgrade-package",
    "packages",
    multiple=True,
    metavar="NAME",
    help="Use the newest version of this package; repeatable.",
)
@click.option(
    "--allow-expired", is_flag=True, help="Accept an archive after its Valid-Until date, and record that in the lock."
)
@click.option(
    "--apt",
    type=click.Choice(["tree", "host"]),
    default="tree",
    help="Which apt resolves packages: that of the locked tools tree, or the host's.",
)
@click.option(
    "--refresh-to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep the lock. Write a copy to FILE that replaces only inputs that are no longer available.",
)
@click.option(
    "--pool", "pools", multiple=True, metavar="DIR|URL", help="Look here first for missing inputs; repeatable."
)
@click.option(
    OPTION,
    "seconds",
    type=click.IntRange(1, 86400),
    default=int(SECONDS),
    show_default=True,
    metavar="SECONDS",
    help="Longest time for apt to fetch the package lists of an archive from one of its mirrors.",
)
@click.option(
    "--fetch/--no-fetch", default=True, help="Also download the locked inputs into the store (the default)."
)
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
    apt: Literal["tree", "host"],
    fetch: bool,
    seconds: int,
) -> None:
    """Write recipes/NAME.lock.json: every input with its SHA-256. Package versions stay unless you upgrade them.

    Debian packages come from the mirrors that apt on this machine uses, or from those in
    $XDG_CONFIG_HOME/privml-build/mirrors.yaml (for example `debian: [https://mirror.example.invalid/debian]`), which
    also has the addresses of a recipe's `archives`, by label. Python wheels come from the index that pip on this
    machine uses. Models of a hub come from `hub:` in mirrors.yaml, else from $HF_ENDPOINT.

    \b
    Examples:
      privml-build lock demo-cpu
      privml-build lock demo-cpu --check
      privml-build lock demo-cpu --upgrade-package systemd
      privml-build lock demo-cpu --tools --upgrade
      privml-build lock demo-cpu --upgrade --timeout 1800        on a slow line
      privml-build lock demo-cpu --refresh-to out/locks/demo-cpu.lock.json
    """
    if not targets and not tools:
        raise UsageError("name a recipe to lock, or give --tools")
    paths = [find(target) for target in targets]
    own_tools = _own_tools(paths) if tools else None
    tools_path = tools_lock_path(paths[0] if paths else Path("recipes/any.yaml"))
    if only_check:
        if not paths:
            raise UsageError("--check needs the name of a recipe")
        for path in paths:
            recipe = load(path)
            check(recipe, read_lock(recipe.lock_path), inputs_now(recipe))
            show(f"ok {recipe.name}")
        return
    check_upgrades(packages, paths, tools_path if tools else None)
    moving = () if upgrade else packages or None
    work = Relocking(
        Store(),
        [Pool.parse(pool) for pool in pools],
        tools_path,
        apt=apt,
        upgrade=moving,
        allow_expired=allow_expired,
        fetch=fetch,
        seconds=seconds,
    )
    if refresh_to is not None:
        if len(paths) != 1 or tools or moving is not None:
            raise UsageError("--refresh-to needs exactly one recipe, and neither --tools nor an upgrade")
        _done(refresh_to, changed=work.refresh(load(paths[0]), refresh_to))
        return
    if own_tools is not None:
        _done(own_tools, changed=work.lock_tools(own_tools))
    for path in paths:
        recipe = load(path)
        _done(recipe.lock_path, changed=work.lock(recipe))


def _done(path: Path, *, changed: bool) -> None:
    show(f"{'wrote' if changed else 'unchanged'} {path}")


def _own_tools(paths: list[Path]) -> Path:
    """The tools lock that `--tools` renews: next to the first recipe named, else in `recipes/` here."""
    if not paths and not Path("recipes").is_dir():
        raise UsageError(
            "--tools without a recipe needs a folder `recipes`, which is not here",
            hint="name a recipe, or start one with `privml-build init NAME`",
        )
    return paths[0].with_name("tools.lock.json") if paths else Path("recipes/tools.lock.json")
