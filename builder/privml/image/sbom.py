"""SBOM of an image as CycloneDX 1.6 JSON: packages, wheels, models and data with their files, firmware, artefacts.

It is a pure function of manifest and lock, so every rebuild writes the same bytes: the time is the image's source
date epoch, the serial number is derived from the root hash. The subject is the root hash, which the guest measures.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from privml import __version__
from privml.base import strictjson
from privml.image.driver import patches_of
from privml.image.licences import UNKNOWN, declared
from privml.lock.modelrecord import Data as LockedData
from privml.lock.modelrecord import HubSource
from privml.lock.modelrecord import Model as LockedModel
from privml.lock.models import LOCAL, Lock, Package, Runfile, VendorFile, Wheel
from privml.output.contents import Data, Model
from privml.output.manifest import Manifest

FILE = "sbom.cdx.json"
_NAMESPACE = uuid.UUID("0c4a1c2e-3f0b-5d0e-8a5e-6f5f2b1c9d77")


def deb_purl(package: Package, lock: Lock) -> str:
    """The package URL of a .deb, without an address: its namespace is the distribution, or the added archive's label.

    A file next to the recipe is a generic package with its digest: nobody else has given it the name.
    """
    base = lock.base.record
    name = quote(package.name, safe=".-_~")
    version = quote(package.version, safe=".-_~:")
    if package.archive == LOCAL:
        return f"pkg:generic/{name}@{version}?arch={package.architecture}&checksum=sha256:{package.sha256}"
    if package in lock.outside:
        return f"pkg:deb/{package.archive}/{name}@{version}?arch={package.architecture}"
    distro = base.release.codename
    return f"pkg:deb/{base.distribution.purl}/{name}@{version}?arch={package.architecture}&distro={distro}"


def driver_purl(file: Package | VendorFile, lock: Lock) -> str:
    """The package URL of a package of the driver, or of a file of the vendor, which has the address it came from."""
    if isinstance(file, Package):
        return deb_purl(file, lock)
    name = file.name.removesuffix("-archive").removesuffix(f"-{file.version}")
    return f"pkg:generic/{name}@{file.version}?checksum=sha256:{file.sha256}&download_url={quote(file.url, safe='')}"


def wheel_purl(wheel: Wheel) -> str:
    """The package URL of a wheel."""
    return f"pkg:pypi/{quote(wheel.name, safe='.-_~')}@{quote(wheel.version, safe='.-_~:')}"


def model_purl(model: Model, locked: LockedModel) -> str | None:
    """The package URL of a model on a hub; None for models from elsewhere, which have none."""
    if not isinstance(locked.source, HubSource):
        return None
    organisation, _, name = locked.source.repo.partition("/")
    return f"pkg:huggingface/{quote(organisation, safe='.-_~')}/{quote(name, safe='.-_~')}@{model.revision}"


def sbom(
    manifest: Manifest,
    lock: Lock,
    licences: Mapping[str, Sequence[str]],
    depends: Mapping[str, Sequence[str]],
    of_wheels: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> bytes:
    """Encode the SBOM.

    ``licences`` are the declared licences of packages and wheels, where known; ``depends`` are the packages that each
    package of the guest depends on, ``of_wheels`` the wheels that each wheel requires.
    """
    parts = [_package(package, lock, licences, "library") for package in lock.packages]
    parts += [_package(package, lock, licences, "firmware") for package in lock.firmware_debs]
    parts += _driver(lock, licences)
    parts += [_wheel(wheel, licences) for wheel in lock.wheels]
    models = list(zip(manifest.models, lock.models, strict=True))
    parts += [*(_model(model, locked) for model, locked in models), *_files(manifest)]
    parts += [_data(data, locked) for data, locked in zip(manifest.data, lock.data, strict=True)]
    parts.sort(key=lambda part: str(part["bom-ref"]))
    root_hash = manifest.root.root_hash.hex()
    subject = f"root:{root_hash}"
    return strictjson.pretty(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, root_hash)}",
            "version": 1,
            "metadata": {
                "timestamp": datetime.fromtimestamp(manifest.source_date_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "tools": {"components": [{"type": "application", "name": "privml-build", "version": __version__}]},
                "component": {
                    "type": "operating-system",
                    "bom-ref": subject,
                    "name": manifest.name,
                    "version": root_hash,
                    "properties": _properties(
                        {
                            "config_sha256": manifest.config_sha256,
                            "kernel": manifest.kernel,
                            "lock_sha256": manifest.lock_sha256,
                            "recipe_sha256": manifest.recipe_sha256,
                            "root_hash": root_hash,
                            "tools_lock_sha256": lock.tools_sha256,
                            "variant": manifest.variant,
                        }
                    ),
                },
            },
            "components": parts,
            "dependencies": [
                {"ref": subject, "dependsOn": [part["bom-ref"] for part in parts]},
                *_edges(manifest, lock, depends, of_wheels),
            ],
        }
    )


def _package(package: Package, lock: Lock, licences: Mapping[str, Sequence[str]], kind: str) -> dict[str, Any]:
    purl = deb_purl(package, lock)
    return {
        "type": kind,
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        "hashes": _hashes(package.sha256),
        "licenses": declared(licences.get(package.name, [UNKNOWN])),
    }


def _driver(lock: Lock, licences: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The driver's packages; that of the source, or the runfile, says which modules were compiled from it."""
    if lock.driver is None:
        return []
    found = [_package(package, lock, licences, _kind(package)) for package in lock.driver.parts]
    found += [_vendor_file(archive, lock, licences, "library") for archive in lock.driver.fabric]
    facts = {
        "compiled_for": lock.driver.kernel,
        "modules": " ".join(lock.driver.record.modules),
        "patches": " ".join(patches_of(lock.driver)),
    }
    if isinstance(lock.driver.source, Runfile):
        source = _vendor_file(lock.driver.source, lock, licences, "device-driver")
    else:
        source = _package(lock.driver.source, lock, licences, "device-driver")
    return [*found, {**source, "properties": _properties(facts)}]


