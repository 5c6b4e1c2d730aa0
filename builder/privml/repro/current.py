"""``measurements/NAME/current.json``: the digests of the image that HEAD builds. A record, not a guarantee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.files import sha256_file
from privml.image import provenance, sbom
from privml.output import manifest as manifests
from privml.output.artefacts import ROOT

FORMAT = "privml-current/v2"
DOCUMENTS = ("manifest.json", "prediction.json", sbom.FILE, provenance.FILE)


@dataclass(frozen=True)
class RecordCheck:
    """Comparison of an image with its record, and the command that updates the record.

    ``state`` is ``equal``, ``differs``, ``none`` (no record) or ``refreshed`` (built with a different lock, so the
    record does not apply).
    """

    path: str
    state: str
    lines: Sequence[str]
    renew: str

    def text(self) -> str:
        """The result as text."""
        said = {
            "equal": f"matches {self.path}",
            "none": f"{self.path} does not exist; to create it: {self.renew}",
            "refreshed": f"{self.path}: not compared, the image was built with a different lock (`refreshed`)",
            "differs": f"differs from {self.path}; if this is intended: {self.renew}",
        }
        return "\n".join([*(f"  {line}" for line in self.lines), said[self.state]])

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {"path": self.path, "state": self.state, "differences": list(self.lines), "renew": self.renew}


def place_of(name: str) -> Path:
    """Path of a recipe's record, below the directory that contains ``recipes`` and ``out``."""
    return Path("measurements") / name / "current.json"


def record_of(name: str, found: bytes, *, refreshed: bool) -> RecordCheck:
    """Compare the digests ``found`` with the record of recipe ``name``."""
    path = place_of(name)
    renew = f"privml-build repro {name} --record {path}"
    if refreshed:
        return RecordCheck(str(path), "refreshed", (), renew)
    if not path.is_file():
        return RecordCheck(str(path), "none", (), renew)
    lines = differences(path.read_bytes(), found)
    return RecordCheck(str(path), "differs" if lines else "equal", lines, renew)


def of(directory: Path) -> bytes:
    """Encode the record of the image in ``directory``."""
    manifest = manifests.read(directory)
    return strictjson.pretty(
        {
            "format": FORMAT,
            "name": manifest.name,
            "refreshed": manifest.refreshed,
            "root_hashes": {
                ROOT: manifest.root.root_hash.hex(),
                **{each.volume: each.verity.root_hash.hex() for each in manifest.filled},
            },
            "files": {name: sha256_file(directory / name) for name in (*manifest.artefacts, *DOCUMENTS)},
        }
    )


def differences(recorded: bytes, found: bytes) -> list[str]:
    """One line for each digest that differs from the record; empty if all match."""
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
