"""Make the volume of a folder of safetensors without a recipe, in the same way as for an image.

An image whose recipe has the same files, model name, place in the list of models and epoch has the same bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import InputsError, UsageError
from privml.base.files import sha256_file
from privml.base.steps import step
from privml.events import volumes
from privml.events.verity import Verity
from privml.image.filling import Filling
from privml.image.tools import ToolsTree
from privml.lock import localmodel
from privml.lock.modelfile import SAFETENSORS
from privml.lock.modelrecord import ModelFile
from privml.store.room import writing


@dataclass(frozen=True)
class Packed:
    """A model volume: its SHA-256, size and parameters, the files in it, and the licence that they name."""

    sha256: str
    size: int
    verity: Verity
    files: tuple[ModelFile, ...]
    licence: str | None


def pack(folder: Path, out: Path, name: str, number: int, epoch: int, tools: Callable[[], ToolsTree]) -> Packed:
    """Check the model in ``folder`` and write its volume to the new file ``out``.

    ``name`` is the model's name in the recipe, ``number`` its place there (from 0), ``epoch`` the time of all files.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists already", hint="name a new file with --output")
    names = localmodel.names_at(folder, SAFETENSORS, str(folder))
    if not names:
        raise InputsError(f"{folder}: the folder is empty", hint="give a folder with all files of one model")
    with step(f"Checking {folder}"):
        places = {each: folder / each for each in names}
        files, licence = localmodel.read(places, SAFETENSORS, str(folder))
    with writing(out, "volume", "free some space, or name another file with --output: the model is copied twice"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made, step(f"Making {out}"):
            place, slot = Path(made), volumes.Slot(volumes.MODEL, number)
            filling = Filling(slot, name, epoch, lambda tree: _copy(folder, files, tree))
            verity = filling.make(tools(), place / "volume", place).verity
            raw = place / slot.file
            found = Packed(sha256_file(raw), raw.stat().st_size, verity, files, licence)
            raw.rename(out)
    return found


def _copy(folder: Path, files: tuple[ModelFile, ...], tree: Path) -> None:
    for file in files:
        target = tree / file.path
        shutil.copyfile(folder / file.path, target, follow_symlinks=False)
        target.chmod(0o644)
        if sha256_file(target) != file.sha256:
            raise InputsError(
                f"{folder / file.path} changed while it was read", hint="run it again when it is written"
            )
