"""``prediction.json`` next to an image: an unsigned in-toto Statement over its artefacts, in canonical JSON."""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import EvidenceError, MeasurementError
from privml.base.files import write_atomic
from privml.output.manifest import Manifest
from privml.statement import intoto
from privml.statement.predicate import Predicate

PREDICTION_FILE = "prediction.json"


def read_prediction(directory: Path, manifest: Manifest) -> Predicate:
    """The predicate in ``prediction.json``; ``MeasurementError`` if it is not for this image.

    ``EvidenceError`` if it is malformed.
    """
    path = directory / PREDICTION_FILE
    hint = f"create it with `privml-build measure {directory}`"
    if not path.is_file():
        raise MeasurementError(f"{path} does not exist", hint=hint)
    data = path.read_bytes()
    try:
        statement = intoto.decode(data)
    except EvidenceError as error:
        raise EvidenceError(f"{path} is malformed: {error.message}", hint=hint) from error
    if intoto.encode(statement) != data:
        raise EvidenceError(f"{path} is malformed: not canonical JSON (RFC 8785)", hint=hint)
    predicate = statement.predicate
    if predicate.manifest_sha256 != manifest.sha256:
        raise MeasurementError(f"{path} belongs to a different build than manifest.json", hint=hint)
    return predicate


def statement_of(manifest: Manifest, predicate: Predicate) -> intoto.Statement:
    """The Statement whose subjects are the artefacts of ``manifest``."""
    subjects = (
        intoto.Subject(name, bytes.fromhex(artefact.sha256)) for name, artefact in sorted(manifest.artefacts.items())
    )
    return intoto.Statement(tuple(subjects), predicate)


def write_prediction(directory: Path, manifest: Manifest, predicate: Predicate) -> Path:
    """Write ``prediction.json`` and return its path."""
    path = directory / PREDICTION_FILE
    write_atomic(path, intoto.encode(statement_of(manifest, predicate)))
    return path
