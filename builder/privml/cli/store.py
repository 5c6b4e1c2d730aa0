"""`store`: show, check, export, import and clean the content-addressed store."""

from __future__ import annotations

from pathlib import Path

import click

from privml.base.errors import HostError, InputsError, UsageError
from privml.base.steps import progress, say
from privml.cli import paths
from privml.cli.completion import TARGET
from privml.cli.output import show
from privml.cli.usage import Verb
from privml.image.unpack import tree_key
from privml.lock.contents import bring_all, kept
from privml.lock.locate import folder_of, known_locks, locks_of
from privml.lock.lockfile import read_any_lock
from privml.lock.models import ToolsLock
from privml.lock.tables import bring_tables, known_tables, tables_of
from privml.recipe.loader import find, load, platforms_of, shipped
from privml.store.objects import Store
from privml.store.pools import export as write_pool
from privml.store.pools import take_in
from privml.store.sweep import sweep

MIB = 1 << 20


@click.group(cls=Verb, subcommand_metavar="VERB ...")
def store() -> None:
    """Manage the input store: the bytes that locks name, in files named by their SHA-256.

    It is in $PRIVML_STORE, by default in the XDG cache.

    \b
    Examples:
      privml-build store size
      privml-build store verify
      privml-build store export demo-cpu /media/pool
      privml-build store import /media/pool
      privml-build store gc --dry-run
    """


@store.command()
def size() -> None:
    """Print where the store is, and how much it holds.

    \b
    Example:
      privml-build store size
    """
    found = _opened()
    count, total = found.size()
    show(f"{found.root}: {count} objects, {total / MIB:.1f} MiB")


@store.command()
def verify() -> None:
    """Check every object against its name. Damaged ones are named and removed.

    \b
    Example:
      privml-build store verify
    """
    found = _opened()
    damaged = []
    count = 0
    for count, digest in enumerate(found.digests(), 1):
        progress(f"{count} objects")
        try:
            found.path(digest, verify=True)
        except InputsError as error:
            damaged.append(error.message)
    if damaged:
        raise InputsError("\n".join(damaged), hint="run `privml-build lock NAME` to fetch them again")
    show(f"ok {count} objects")


@store.command()
@click.argument("target", type=TARGET)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def export(target: str, folder: Path) -> None:
    """Copy all inputs of TARGET into FOLDER, a pool for `--pool`.

    TARGET is a recipe or a lock file. What the store lacks is fetched first.

    \b
    Example:
      privml-build store export demo-cpu /media/pool
    """
    found = _opened()
    locks = locks_of(target)
    bring_all(found, locks, folder=folder_of(target))
    if target.endswith(".lock.json"):
        tables = {one for one in known_tables([folder_of(target)]) if found.has(one)}
    else:
        platforms = platforms_of(load(find(target)))
        bring_tables(found, platforms, folders=[folder_of(target)])
        tables = {item.sha256 for item in tables_of(platforms)}
    copied, total = write_pool(found, kept(locks, found) | tables, folder)
    show(f"{folder}: {copied} objects written, {total / MIB:.1f} MiB")


@store.command("import", short_help="Copy the objects of a pool into the store.")
@click.argument("folder", type=paths.Existing("the folder of a pool", directory=True))
def import_(folder: Path) -> None:
    """Copy the objects of a pool into the store, each checked against its name.

    \b
    Example:
      privml-build store import /media/pool
    """
    if not (folder / "sha256").is_dir():
        raise UsageError(
            f"{folder} is not a pool: it has no folder `sha256`", hint="make one with `privml-build store export`"
        )
    new, total = take_in(_opened(), folder)
    show(f"{new} new objects, {total / MIB:.1f} MiB")


@store.command()
@click.argument("locks", nargs=-1, type=paths.Existing("a lock file"))
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
def gc(locks: tuple[Path, ...], *, dry_run: bool) -> None:
    """Remove files that no lock needs.

    Removes objects, tools trees, and temporary files of killed commands older than a day. Without LOCKS, keeps what
    the locks in recipes/, in this directory, in the directories of out/ and in privml-build itself need. The tables
    of the platforms next to them stay.

    \b
    Examples:
      privml-build store gc --dry-run
      privml-build store gc recipes/demo-cpu.lock.json recipes/tools.lock.json
    """
    found = _opened()
    named = locks or tuple(known_locks())
    if not named:
        raise UsageError("no lock was found, so everything would be removed", hint="name the locks to keep")
    needed = [read_any_lock(path) for path in named]
    for path in named:
        say(f"keeping the inputs of {path}")
    trees = {tree_key(each.packages) for each in needed if isinstance(each, ToolsLock)}
    tables = known_tables({path.parent for path in named} | {Path("recipes"), Path(), shipped()})
    swept = sweep(found, kept(needed, found) | tables, trees, dry_run=dry_run)
    show(
        f"{'would remove' if dry_run else 'removed'} {len(swept.objects)} objects, {len(swept.trees)} tools trees, "
        f"{len(swept.temporary)} leftovers: {swept.bytes / MIB:.1f} MiB"
    )


def _opened() -> Store:
    """The store; ``HostError`` when its path is not a directory, which would look like an empty store."""
    found = Store()
    if found.root.exists() and not found.root.is_dir():
        raise HostError(f"the store {found.root} is not a folder", hint="set PRIVML_STORE to a folder")
    return found
