"""Build provenance of an image: SLSA provenance v1 in an unsigned in-toto Statement v1.

https://slsa.dev/spec/v1.0/provenance. It has no time, place or run id, so that a rebuild from the same recipe and
lock writes the same bytes. Inputs are package URLs with digests, never download addresses.
"""

from __future__ import annotations

import hashlib
from typing import Any

from privml import __version__
from privml.base import strictjson
from privml.image.sbom import FILE as SBOM_FILE
from privml.image.sbom import deb_purl, driver_purl, wheel_purl
from privml.lock.models import Lock
from privml.output.manifest import Manifest
from privml.statement.intoto import STATEMENT_TYPE

FILE = "provenance.json"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://privml-build.dev/buildtypes/image/v1"
BUILDER = "https://privml-build.dev/builders/privml-build/v1"


def provenance(manifest: Manifest, lock: Lock, sbom: bytes) -> bytes:
    """Encode the provenance; its subjects are the artefacts, the manifest and the SBOM."""
    digests = {name: artefact.sha256 for name, artefact in manifest.artefacts.items()}
    digests["manifest.json"] = manifest.sha256.hex()
    digests[SBOM_FILE] = hashlib.sha256(sbom).hexdigest()
    return strictjson.canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(digests.items())],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {"recipe": manifest.name, "variant": manifest.variant},
                    "internalParameters": {"source_date_epoch": manifest.source_date_epoch},
                    "resolvedDependencies": _inputs(manifest, lock),
                },
                "runDetails": {"builder": {"id": BUILDER, "version": {"privml-build": __version__}}},
            },
        }
    )


def _inputs(manifest: Manifest, lock: Lock) -> list[dict[str, Any]]:
    named = {
        "recipe": manifest.recipe_sha256,
        "lock": manifest.lock_sha256,
        "tools lock": lock.tools_sha256,
        "agent files": lock.agent.sha256,
        "guest files": lock.guest.sha256,
        **({} if lock.files is None else {"recipe files": lock.files.sha256}),
        **{f"keyring of the archive {each.label}": each.keyring_sha256 for each in lock.added_archives},
        **{f"signed state of the archive {each.label}": each.inrelease_sha256 for each in lock.added_archives},
    }
    found: list[dict[str, Any]] = [
        {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(named.items())
    ]
    purls = {deb_purl(package, lock): package.sha256 for package in (*lock.debs, *lock.compiler_debs)}
    purls |= {driver_purl(each, lock): each.sha256 for each in lock.driver_files}
    purls |= {wheel_purl(wheel): wheel.sha256 for wheel in lock.wheels}
    # Files of volumes that are inputs themselves, and not inside a wheel.
    found += [
        {"name": f"{slot.kind.name} {volume.name}: {file.path}", "digest": {"sha256": file.sha256}}
        for slot, volume in zip(lock.slots, lock.volumes, strict=True)
        for file in volume.objects
    ]
    return found + [{"uri": purl, "digest": {"sha256": digest}} for purl, digest in sorted(purls.items())]
