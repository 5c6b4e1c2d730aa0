"""The inputs of a reproduction: a recipe with its lock, or an image with the locks next to it."""

from __future__ import annotations

from privml.base.errors import InputsError, UsageError
from privml.image import madeby
from privml.image.target import Target
from privml.image.volumekeys import VolumeKeys
from privml.image.workplace import Workplace
from privml.lock.locate import inputs_now, tools_lock_path
from privml.lock.make import check
from privml.lock.models import Lock
from privml.recipe.loader import Recipe, find, load
from privml.repro.legs import Inputs


def inputs_of(place: Workplace, target: Target, volumes: VolumeKeys | None = None) -> tuple[Recipe, Lock, Inputs]:
    """The recipe and lock for rebuilding ``target``, with its encrypted volumes from ``volumes``.

    ``UsageError`` if a built image lacks its locks, ``InputsError`` if its recipe has changed since.
    """
    taken = volumes or VolumeKeys()
    if target.recipe is not None:
        recipe, lock = place.recipe_and_lock(target.recipe)
        path = place.lock_file or recipe.lock_path
        tools_lock = tools_lock_path(target.recipe, place.lock_file)
        refreshed = place.is_refreshed(recipe, lock)
        return recipe, lock, Inputs(target.recipe, path, tools_lock, refreshed, taken)
    manifest = target.manifest()
    made = madeby.read(target.directory, manifest)
    if made is None:
        raise UsageError(
            f"{target.directory} does not contain the locks it was built with",
            hint=f"name the recipe: `privml-build repro {manifest.name}`",
        )
    recipe = load(find(manifest.name))
    if recipe.digest != manifest.recipe_sha256:
        raise InputsError(
            f"{recipe.path} changed since {target.directory} was built from it: got {recipe.digest}, expected "
            f"{manifest.recipe_sha256}",
            hint="restore that version of the recipe",
        )
    check(recipe, made.lock, inputs_now(recipe, made.tools_path), path=made.lock_path)
    return recipe, made.lock, Inputs(recipe.path, made.lock_path, made.tools_path, manifest.refreshed, taken)
