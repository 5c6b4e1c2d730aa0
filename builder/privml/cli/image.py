"""`image`: build an image."""

from __future__ import annotations

import json
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.steps import step
from privml.cli.context import Workplace, recipes_directory, resolve


@click.command()
@click.argument("target")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to put it (default: out/NAME).")
@click.option("--force", is_flag=True, help="Build again even when nothing has changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's facts as JSON.")
def image(target: str, *, output: Path | None, force: bool, as_json: bool) -> None:
    """Build TARGET: uki.efi, root.raw, model.raw, firmware.fd, manifest.json and prediction.json.

    Beside them lie sbom.cdx.json and provenance.json: what is inside, and what it was made from.

    \b
    privml-build image demo-cpu
    privml-build image recipes/demo-cpu-dev.yaml -o /tmp/dev
    """
    from privml.image.build import build
    from privml.vm.predicted import has_prediction, predict_image, write_prediction

    found = resolve(target, output)
    if found.recipe is None:
        raise UsageError(f"`{target}` is a built image", hint="give the recipe that it is to be built from")
    place = Workplace()
    recipe, lock = place.recipe_and_lock(found.recipe)
    built = build(recipe, lock, place.store, place.tools(found.recipe), found.directory, force=force)
    tools = place.tools(found.recipe)
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
