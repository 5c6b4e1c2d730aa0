"""Create `Expected` measurements from sources that the caller trusts."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from privml.base.errors import PrivmlError, UsageError
from privml.output import fetched
from privml.output import manifest as manifests
from privml.output.artefacts import check_artefacts
from privml.output.fetched import FetchRecord
from privml.output.manifest import Manifest
from privml.output.prediction import read_prediction
from privml.statement import predicate
from privml.verify.anchor import Anchored, Built, Candidates, Expected, ExpectedData, ExpectedModel, Fetched

RECENT = 10.0
"""Seconds for which `Recent` asks nobody again."""


class Recent:
    """What ``source`` said last, for a service that is asked often and by anybody: at most one question in `RECENT`.

    ``source`` gives the expected measurements at a time (Unix seconds). Its error is kept as long. Thread-safe.
    """

    def __init__(self, source: Callable[[int], Anchored], clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()
        self._until = float("-inf")
        self._last: Anchored | PrivmlError

    def __call__(self, now: int) -> Anchored:
        """The measurements, at most `RECENT` seconds old."""
        with self._lock:
            if self._clock() >= self._until:
                try:
                    self._last = self._source(now)
                except PrivmlError as failed:
                    self._last = failed
                self._until = self._clock() + RECENT
            if isinstance(self._last, PrivmlError):
                raise self._last
            return self._last


def built(directory: Path) -> Expected:
    """The image in ``directory``, which the caller built or fetched, with its prediction.

    All artefacts are compared with the manifest first. ``BuildError`` if the directory has no complete image,
    ``MeasurementError`` if there is no prediction or it belongs to a different build.
    """
    manifest = manifests.read(directory)
    check_artefacts(directory, manifest.artefacts)
    record = fetched.read(directory, manifest)
    anchor = Built(str(directory)) if record is None else _fetched(directory, record)
    return Expected(read_prediction(directory, manifest), anchor, models_of(manifest), data_of(manifest))


def told_apart(images: Sequence[Expected]) -> Candidates:
    """These images, of which a guest may be any.

    ``UsageError`` if two that differ have equal measurements: then their order would say which one a guest is.
    """
    for one, other in itertools.combinations(images, 2):
        if predicate.encode(one.predicate) == predicate.encode(other.predicate):
            continue
        for mine, theirs in itertools.product(one.predicate.launches, other.predicate.launches):
            if mine.same(theirs):
                raise UsageError(
                    f"{one.anchor} and {other.anchor} differ and have equal registers ({mine.tee}: {mine.label}), "
                    "so no guest can be told to be one of them",
                    hint="name only one of them",
                )
    return Candidates(tuple(images))


def _fetched(directory: Path, record: FetchRecord) -> Fetched:
    return Fetched(str(directory), record.version, record.serial, record.demonstration)


def models_of(manifest: Manifest) -> tuple[ExpectedModel, ...]:
    """The models of an image, as its manifest names them."""
    return tuple(
        ExpectedModel(
            model.name,
            model.revision,
            None if model.signature is None else str(model.signature),
            model.key or None,
        )
        for model in manifest.models
    )


def data_of(manifest: Manifest) -> tuple[ExpectedData, ...]:
    """The data of an image's services, as its manifest names them."""
    return tuple(ExpectedData(data.name, data.key or None) for data in manifest.data)
