"""``measurements/NAME/current.json``: the digests of the image that HEAD builds. No promise; what is so today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.files import sha256_file
from privml.image import provenance, sbom
from privml.output import manifest as manifests

FORMAT = "privml-current/v2"
DOCUMENTS = ("manifest.json", "prediction.json", sbom.FILE, provenance.FILE)


@dataclass(frozen=True)
class RecordCheck:
    """An image compared with its record, and the command that writes the record again.

    ``state`` is ``equal``, ``differs``, ``none`` (there is no record) or ``refreshed`` (its lock is another one, so
    the record says nothing of it).
    """

    path: str
    state: str
    lines: Sequence[str]
    renew: str

    def text(self) -> str:
        """What a person is told."""
        said = {
            "equal": f"{self.path}: still so",
            "none": f"{self.path} is not there; to write it: {self.renew}",
            "refreshed": f"{self.path}: not compared, the image is built by another lock (`refreshed`)",
            "differs": f"{self.path} is no longer so; if that is meant: {self.renew}",
        }
        return "\n".join([*(f"  {line}" for line in self.lines), said[self.state]])

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {"path": self.path, "state": self.state, "differences": list(self.lines), "renew": self.renew}


def place_of(name: str) -> Path:
    """Where the record of a recipe is, below the directory that holds ``recipes`` and ``out``."""
    return Path("measurements") / name / "current.json"


def record_of(name: str, found: bytes, *, refreshed: bool) -> RecordCheck:
    """Hold the digests ``found`` against the record of recipe ``name``."""
    path = place_of(name)
    renew = f"privml-build repro {name} --record {path}"
    if refreshed:
        return RecordCheck(str(path), "refreshed", (), renew)
    if not path.is_file():
        return RecordCheck(str(path), "none", (), renew)
    lines = differences(path.read_bytes(), found)
    return RecordCheck(str(path), "differs" if lines else "equal", lines, renew)


def of(directory: Path) -> bytes:
    """The file's bytes for the image in ``directory``."""
    manifest = manifests.read(directory)
    return strictjson.pretty(
        {
            "format": FORMAT,
            "name": manifest.name,
            "refreshed": manifest.refreshed,
            "root_hashes": {
                manifests.ROOT: manifest.root.root_hash.hex(),
                **{model.volume: model.verity.root_hash.hex() for model in manifest.models},
            },
            "files": {name: sha256_file(directory / name) for name in (*manifest.artefacts, *DOCUMENTS)},
        }
    )


def differences(recorded: bytes, found: bytes) -> list[str]:
    """What of a record is no longer so; a line for each digest, nothing when all of it still is."""
    documents = [strictjson.loads(data, what="current.json") for data in (recorded, found)]
    tables = [
        {key: str(value) for key, value in document.items() if not isinstance(value, dict)}
        | {
            f"{table}/{name}": digest
            for table in ("root_hashes", "files")
            for name, digest in document.get(table, {}).items()
        }
        for document in documents
    ]
    lines = []
    for key in sorted({*tables[0], *tables[1]}):
        values = [table.get(key, "none") for table in tables]
        if values[0] != values[1]:
            lines.append(f"{key}: recorded {values[0]}, found {values[1]}")
    return lines
