"""An order for an image: what is built from which inputs, with which tools; and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from privml.image import steps
from privml.image.inputs import Inputs
from privml.image.tools import ToolsTree
from privml.image.volumekeys import VolumeKeys
from privml.lock.models import Lock
from privml.output.manifest import Manifest
from privml.recipe.loader import Recipe
from privml.statement.predicate import Predicate
from privml.store.objects import Store
from privml.store.pools import Pool


class Predictor(Protocol):
    """Predicts the registers of a built image; implemented by `vm.predicted`."""

    def inputs(self, platforms: Sequence[str]) -> Inputs:
        """What the prediction depends on besides the image: platforms and the predicting code."""

    def predict(self, tools: ToolsTree, directory: Path, manifest: Manifest) -> Predicate:
        """The prediction for the image in ``directory``."""


class Tools(Protocol):
    """Provides the tools tree; called only when a step must be rebuilt."""

    def __call__(self) -> ToolsTree:
        """The unpacked tree."""


@dataclass(frozen=True)
class Order:
    """What to build, from which inputs and with which tools. ``tools_lock`` is the path of the tools lock.

    ``volumes`` is where encrypted volumes come from. ``refreshed``: the lock is not the recipe's committed one; the
    manifest records this.
    """

    recipe: Recipe
    lock: Lock
    tools_lock: Path
    store: Store
    tools: Tools
    predictor: Predictor
    refreshed: bool = False
    pools: Sequence[Pool] = ()
    volumes: VolumeKeys = field(default_factory=VolumeKeys)


@dataclass(frozen=True)
class BuildResult:
    """An output directory with its manifest, and why each step was rebuilt (empty: it was cached)."""

    directory: Path
    manifest: Manifest
    because: steps.Reasons

    @property
    def cached(self) -> bool:
        """True when every step was cached."""
        return not any(self.because.values())
