"""``prediction.json`` beside an image: read it without what predicts."""

from __future__ import annotations

import hashlib
from pathlib import Path

from privml.base.errors import MeasurementError, PrivmlError
from privml.image.manifest import Manifest
from privml.statement import intoto
from privml.statement.predicate import Predicate

PREDICTION_FILE = "prediction.json"


def read_prediction(directory: Path, manifest: Manifest) -> Predicate:
    """The predicate in ``prediction.json``; ``MeasurementError`` when it is not of this very image."""
    path = directory / PREDICTION_FILE
    hint = f"predict it with `privml-build measure {directory}`"
    if not path.is_file():
        raise MeasurementError(f"{path} is not there", hint=hint)
    predicate = intoto.decode(path.read_bytes()).predicate
    if predicate.manifest_sha256 != hashlib.sha256(manifest.encode()).digest():
        raise MeasurementError(f"{path} is of another build than manifest.json", hint=hint)
    return predicate


def has_prediction(directory: Path, manifest: Manifest) -> bool:
    """True when ``prediction.json`` is there and is of this very image."""
    try:
        read_prediction(directory, manifest)
    except PrivmlError:
        return False
    return True
