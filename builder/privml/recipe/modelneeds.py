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

QUANTISED = "hf_quant_config.json"
"""Where ModelOpt before 0.31 says how weights are quantised (vLLM, transformers_utils/config.py)."""
_FIELD = "quantization_config"
_MAX_CONFIG = 1 << 20


def config_at(place: Path) -> Mapping[str, Any]:
    """A model's configuration in a file; empty if there is none that can be read. `lock` checks the file itself."""
    return config_of(_read(place), _read(place.with_name(QUANTISED)))


def _read(place: Path) -> bytes:
    try:
        with place.open("rb") as file:
            return file.read(_MAX_CONFIG + 1)
    except OSError:
        return b""


def config_of(data: bytes, quantised: bytes = b"") -> Mapping[str, Any]:
    """A model's configuration; empty for bytes that are none.

    ``quantised`` is the file ``QUANTISED`` next to it, which counts if the configuration itself says nothing.
    """
    config, own = _object(data), _object(quantised)
    return config if not own or config.get(_FIELD) is not None else {**config, _FIELD: own}


def _object(data: bytes) -> Mapping[str, Any]:
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
