"""The .debs next to a recipe (`packages: [file:...]`), which come from no archive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pydantic import ValidationError

from privml.base.errors import InputsError
from privml.lock import deb
from privml.lock.debian import not_essential
from privml.lock.models import LOCAL, Package
from privml.recipe.loader import Recipe
from privml.store.objects import Store

MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class LocalDeb:
    """One local .deb: its record in the lock, and its bytes."""

    package: Package
    data: bytes


def local_debs(recipe: Recipe) -> tuple[LocalDeb, ...]:
    """Read the local .debs of ``recipe``; ``InputsError`` if one is missing or not a package for this machine."""
    found: dict[str, LocalDeb] = {}
    for path in recipe.content.local_packages:
        made = _read(recipe, path)
        if made.package.name in found:
            raise InputsError(f"packages: two local packages are called `{made.package.name}`")
        found[made.package.name] = made
    return tuple(found.values())


def store_local(recipe: Recipe, store: Store) -> None:
    """Put the local .debs of ``recipe`` into the store."""
    for each in local_debs(recipe):
        store.add_bytes(each.data)


def _read(recipe: Recipe, path: str) -> LocalDeb:
    place = recipe.path.parent / path
    if not place.resolve().is_relative_to(recipe.path.parent.resolve()):
        raise InputsError(f"packages: `{path}` leads outside the recipe's folder")
    if not place.is_file():
        raise InputsError(f"packages: `{path}` does not exist", hint="paths start at the recipe's folder")
    if place.stat().st_size > MAX_BYTES:
        raise InputsError(f"packages: `{path}` has more than {MAX_BYTES >> 20} MiB")
    data = place.read_bytes()
    lines = deb.control(data, path).splitlines()
    fields = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" "))
    not_essential(fields, f"packages: `{path}`")
    try:
        package = Package.model_validate(
            {
                "name": fields.get("Package", ""),
                "version": fields.get("Version", ""),
                "architecture": fields.get("Architecture", ""),
                "sha256": hashlib.sha256(data).hexdigest(),
                "size": len(data),
                "archive": LOCAL,
                "suite": LOCAL,
                "component": LOCAL,
                "path": path,
            }
        )
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise InputsError(
            f"packages: `{path}`: {'.'.join(map(str, wrong['loc']))}: {wrong['msg'].lower()}"
        ) from error
    distribution = recipe.content.base.record.distribution
    if distribution.kernel.is_kernel(package.name) or package.name in distribution.packages.guest:
        raise InputsError(f"packages: `{path}` would replace the guest's own package `{package.name}`")
    return LocalDeb(package, data)
