"""`image`: build an image."""

from __future__ import annotations

import errno
import os
import shutil
from functools import partial
from pathlib import Path

import click

from privml.base.errors import BuildError, HostError, UsageError
from privml.base.steps import say
from privml.cli.completion import TARGET
from privml.cli.output import print_json, show
from privml.image import build as room
from privml.image.target import check_output, recipes_directory, resolve
from privml.image.workplace import Workplace
from privml.lock.locate import tools_lock_path
from privml.lock.refresh import refresh_hint
from privml.store.fetch import GoneError
from privml.store.pools import Pool
from privml.vm.predicted import ImagePredictor

_ROOM = "free some space, or choose another directory with --output; `privml-build doctor` says how much is needed"


@click.command()
@click.argument("target", type=TARGET)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The directory to build into (default: out/NAME).",
)
@click.option("--force", is_flag=True, help="Rebuild even when nothing has changed.")
@click.option(
    "--lock", "lock_file", type=click.Path(path_type=Path), help="Build from this lock, made by `lock --refresh-to`."
)
@click.option(
    "--pool", "pools", multiple=True, metavar="DIR|URL", help="Look here first for missing inputs; repeatable."
)
@click.option(
    "--render-only",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Build nothing; write the mkosi configuration to DIR, which must be new or empty.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON.")
def image(
    target: str,
    *,
    output: Path | None,
    force: bool,
    lock_file: Path | None,
    pools: tuple[str, ...],
    render_only: Path | None,
    as_json: bool,
) -> None:
    """Build TARGET into out/NAME: UKI, root and model volumes, firmware, manifest, prediction, SBOM and provenance.

    TARGET is a recipe's name or file. Only what its lock names is used: from the store, then from pools (folders or
    web addresses with files named sha256/ab/cdef...), then from the mirrors of this machine.

    \b
    Examples:
      privml-build image demo-cpu
      privml-build image recipes/demo-cpu-dev.yaml -o /tmp/dev
      privml-build image demo-cpu --render-only /tmp/tree
    """
    found = resolve(target, output)
    if found.recipe is None:
        raise UsageError(f"`{target}` is a built image", hint="give a recipe's name or file")
    if render_only is None:
        check_output(found.directory)
    place = Workplace([Pool.parse(pool) for pool in pools], lock_file)
    recipe, lock = place.recipe_and_lock(found.recipe)
    refreshed = place.is_refreshed(recipe, lock)
    order = room.Order(
        recipe=recipe,
        lock=lock,
        tools_lock=tools_lock_path(found.recipe, lock_file),
        store=place.store,
        tools=partial(place.tools, found.recipe),
        predictor=ImagePredictor(place.store.root, recipes_directory(found)),
        refreshed=refreshed,
        pools=place.pools,
    )
    try:
        if render_only is not None:
            room.render_only(order, render_only)
            files = sum(path.is_file() or path.is_symlink() for path in render_only.rglob("*"))
            if as_json:
                print_json({"directory": str(render_only), "files": files})
            else:
                show(f"wrote {render_only}")
            return
        built = room.build(order, found.directory, force=force)
    except (BuildError, HostError) as error:
        if os.strerror(errno.ENOSPC) in error.message:
            raise HostError(f"{error.message}\n{_no_room(found.directory)}", hint=_ROOM) from error
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HostError(_no_room(found.directory), hint=_ROOM) from error
    except GoneError as gone:
        gone.hint = f"give a pool that has them with --pool, or {refresh_hint(recipe.name, 'image')}"
        raise
    if refreshed:
        say(f"built from {lock_file}, not from the committed lock, so the manifest says `refreshed`")
    artefacts = {name: vars(artefact) for name, artefact in built.manifest.artefacts.items()}
    if as_json:
        steps = {name: {"cached": not why, "because": list(why)} for name, why in built.because.items()}
        print_json(
            {
                "directory": str(built.directory),
                "cached": built.cached,
                "steps": steps,
                "root_hash": built.manifest.root.root_hash.hex(),
                "artefacts": artefacts,
            }
        )
        return
    for name, artefact in sorted(artefacts.items()):
        show(f"{artefact['sha256']}  {built.directory / name}  {artefact['size'] / 1e6:.1f} MB")
    show(f"root hash {built.manifest.root.root_hash.hex()}")


def _no_room(directory: Path) -> str:
    """The error for a build that filled the file system of its output; its files are removed by then."""
    place = directory.absolute().parent
    free = shutil.disk_usage(place).free / (1 << 20) if place.is_dir() else 0
    return f"no space left on the file system of {place} while building there; {free:.0f} MiB are free again"
