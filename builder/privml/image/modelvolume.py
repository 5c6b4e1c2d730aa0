"""Model volumes: one file of a locked wheel in an erofs filesystem under dm-verity.

A model's bytes, name and times decide the volume's; recipes that carry the same model share it, byte for byte.
"""

from __future__ import annotations

import fnmatch
import zipfile
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import InputsError
from privml.events.verity import Verity
from privml.image import render, volume
from privml.image.tools import ToolsTree
from privml.lock.models import Lock
from privml.output.artefacts import model_partition, model_volume
from privml.recipe.loader import Recipe
from privml.recipe.models import MODEL_FILES, Model
from privml.store.objects import Store


@dataclass(frozen=True)
class ModelVolume:
    """A model's name, its file in the volume, and the volume's dm-verity parameters."""

    name: str
    file: str
    verity: Verity


def models_of(recipe: Recipe) -> tuple[Model, ...]:
    """The models of a recipe, in the order of their volumes; none for an image that only attests."""
    inference = recipe.content.inference
    return () if inference is None else tuple(inference.models)


def pattern_of(recipe: Recipe, model: Model) -> str:
    """The pattern of a model's file in its wheel: the recipe's, else the kind of file that the engine takes."""
    inference = recipe.content.inference
    assert inference is not None
    return model.file or MODEL_FILES[inference.engine.name]


def make(
    recipe: Recipe, number: int, lock: Lock, store: Store, tools: ToolsTree, work: Path, out: Path
) -> ModelVolume:
    """Make the volume of model ``number`` (from 0) in the new directory ``work`` and move it into ``out``.

    ``InputsError`` when the recipe's pattern does not match exactly one file of the wheel.
    """
    model = models_of(recipe)[number]
    pattern = pattern_of(recipe, model)
    wheel = lock.wheels[number]
    with zipfile.ZipFile(store.path(wheel.sha256, verify=True)) as archive:
        names = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, pattern)]
        if len(names) != 1:
            raise InputsError(
                f"{recipe.origin(f'inference.models[{number}].file')}: `{pattern}` matches {names or 'nothing'} in "
                f"{wheel.file}, expected one file"
            )
        name = Path(names[0]).name
        (work / "tree").mkdir(parents=True)
        (work / "tree").chmod(0o755)  # the volume's own root directory: mkdir's mode would obey the caller's umask
        (work / "tree" / name).write_bytes(archive.read(names[0]))
        (work / "tree" / name).chmod(0o644)
    seed = render.seed_of(f"model/{model.name}")
    raw, verity = volume.make(
        tools, work, model_partition(number), compression=None, seed=seed, epoch=lock.source_date_epoch
    )
    raw.rename(out / model_volume(number))
    return ModelVolume(model.name, name, verity)
