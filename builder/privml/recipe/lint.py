"""What is wrong with a recipe beyond its own fields: its platforms must exist and fit it."""

from __future__ import annotations

from collections import Counter

from privml.base.errors import RecipeError
from privml.recipe.loader import Recipe, load_platform, shipped
from privml.recipe.platform import PlatformFile
from privml.recipe.validation import mark_of


def platforms_of(recipe: Recipe) -> list[PlatformFile]:
    """The recipe's platforms, from beside it or else from those that privml-build ships."""
    found = []
    for index, name in enumerate(recipe.content.platforms):
        beside = recipe.path.parent / "platforms" / f"{name}.yaml"
        directory = recipe.path.parent if beside.is_file() else shipped()
        try:
            found.append(load_platform(name, directory))
        except RecipeError as error:
            if error.hint is None:
                raise
            mark = mark_of(("platforms", index), recipe.source)
            raise RecipeError(f"{mark}: platforms[{index}]: {error.message}", hint=error.hint) from error
    return found


def lint(recipe: Recipe) -> list[str]:
    """Problems, one line each; none when the recipe is right."""
    content = recipe.content
    declared = {device.kind: device.count for device in content.devices}
    problems = []
    for index, platform in enumerate(platforms_of(recipe)):
        where = f"{mark_of(('platforms', index), recipe.source)}: platforms[{index}]"
        if platform.tpm and content.variant == "production":
            problems.append(f"{where}: `{platform.name}` has a TPM, which only a development recipe may have")
        has = Counter(device.kind for device in platform.devices)
        for kind in sorted(declared.keys() | has.keys()):
            if declared.get(kind, 0) != has.get(kind, 0):
                problems.append(
                    f"{mark_of(('devices',), recipe.source)}: devices: {declared.get(kind, 0)} {kind}, but "
                    f"`{platform.name}` has {has.get(kind, 0)}"
                )
    if declared.get("virtio-blk", 0) != 2:
        problems.append(
            f"{mark_of(('devices',), recipe.source)}: devices: expected `virtio-blk: 2`, for root and model"
        )
    return problems
