"""Fill a pool with the artefacts of a version, from which `image NAME@VERSION --trust` fetches them.

A pool is a directory that any static server serves, a server that takes files by PUT, or a repository of a registry.
Its files are named by SHA-256, so several versions and images share one, and what is there is not sent again.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from privml.base.errors import Differs, UsageError
from privml.base.steps import step
from privml.output import manifest as manifests
from privml.output.artefacts import Artefact, check_artefact
from privml.output.manifest import FILE, Manifest
from privml.publish.oci import MANIFEST, Carrier, tag_of
from privml.store import pools
from privml.store.pools import Pool
from privml.store.upload import Piece, tag, target, upload


@dataclass(frozen=True)
class Filling:
    """A pool to fill: a ``folder``, or a pool at an ``address``. ``shown`` is how people call it."""

    shown: str
    folder: Path | None = None
    address: Pool | None = None

    @classmethod
    def parse(cls, text: str) -> Filling:
        """Read DIR|URL; ``UsageError`` for a directory of another layout, or an address that cannot be."""
        if "://" in text:
            return cls(text, address=target(text))
        folder = Path(text)
        if (folder / pools.OCI_FILE).is_file():
            raise UsageError(f"{folder} is an OCI image layout, expected a pool or a new directory")
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is not a directory")
        return cls(text, folder=folder)

    def fill(self, image: Path, manifest: Manifest, version: str) -> tuple[int, int]:
        """Copy or upload the artefacts of the image in ``image``, checking each.

        Returns the number and size of those that were not there; ``BuildError`` if one is not what the manifest says.
        A registry also gets an OCI manifest, tagged by name and ``version``: else it would remove blobs again.
        """
        if self.address is None:
            return _copied(self.folder or Path(), image, manifest.artefacts)
        with step(f"Uploading {manifest.name} {version} to {self.shown}"):
            found = upload(
                self.address, [_piece(image, name, each) for name, each in sorted(manifest.artefacts.items())]
            )
            if self.address.layout.tokens:
                self._name(self.address, manifest, version)
        return found

    @staticmethod
    def _name(pool: Pool, manifest: Manifest, version: str) -> None:
        carrier = Carrier.of(manifest.artefacts, {FILE: manifest.encode()})
        upload(
            pool,
            [
                Piece(digest, len(data), "a blob of the OCI manifest", functools.partial(io.BytesIO, data))
                for digest, data in carrier.blobs.items()
            ],
        )
        tag(pool, tag_of(manifest.name, version), MANIFEST, carrier.digest, carrier.manifest)


def _piece(image: Path, name: str, each: Artefact) -> Piece:
    def opened() -> BinaryIO:
        return _checked(image / name, each).open("rb")

    return Piece(each.sha256, each.size, name, opened)


def _copied(pool: Path, image: Path, artefacts: Mapping[str, Artefact]) -> tuple[int, int]:
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
