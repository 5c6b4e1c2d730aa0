"""The source of a driver's modules in a package of the distribution: a tar file, and a folder in that."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from privml.base.errors import InputsError
from privml.lock import deb
from privml.lock.models import Package
from privml.recipe.drivers import Source
from privml.store.objects import Store


def unpack_source(record: Source, package: Package, store: Store, target: Path) -> None:
    """Unpack the source into the new directory ``target``; ``InputsError`` if the package has none."""
    body = _file_of(store, package, record.archive)
    inside = target.with_name("unpacked")
    try:
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:*") as archive:
            archive.extractall(inside, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputsError(f"{package}: {record.archive} cannot be unpacked: {error}") from error
    if not (inside / record.folder).is_dir():
        raise InputsError(f"{package}: {record.archive} has no folder {record.folder}")
    (inside / record.folder).rename(target)


def _file_of(store: Store, package: Package, name: str) -> bytes:
    with deb.tar_of(store.read(package.sha256), "data.tar", str(package)) as archive:
        for entry in archive:
            if entry.isfile() and entry.name.removeprefix("./") == name:
                file = archive.extractfile(entry)
                assert file is not None
                return file.read()
    raise InputsError(f"{package}: has no file {name}")
