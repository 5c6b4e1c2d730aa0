"""Whether a recipe's engine can run a model on its driver, by the model's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privml.engines.registry import engine_named
from privml.recipe import pairings
from privml.recipe.loader import Recipe
from privml.recipe.packages import pinned_version

_MAX_CONFIG = 1 << 20


def config_at(place: Path) -> Mapping[str, Any]:
    """A model's configuration in a file; empty if there is none that can be read. `lock` checks the file itself."""
    try:
        with place.open("rb") as file:
            return config_of(file.read(_MAX_CONFIG + 1))
    except OSError:
        return {}


def config_of(data: bytes) -> Mapping[str, Any]:
    """A model's configuration; empty for bytes that are none."""
    if len(data) > _MAX_CONFIG:
        return {}
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def against_config(recipe: Recipe, config: Mapping[str, Any]) -> str | None:
    """Say what a model needs that the recipe's engine and driver do not have; None if nothing is known."""
    gpu, inference = recipe.content.gpu, recipe.content.inference
    if gpu is None or inference is None:
        return None
    engine = engine_named(inference.engine.name)
    return pairings.against_model(engine, pinned_version(recipe), gpu.driver.version, config)
