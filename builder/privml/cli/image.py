"""`image`: build an image."""

from __future__ import annotations

import json
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.steps import say, step
from privml.cli.context import Workplace, recipes_directory, refresh_hint, resolve
from privml.store.fetch import GoneError
from privml.store.pools import Pool


@click.command()
@click.argument("target")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to put it (default: out/NAME).")
@click.option("--force", is_flag=True, help="Build again even when nothing has changed.")
@click.option(
    "--lock", "lock_file", type=click.Path(path_type=Path), help="Build by this lock, from `lock --refresh-to`."
)
@click.option("--pool", "pools", multiple=True, metavar="DIR|URL", help="Where missing inputs are looked for first.")
@click.option(
    "--render-only",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Only write what mkosi would be given to DIR, which must be new or empty.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's facts as JSON.")
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
    """Build TARGET: uki.efi, root.raw, model.raw, firmware.fd, manifest.json and prediction.json.

    Beside them lie sbom.cdx.json and provenance.json: what is inside, and what it was made from.

    Inputs come from the store, then from pools (folders or addresses with files named sha256/ab/cdef...), then from
    this host's mirrors.

    \b
    privml-build image demo-cpu
    privml-build image recipes/demo-cpu-dev.yaml -o /tmp/dev
    privml-build image demo-cpu --render-only /tmp/tree
    """
    from privml.image import build as room
    from privml.vm.predicted import has_prediction, predict_image, write_prediction

    found = resolve(target, output)
    if found.recipe is None:
        raise UsageError(f"`{target}` is a built image", hint="give the recipe that it is to be built from")
    place = Workplace([Pool.parse(pool) for pool in pools], lock_file)
    recipe, lock = place.recipe_and_lock(found.recipe)
    refreshed = place.is_refreshed(recipe, lock)
    try:
        tools = place.tools(found.recipe)
        if render_only is not None:
            room.render_only(recipe, lock, place.store, tools, render_only, pools=place.pools)
            files = sum(path.is_file() or path.is_symlink() for path in render_only.rglob("*"))
            told = json.dumps({"directory": str(render_only), "files": files})
            click.echo(told if as_json else f"wrote {render_only}")
            return
        built = room.build(
            recipe,
            lock,
            place.store,
            tools,
            found.directory,
            force=force,
            refreshed=refreshed,
            pools=place.pools,
        )
    except GoneError as gone:
        gone.hint = f"give a pool that has them (--pool); or {refresh_hint(recipe.name, 'image')}"
        raise
    if refreshed:
        say(f"built by {lock_file}, not by the committed lock: the manifest says `refreshed`")
    if not (built.cached and has_prediction(built.directory, built.manifest)):
        with step("Predicting its registers"):
            recipes = recipes_directory(found)
            predicate = predict_image(tools, place.store.root, built.directory, built.manifest, recipes)
            write_prediction(built.directory, built.manifest, predicate)
    artefacts = {name: vars(artefact) for name, artefact in built.manifest.artefacts.items()}
    if as_json:
        facts = {
            "directory": str(built.directory),
            "cached": built.cached,
            "root_hash": built.manifest.root.root_hash,
        }
        click.echo(json.dumps({**facts, "artefacts": artefacts}, indent=2, sort_keys=True))
        return
    for name, artefact in sorted(artefacts.items()):
        click.echo(f"{artefact['sha256']}  {built.directory / name}  {artefact['size'] / 1e6:.1f} MB")
    click.echo(f"root hash {built.manifest.root.root_hash}")
