"""What an image must measure to, and on whose word: `Expected` records out of what a caller trusts."""

from __future__ import annotations

from pathlib import Path

from privml.output import manifest as manifests
from privml.output.artefacts import check_artefacts
from privml.output.prediction import read_prediction
from privml.verify.anchor import Built, Expected


def built(directory: Path) -> Expected:
    """The image that the caller built in ``directory``, with its prediction.

    All artefacts are compared with the manifest first. ``BuildError`` when the directory holds no whole image,
    ``MeasurementError`` when there is no prediction or it is of another build.
    """
    manifest = manifests.read(directory)
    check_artefacts(directory, manifest.artefacts)
    return Expected(read_prediction(directory, manifest), Built(str(directory)))
