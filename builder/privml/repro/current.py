"""``measurements/NAME/current.json``: the digests of the image that HEAD builds. No promise; what is so today."""

from __future__ import annotations

from pathlib import Path

from privml.base import strictjson
from privml.base.files import sha256_file
from privml.image import manifest as manifests
from privml.image import provenance, sbom

FORMAT = "privml-current/v1"
DOCUMENTS = ("manifest.json", "prediction.json", sbom.FILE, provenance.FILE)


def of(directory: Path) -> bytes:
    """The file's bytes for the image in ``directory``."""
    manifest = manifests.read(directory)
    return strictjson.pretty(
        {
            "format": FORMAT,
            "name": manifest.name,
            "refreshed": manifest.refreshed,
            "root_hash": manifest.root.root_hash,
            "model_root_hash": manifest.model and manifest.model.verity.root_hash,
            "files": {name: sha256_file(directory / name) for name in (*manifest.artefacts, *DOCUMENTS)},
        }
    )


def differences(recorded: bytes, found: bytes) -> list[str]:
    """What of a record is no longer so; a line for each digest, nothing when all of it still is."""
    documents = [strictjson.loads(data, what="current.json") for data in (recorded, found)]
    tables = [
        {key: str(value) for key, value in document.items() if key != "files"}
        | {f"files/{name}": digest for name, digest in document["files"].items()}
        for document in documents
    ]
    lines = []
    for key in sorted({*tables[0], *tables[1]}):
        values = [table.get(key, "none") for table in tables]
        if values[0] != values[1]:
            lines.append(f"{key}: recorded {values[0]}, found {values[1]}")
    return lines
