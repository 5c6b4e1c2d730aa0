"""Which packages of its distribution a recipe's guest is made of."""

from __future__ import annotations

from privml.recipe.loader import Recipe

ENGINES = {"llama-server": ("llama.cpp-tools",)}


def guest_packages(recipe: Recipe) -> tuple[str, ...]:
    """What to ask apt for; the kernel's metapackage is narrowed to its parts when the lock is made."""
    inference = recipe.content.inference
    engine = () if inference is None else ENGINES[inference.engine]
    common = recipe.content.base.record.distribution.packages.guest
    return (*common, *engine, recipe.content.kernel.package)


def firmware_packages(recipe: Recipe) -> tuple[str, ...]:
    """The package that the firmware file is taken from; nothing of it enters the guest."""
    return (recipe.content.firmware.package,)
