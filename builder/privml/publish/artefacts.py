"""Fill a pool with the artefacts of a version, from which `image NAME@VERSION --trust` fetches them.

A pool is a directory that any static server serves; its files are named by SHA-256, so several versions and images
share one, and what is there already is not written again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from privml.base.errors import Differs, UsageError
from privml.output import manifest as manifests
from privml.output.artefacts import Artefact, check_artefact
from privml.output.manifest import Manifest
from privml.store import pools


def pool_of(text: str) -> Path:
    """The directory to fill; ``UsageError`` for an address or a directory of another layout."""
    if "://" in text:
        raise UsageError(
            f"`{text[:80]}` is an address, expected a directory",
            hint="fill a directory, and copy it to your server with the server's own tools",
        )
    folder = Path(text)
    if (folder / pools.OCI_FILE).is_file():
        raise UsageError(f"{folder} is an OCI image layout, expected a pool or a new directory")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a directory")
    return folder


def fill(pool: Path, image: Path, artefacts: Mapping[str, Artefact]) -> tuple[int, int]:
    """Copy the artefacts of the image in ``image`` into ``pool``, checking each.

    Returns the number and size of those that were not there; ``BuildError`` if one is not what the manifest says.
    """
    return pools.fill(
        pool,
        ((each.sha256, functools.partial(_checked, image / name, each)) for name, each in sorted(artefacts.items())),
    )


def _checked(path: Path, expected: Artefact) -> Path:
    check_artefact(path, expected)
    return path


def check_image(image: Path, published: Manifest) -> None:
    """``Differs`` if the image in ``image`` is not the published one; ``BuildError`` if there is none."""
    found = manifests.read(image)
    if found != published:
        raise Differs(
            f"{image} is another image than the published {published.name}: got manifest {found.sha256.hex()}, "
            f"expected {published.sha256.hex()}",
            hint="build that version, or name its directory with --from",
        )
