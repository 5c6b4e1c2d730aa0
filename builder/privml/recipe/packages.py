"""Which packages of its distribution a recipe's guest is made of."""

from __future__ import annotations

from privml.recipe.loader import Recipe

ENGINES = {"llama-server": ("llama.cpp-tools",)}


def guest_packages(recipe: Recipe) -> tuple[str, ...]:
    """What to ask apt for; the kernel's metapackage is narrowed to its parts when the lock is made."""
    common = recipe.content.base.record.distribution.packages.guest
    return (*common, *engine_packages(recipe), recipe.content.kernel.package)


def engine_packages(recipe: Recipe) -> tuple[str, ...]:
    """The engine's packages, of which the first has its version; none without inference."""
    inference = recipe.content.inference
    return () if inference is None else ENGINES[inference.engine.name]


def firmware_packages(recipe: Recipe) -> tuple[str, ...]:
    """The packages that firmware is taken from; nothing of them enters the guest."""
    return tuple(chosen.package for chosen in recipe.content.firmware.values())
