"""Write an image as an OCI image layout (image specification 1.1), which registries and their tools take.

The layout is a carrier: one manifest with a layer for each file, named by its title, and the empty configuration of
artefacts that no container runtime starts. The same files give the same bytes: nothing in it names a time or a place.
Readers rely on the digests of the signed manifest, never on those that this layout lists.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privml.base.errors import UsageError
from privml.base.files import directory_atomic, write_atomic
from privml.base.strictjson import canonical
from privml.output.artefacts import Artefact, check_artefact
from privml.store.pools import OCI_FILE, OCI_LAYOUT

ARTIFACT_TYPE = "application/vnd.privml-build.image.v1"
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
_BYTES = "application/octet-stream"
_JSON = "application/json"
_TITLE = "org.opencontainers.image.title"
_REFERENCE = "org.opencontainers.image.ref.name"


def write_layout(
    folder: Path, image: Path, artefacts: Mapping[str, Artefact], documents: Mapping[str, bytes], reference: str
) -> str:
    """Write the artefacts of the image in ``image``, and other files by name, as a layout into ``folder``.

    ``folder`` must be new or empty. ``reference`` is the name that other tools show, like a version. Returns the
    digest of the OCI manifest (``sha256:HEX``); ``BuildError`` if an artefact is not what it is expected to be.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty", hint="name a new directory")
    with directory_atomic(folder.absolute()) as fresh:
        empty = _keep(fresh, b"{}", _EMPTY)
        rows = {name: _keep(fresh, data, _JSON) for name, data in documents.items()}
        for name, each in artefacts.items():
            check_artefact(image / name, each)
            place = fresh / OCI_LAYOUT.path(each.sha256)
            shutil.copyfile(image / name, place)
            rows[name] = _descriptor(_BYTES, each.sha256, each.size)
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": empty,
            "layers": [{**rows[name], "annotations": {_TITLE: name}} for name in sorted(rows)],
        }
        row = _keep(fresh, canonical(manifest), _MANIFEST)
        listed = {**row, "artifactType": ARTIFACT_TYPE, "annotations": {_REFERENCE: reference}}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [listed]}
        write_atomic(fresh / "index.json", canonical(index))
        write_atomic(fresh / OCI_FILE, canonical({"imageLayoutVersion": "1.0.0"}))
    return str(row["digest"])


def _keep(folder: Path, data: bytes, kind: str) -> dict[str, Any]:
    """Write ``data`` as a blob; its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    write_atomic(folder / OCI_LAYOUT.path(digest), data)
    return _descriptor(kind, digest, len(data))


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}
