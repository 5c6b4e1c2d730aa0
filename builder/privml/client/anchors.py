"""Create `Expected` measurements from sources that the caller trusts."""

from __future__ import annotations

from pathlib import Path

from privml.output import manifest as manifests
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest
from privml.output.prediction import read_prediction
from privml.verify.anchor import Built, Expected, ExpectedModel


def built(directory: Path) -> Expected:
    """The image that the caller built in ``directory``, with its prediction.

    All artefacts are compared with the manifest first. ``BuildError`` if the directory has no complete image,
    ``MeasurementError`` if there is no prediction or it belongs to a different build.
    """
    manifest = manifests.read(directory)
    check_artefacts(directory, manifest.artefacts)
    return Expected(read_prediction(directory, manifest), Built(str(directory)), models_of(manifest))


def models_of(manifest: Manifest) -> tuple[ExpectedModel, ...]:
    """The models of an image, as its manifest names them."""
    return tuple(
        ExpectedModel(model.name, model.revision, None if model.signature is None else str(model.signature))
        for model in manifest.models
    )
