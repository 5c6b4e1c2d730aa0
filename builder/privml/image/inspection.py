"""What a built image contains: its artefacts, partitions, UKI sections, packages and SBOM."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.errors import BuildError
from privml.image import sbom
from privml.measure import gpt
from privml.measure.pe import headers
from privml.output.manifest import Manifest


def facts_of(directory: Path, manifest: Manifest) -> dict[str, Any]:
    """The contents of the image in ``directory`` as a JSON object. The artefacts are not verified here."""
    return {
        "name": manifest.name,
        "variant": manifest.variant,
        "recipe_sha256": manifest.recipe_sha256,
        "lock_sha256": manifest.lock_sha256,
        "source_date_epoch": manifest.source_date_epoch,
        "artefacts": {name: {"sha256": a.sha256, "size": a.size} for name, a in sorted(manifest.artefacts.items())},
        "root": manifest.root.to_dict(),
        "models": [
            {
                "name": model.name,
                "source": model.source,
                "revision": model.revision,
                "licence": model.licence,
                "signature": model.signature and model.signature.to_dict(),
                "crypt": model.crypt and model.crypt.to_dict(),
                **model.verity.to_dict(),
            }
            for model in manifest.models
        ],
        "data": [
            {
                "name": data.name,
                "source": data.source,
                "crypt": data.crypt and data.crypt.to_dict(),
                **data.verity.to_dict(),
            }
            for data in manifest.data
        ],
        "boot": manifest.boot,
        "kernel": manifest.kernel,
        "options": manifest.cmdline.split(),
        "uki": [
            {"name": section.name, "size": section.virtual_size}
            for section in headers((directory / "uki.efi").read_bytes()).sections
        ],
        "partitions": {
            name: [
                {"name": part.name, "size": part.size}
                for part in gpt.read(directory / name, error=BuildError).partitions
            ]
            for name in dict.fromkeys((*manifest.volumes, *manifest.disks))
        },
        "packages": [list(vars(package).values()) for package in manifest.packages],
        "sbom": _sbom_kinds(directory),
    }


def _sbom_kinds(directory: Path) -> dict[str, int]:
    path = directory / sbom.FILE
    if not path.is_file():
        return {}
    parts = strictjson.loads(path.read_bytes(), what=sbom.FILE)["components"]
    return dict(Counter(part["type"] for part in parts))
