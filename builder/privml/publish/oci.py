"""An image in OCI's form (image specification 1.1): as a layout in a folder, or what a registry is sent.

It is a carrier: one manifest with a layer for each file, named by its title, and the empty configuration of
artefacts that no container runtime starts. The same files give the same bytes: nothing in it names a time or a place.
Readers rely on the digests of the signed manifest, never on those that this form lists.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.base.errors import UsageError
from privml.base.files import directory_atomic, write_atomic
from privml.base.strictjson import canonical
from privml.output.artefacts import Artefact, check_artefact
from privml.store.pools import OCI_FILE, OCI_LAYOUT

ARTIFACT_TYPE = "application/vnd.privml-build.image.v1"
_INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
_BYTES = "application/octet-stream"
_JSON = "application/json"
_TITLE = "org.opencontainers.image.title"
_NOTHING = b"{}"
_REFERENCE = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Carrier:
    """An image in OCI's form: the bytes of its manifest, and the other blobs that are no artefacts, by SHA-256."""

    manifest: bytes
    blobs: Mapping[str, bytes]

    @classmethod
    def of(cls, artefacts: Mapping[str, Artefact], documents: Mapping[str, bytes]) -> Carrier:
        """One layer for each artefact and each other file, by name."""
        blobs = {hashlib.sha256(data).hexdigest(): data for data in (_NOTHING, *documents.values())}
        rows = {name: _descriptor(_JSON, data) for name, data in documents.items()}
        rows |= {name: _row(_BYTES, each.sha256, each.size) for name, each in artefacts.items()}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": _descriptor(_EMPTY, _NOTHING),
            "layers": [{**rows[name], "annotations": {_TITLE: name}} for name in sorted(rows)],
        }
        return cls(canonical(manifest), blobs)

    @property
    def digest(self) -> str:
        """The digest of the manifest, as OCI writes it."""
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"


def tag_of(name: str, version: str) -> str:
    """The tag of a version in a registry; nothing reads it. A tag has no `+`."""
    return f"{name}-{version}".replace("+", "_")


def write_layout(
    folder: Path, image: Path, artefacts: Mapping[str, Artefact], documents: Mapping[str, bytes], reference: str
) -> str:
    """Write the artefacts of the image in ``image``, and other files by name, as a layout into ``folder``.

    ``folder`` must be new or empty. ``reference`` is the name that other tools show, like a version. Returns the
    digest of the OCI manifest (``sha256:HEX``); ``BuildError`` if an artefact is not what it is expected to be.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty", hint="name a new directory")
    carrier = Carrier.of(artefacts, documents)
    with directory_atomic(folder.absolute()) as fresh:
        for digest, data in (*carrier.blobs.items(), (carrier.digest.removeprefix("sha256:"), carrier.manifest)):
            write_atomic(fresh / OCI_LAYOUT.path(digest), data)
        for name, each in artefacts.items():
            check_artefact(image / name, each)
            shutil.copyfile(image / name, fresh / OCI_LAYOUT.path(each.sha256))
        listed = {
            **_descriptor(MANIFEST, carrier.manifest),
            "artifactType": ARTIFACT_TYPE,
            "annotations": {_REFERENCE: reference},
        }
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [listed]}
        write_atomic(fresh / "index.json", canonical(index))
        write_atomic(fresh / OCI_FILE, canonical({"imageLayoutVersion": "1.0.0"}))
    return carrier.digest


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return _row(kind, hashlib.sha256(data).hexdigest(), len(data))


def _row(kind: str, sha256: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{sha256}", "size": size}
