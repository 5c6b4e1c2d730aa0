"""The packages and models that a recipe asks for."""

from __future__ import annotations

from dataclasses import dataclass

from privml.engines.registry import engine_named
from privml.recipe.inference import Model
from privml.recipe.loader import Recipe
from privml.recipe.python import pinned


@dataclass(frozen=True)
class Request:
    """A package requested by name; with ``suite``, only from that suite, or the added archive with that label."""

    name: str
    suite: str | None = None

    def __str__(self) -> str:
        return self.name if self.suite is None else f"{self.name}/{self.suite}"

    @staticmethod
    def parse(text: str) -> Request:
        """The inverse of ``str``, the format of requests in locks."""
        name, _, suite = text.partition("/")
        return Request(name, suite or None)


def guest_packages(recipe: Recipe) -> tuple[Request, ...]:
    """The requests to apt; the kernel's metapackage is replaced by its parts when the lock is made."""
    common = (*recipe.content.base.record.distribution.packages.guest, *engine_packages(recipe))
    kernel = recipe.content.kernel
    added = [name for name in recipe.content.named_packages if name not in common]
    gpu = recipe.content.gpu
    needed = () if gpu is None else (*gpu.record.guest, *(gpu.board.guest if gpu.board else ()))
    added += [name for name in needed if name not in (*common, *added)]
    others = (Request(name, label) for name, label in recipe.content.archive_packages)
    return (*map(Request, common), Request(kernel.package, kernel.suite), *map(Request, added), *others)


def engine_packages(recipe: Recipe) -> tuple[str, ...]:
    """The engine's packages, the first of which has its version; empty without inference."""
    inference = recipe.content.inference
    return () if inference is None else engine_named(inference.engine.name).packages


def firmware_packages(recipe: Recipe) -> dict[str, Request]:
    """The firmware package of each TEE; these packages are not installed in the guest."""
    return {tee: Request(chosen.package, chosen.suite) for tee, chosen in recipe.content.firmware.items()}


def pinned_version(recipe: Recipe) -> str:
    """The version of the engine's wheel that the recipe pins; empty for an engine that is not from wheels."""
    inference, wheels = recipe.content.inference, recipe.content.python
    engine = None if inference is None else engine_named(inference.engine.name)
    if engine is None or engine.wheels is None or wheels is None:
        return ""
    return pinned(wheels, engine.wheels.requirement)


def models_in(recipe: Recipe) -> tuple[Model, ...]:
    """The recipe's models; empty without inference."""
    inference = recipe.content.inference
    return () if inference is None else tuple(inference.models)


def model_format(recipe: Recipe) -> str:
    """The format of the engine's models."""
    inference = recipe.content.inference
    assert inference is not None
    return engine_named(inference.engine.name).model_format


def models_are_folders(recipe: Recipe) -> bool:
    """True if the engine's models are all files of a folder, false if each is a file, which may be split."""
    inference = recipe.content.inference
    assert inference is not None
    return engine_named(inference.engine.name).model_entry is not None


def model_pattern(recipe: Recipe, number: int) -> str:
    """The pattern of a model's file in its wheel: the recipe's, else the engine's file format."""
    inference = recipe.content.inference
    assert inference is not None
    return inference.models[number].file or engine_named(inference.engine.name).model_file
