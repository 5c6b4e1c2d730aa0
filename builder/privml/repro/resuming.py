"""Go on with a reproduction that was interrupted after its first leg, or while both were compared.

With `--keep DIR` each leg's image goes to DIR as soon as it is whole, with a note of what it was built from and what
it observed; in the leg's own place it is removed, so a disk holds it once. The next run with the same inputs and the
same code takes it from there instead of building it again. The notes are removed once both legs are compared, so a
finished run is never taken for an interrupted one.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import privml
from privml.base.errors import EvidenceError
from privml.base.files import directory_atomic, read_start, remove_tree, sha256_file, write_atomic
from privml.base.steps import say
from privml.base.strictjson import Fields, canonical, loads
from privml.repro.surroundings import Leg

_MAX_NOTE = 1 << 20


@dataclass(frozen=True)
class Done:
    """A leg that is built: its settings, what it observed, and where its image is."""

    leg: Leg
    seen: Mapping[str, str]
    image: Path


@dataclass(frozen=True)
class Resuming:
    """The legs in ``folder`` that were built from the inputs with the digest ``key`` (`key_of`)."""

    folder: Path
    key: str

    def take(self, name: str) -> Done | None:
        """The leg ``name`` of an interrupted run with the same inputs; None if it must be built."""
        try:
            note = Fields(loads(read_start(self._note(name), _MAX_NOTE), what="leg's note"), "leg's note")
            key, leg = note.text("key"), Leg.decode(canonical(note.take("leg")))
            observed = note.fields("seen").rest()
            note.end()
        except (OSError, EvidenceError):
            return None
        image = self.folder / name
        if key != self.key or not image.is_dir():
            return None
        say(f"leg {name}: taken from {image}, where an interrupted run left it")
        return Done(leg, {key: str(value) for key, value in observed.items()}, image)

    def put(self, leg: Leg, seen: Mapping[str, str]) -> Done:
        """Move a leg's image to the folder, and note that it is whole."""
        self._note(leg.name).unlink(missing_ok=True)
        image = self.folder / leg.name
        remove_tree(image)
        with directory_atomic(image) as fresh:
            shutil.copytree(leg.output, fresh, dirs_exist_ok=True)
        remove_tree(Path(leg.output))
        note = {"key": self.key, "leg": loads(leg.encode(), what="leg"), "seen": dict(seen)}
        write_atomic(self._note(leg.name), canonical(note))
        return Done(leg, seen, image)

    def finish(self, names: tuple[str, ...]) -> None:
        """Remove the notes: the run was not interrupted."""
        for name in names:
            self._note(name).unlink(missing_ok=True)

    def _note(self, name: str) -> Path:
        return self.folder / f".leg-{name}.json"


def key_of(
    recipe_sha256: str,
    files: tuple[Path, ...],
    volumes: Mapping[str, object],
    prediction: Mapping[str, str],
    *,
    refreshed: bool,
) -> str:
    """Digest of what a leg is built from: the recipe, its locks (``files``), and the code of this package.

    ``volumes`` says what encrypted volumes are made from, without any key. ``prediction`` is what the predicted
    registers depend on besides the image: the platforms.
    """
    package = Path(privml.__file__).parent
    code = {path.relative_to(package).as_posix(): sha256_file(path) for path in sorted(package.rglob("*.py"))}
    parts = {
        "recipe": recipe_sha256,
        "locks": [sha256_file(path) for path in files],
        "refreshed": refreshed,
        "volumes": dict(volumes),
        "prediction": dict(prediction),
        "code": code,
    }
    return hashlib.sha256(canonical(parts)).hexdigest()
