"""Decide which steps of an image to rebuild and why. The others are reused from the existing image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, EvidenceError, MeasurementError
from privml.base.files import link_or_copy
from privml.base.steps import say
from privml.image import inputs, madeby
from privml.image.filling import MadeVolume
from privml.image.inputs import BASE, MANIFEST, PREDICTION, Inputs, StepInputs
from privml.output import manifest as manifests
from privml.output.artefacts import DISK, ROOT, UKI, check_artefact, is_volume
from privml.output.manifest import Manifest
from privml.output.prediction import read_prediction
from privml.store.digests import Digests

_SHOWN = 4
# step -> why it is rebuilt; empty if it is cached.
Reasons = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Earlier:
    """The existing image of an output directory, and which of its steps are damaged (step -> why)."""

    directory: Path
    manifest: Manifest
    record: StepInputs
    harmed: Mapping[str, str]

    @property
    def volumes(self) -> Mapping[str, MadeVolume]:
        """The volumes of models and data by their files."""
        files = dict(zip((model.volume for model in self.manifest.models), self.record.model_files, strict=True))
        return {
            each.volume: MadeVolume(each.name, files.get(each.volume, ""), each.verity, each.crypt)
            for each in self.manifest.filled
        }

    def take(self, name: str, target: Path) -> None:
        """Copy or link the file ``name`` of this image into ``target``."""
        link_or_copy(self.directory / name, target / name)


def earlier(directory: Path, digests: Digests) -> Earlier | None:
    """The image in ``directory``; None if it has no valid manifest and input record."""
    if not (directory / manifests.FILE).is_file() or not (directory / inputs.FILE).is_file():
        return None
    try:
        found = manifests.read(directory)
        record = inputs.decode((directory / inputs.FILE).read_bytes())
    except (BuildError, EvidenceError):
        return None
    if len(found.models) != len(record.model_files):
        return None
    harmed = {}
    for name, expected in found.artefacts.items():
        try:
            check_artefact(directory / name, expected, digests.sha256)
        except BuildError as error:
            harmed[name] = error.message
    try:
        read_prediction(directory, found)
    except (EvidenceError, MeasurementError) as error:
        harmed[PREDICTION] = error.message
    try:
        if madeby.read(directory, found) is None:
            harmed[MANIFEST] = "the locks next to it are missing"
    except BuildError as error:
        harmed[MANIFEST] = error.message
    return Earlier(directory, found, record, harmed)


def why(step: str, now: Inputs, before: Earlier | None, *, forced: bool) -> tuple[str, ...]:
    """Why a step must be rebuilt because of its own inputs; empty if it is cached."""
    if forced:
        return ("a full rebuild was requested",)
    if before is None:
        return ("there is no earlier image",)
    harm = before.harmed.get(step)
    return (*([harm] if harm else []), *inputs.changes(before.record.steps.get(step, {}), now))


def decide(now: StepInputs, before: Earlier | None, *, forced: bool, base_kept: bool) -> Reasons:
    """Decide which steps to rebuild and why. Steps that share an mkosi run are rebuilt together.

    ``base_kept``: the store has the base tree.
    """
    because = {step: why(step, wanted, before, forced=forced) for step, wanted in now.steps.items()}
    # The root, and the kernel and initrd of the UKI, come from one mkosi run.
    if because[UKI] and not because[ROOT]:
        because[ROOT] = ("uki.efi, which gets its kernel and initrd from the same mkosi run, is rebuilt",)
    if because[ROOT] and not because[UKI]:
        because[UKI] = ("root.raw is rebuilt",)
    if DISK in because and not because[DISK]:
        because[DISK] = tuple(f"{name} is rebuilt" for name in because if _on_disk(name) and because[name])
    if not because[ROOT] or (base_kept and not forced):
        because[BASE] = ()
    elif not because[BASE]:
        because[BASE] = ("it is not in the store",)
    made = (step for step in because if step not in (BASE, MANIFEST, PREDICTION))
    if any(because[step] for step in made) and not because[MANIFEST]:
        because[MANIFEST] = ("an artefact is rebuilt",)
    if because[MANIFEST] and not because[PREDICTION]:
        because[PREDICTION] = ("manifest.json is rebuilt",)
    return because


def _on_disk(name: str) -> bool:
    """True for the steps whose files are in the disk of an image."""
    return name == UKI or is_volume(name)


def announce(step: str, because: tuple[str, ...]) -> None:
    """Report whether a step is cached or rebuilt, and why."""
    more = f" and {len(because) - _SHOWN} more" if len(because) > _SHOWN else ""
    say(f"{step}: rebuilt because {', '.join(because[:_SHOWN])}{more}" if because else f"{step}: cached")
