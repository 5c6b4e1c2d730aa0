"""Which steps of an image are made again, and why; what is not made is taken over from the image that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, EvidenceError
from privml.base.files import link_or_copy
from privml.base.steps import say
from privml.image import inputs, manifest
from privml.image.inputs import BASE, FIRMWARE, MANIFEST, MODEL, ROOT, STEPS, UKI, Inputs, Record
from privml.store.digests import Digests

_TOLD = 4
# step -> why it is made; empty: it is cached.
Reasons = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Earlier:
    """The image that an output holds, and what of it is not as it was made (artefact -> why)."""

    directory: Path
    manifest: manifest.Manifest
    record: Record
    harmed: Mapping[str, str]

    def take(self, name: str, target: Path) -> None:
        """Lay the file ``name`` of this image into the directory ``target``."""
        link_or_copy(self.directory / name, target / name)


def earlier(directory: Path, digests: Digests) -> Earlier | None:
    """The image in ``directory``; None when there is none that tells what it is and what it was made from."""
    if not (directory / manifest.FILE).is_file() or not (directory / inputs.FILE).is_file():
        return None
    try:
        found = manifest.read(directory)
        record = inputs.decode((directory / inputs.FILE).read_bytes())
    except (BuildError, EvidenceError):
        return None
    harmed = {}
    for name, expected in found.artefacts.items():
        try:
            manifest.check_artefact(directory / name, expected, digests.sha256)
        except BuildError as error:
            harmed[name] = error.message
    return Earlier(directory, found, record, harmed)


def why(step: str, now: Inputs, before: Earlier | None, *, forced: bool) -> tuple[str, ...]:
    """Why a step is made by its own inputs; none when it is cached."""
    if forced:
        return ("it is forced",)
    if before is None:
        return ("there is no earlier image to take it from",)
    harm = before.harmed.get(step)
    return (*([harm] if harm else []), *inputs.changes(before.record.steps[step], now))


def decide(now: Record, before: Earlier | None, *, forced: bool, base_kept: bool) -> Reasons:
    """Why each step is made, what hangs together being made together; ``base_kept``: the store has the base tree."""
    because = {step: why(step, now.steps[step], before, forced=forced) for step in STEPS if now.steps[step]}
    # One run of mkosi gives the root, and the kernel and initrd of the UKI.
    if because[UKI] and not because[ROOT]:
        because[ROOT] = ("the kernel and initrd of uki.efi come from the same run of mkosi",)
    if because[ROOT] and not because[UKI]:
        because[UKI] = ("root.raw is rebuilt",)
    if not because[ROOT] or (base_kept and not forced):
        because[BASE] = ()
    elif not because[BASE]:
        because[BASE] = ("the store does not hold it",)
    if any(because.get(step) for step in (MODEL, ROOT, UKI, FIRMWARE)) and not because[MANIFEST]:
        because[MANIFEST] = ("an artefact is rebuilt",)
    return because


def tell(step: str, because: tuple[str, ...]) -> None:
    """Say what becomes of a step."""
    more = f" and {len(because) - _TOLD} more" if len(because) > _TOLD else ""
    say(f"{step}: rebuilt because {', '.join(because[:_TOLD])}{more}" if because else f"{step}: cached")