def _vendor_file(file: VendorFile, lock: Lock, licences: Mapping[str, Sequence[str]], kind: str) -> dict[str, Any]:
    purl = driver_purl(file, lock)
    return {
        "type": kind,
        "bom-ref": purl,
        "name": file.name,
        "version": file.version,
        "purl": purl,
        "hashes": _hashes(file.sha256),
        "licenses": declared(licences.get(file.name, [UNKNOWN])),
    }


def _kind(package: Package) -> str:
    return "firmware" if package.component == "non-free-firmware" else "library"


def _wheel(wheel: Wheel, licences: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    purl = wheel_purl(wheel)
    return {
        "type": "library",
        "bom-ref": purl,
        "name": wheel.name,
        "version": wheel.version,
        "purl": purl,
        "hashes": _hashes(wheel.sha256),
        "licenses": declared(licences.get(wheel.name, [UNKNOWN]), spdx=True),
        "properties": _properties({"file": wheel.file}),
    }


def _model(model: Model, locked: LockedModel) -> dict[str, Any]:
    """A model with its files inside. Its version is the revision, or the digest of its file; of several files it is
    the volume's root hash.
    """
    root_hash, signature = model.verity.root_hash.hex(), model.signature
    first = locked.files[0]
    purl = model_purl(model, locked)
    return {
        "type": "machine-learning-model",
        "bom-ref": _ref(model),
        "name": model.name,
        "version": model.revision
        or (f"sha256:{first.sha256}" if len(locked.files) == 1 else f"root-hash:{root_hash}"),
        **({} if purl is None else {"purl": purl}),
        # One file is the model; several are named below, and no digest over them is one that others know.
        **({"hashes": _hashes(first.sha256)} if len(locked.files) == 1 else {}),
        "licenses": declared([model.licence or UNKNOWN], spdx=True),
        "components": _inside(_ref(model), locked),
        "properties": _properties(
            {
                "format": model.format,
                "root_hash": root_hash,
                "source": model.source,
                **({} if signature is None else {"signer": str(signature), "signature_sha256": signature.sha256}),
            }
        ),
    }


def _data(data: Data, locked: LockedData) -> dict[str, Any]:
    """Data of the services with its files inside. Its version is the volume's root hash."""
    root_hash = data.verity.root_hash.hex()
    return {
        "type": "data",
        "bom-ref": _ref(data),
        "name": data.name,
        "version": f"root-hash:{root_hash}",
        "components": _inside(_ref(data), locked),
        "properties": _properties({"root_hash": root_hash, "source": data.source}),
    }


def _inside(ref: str, locked: LockedModel | LockedData) -> list[dict[str, Any]]:
    """The files in a volume."""
    return [
        {
            "type": "file",
            "bom-ref": f"{ref}/{file.path}",
            "name": file.path,
            "hashes": _hashes(file.sha256),
        }
        for file in locked.content
    ]


def _ref(entry: Model | Data) -> str:
    return f"{entry.kind.name}:{entry.verity.root_hash.hex()}"


def _edges(
    manifest: Manifest, lock: Lock, depends: Mapping[str, Sequence[str]], of_wheels: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Packages on packages, wheels on wheels, models on their wheels, and volumes on what is in them."""
    refs = {package.name: deb_purl(package, lock) for package in lock.packages}
    edges = {refs[name]: [refs[other] for other in others] for name, others in depends.items()}
    purls = {wheel.name: wheel_purl(wheel) for wheel in lock.imported}
    edges |= {purls[name]: [purls[other] for other in others] for name, others in of_wheels.items()}
    for model, locked in zip(manifest.models, lock.models, strict=True):
        wheel = lock.wheel_of(locked)
        edges[_ref(model)] = [] if wheel is None else [wheel_purl(wheel)]
    edges |= {f"file:{entry.volume}": [_ref(entry)] for entry in manifest.filled}
    return [{"ref": ref, "dependsOn": sorted(others)} for ref, others in sorted(edges.items()) if others]


def _files(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": _hashes(artefact.sha256)}
        for name, artefact in sorted(manifest.artefacts.items())
    ]


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"privml:{name}", "value": value} for name, value in sorted(values.items())]
