"""Create `Expected` measurements from sources that the caller trusts."""

from __future__ import annotations

from pathlib import Path

from privml.output import fetched
from privml.output import manifest as manifests
from privml.output.artefacts import check_artefacts
from privml.output.fetched import FetchRecord
from privml.output.manifest import Manifest
from privml.output.prediction import read_prediction
from privml.verify.anchor import Built, Expected, ExpectedModel, Fetched


def built(directory: Path) -> Expected:
    """The image in ``directory``, which the caller built or fetched, with its prediction.

    All artefacts are compared with the manifest first. ``BuildError`` if the directory has no complete image,
    ``MeasurementError`` if there is no prediction or it belongs to a different build.
    """
    manifest = manifests.read(directory)
    check_artefacts(directory, manifest.artefacts)
    record = fetched.read(directory, manifest)
    anchor = Built(str(directory)) if record is None else _fetched(directory, record)
    return Expected(read_prediction(directory, manifest), anchor, models_of(manifest))


def _fetched(directory: Path, record: FetchRecord) -> Fetched:
    return Fetched(str(directory), record.version, record.serial, record.demonstration)


def models_of(manifest: Manifest) -> tuple[ExpectedModel, ...]:
    """The models of an image, as its manifest names them."""
    return tuple(
        ExpectedModel(model.name, model.revision, None if model.signature is None else str(model.signature))
        for model in manifest.models
    )
