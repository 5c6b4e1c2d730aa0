"""How a locked kernel was configured, by the file `.config` of its headers: what modules for it are compiled with."""

from __future__ import annotations

import lzma
import re
import tarfile
from collections.abc import Mapping

from privml.base.errors import InputsError
from privml.lock import deb
from privml.lock.models import Package
from privml.lock.solver import Solver
from privml.store.fetch import Item, fetch
from privml.store.mirrors import urls_of
from privml.store.objects import Store

MAX_SIZE = 4 << 20
"""Maximum bytes of the file; that of a distribution has 300 kB."""
_OPTION = re.compile(r"CONFIG_([A-Za-z0-9_]{1,100})=(\S.*)")


def config_of(package: Package, path: str, store: Store, solver: Solver) -> Mapping[str, str]:
    """The options in the file ``path`` of ``package``, which is fetched if the store does not have it.

    ``InputsError`` if it cannot be fetched, or has no such file.
    """
    if not store.has(package.sha256):
        urls = urls_of(package.archive, package.path, solver.mirrors())
        fetch(store, [Item(package.sha256, package.size, str(package), urls)], pools=solver.pools)
    what = str(package)
    return parse(_file(store.read(package.sha256), path, what), f"{what}: {path}")


def parse(data: bytes, what: str) -> dict[str, str]:
    """The options by name, without `CONFIG_`, each with its value as written; one that is off is not among them.

    The lines are those of the kernel's `scripts/kconfig/confdata.c`. ``InputsError`` for others, and for an option
    that is there twice.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputsError(f"{what}: not UTF-8 at byte {error.start}") from error
    options: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if found := _OPTION.fullmatch(line):
            if found[1] in options:
                raise InputsError(f"{what}: line {number}: CONFIG_{found[1]} is there twice")
            options[found[1]] = found[2]
        elif line and not line.startswith("#"):
            raise InputsError(f"{what}: line {number}: expected CONFIG_NAME=VALUE or a comment")
    return options


def _file(data: bytes, path: str, what: str) -> bytes:
    """One file of a .deb, by its path from the root."""
    try:
        with deb.tar_of(data, "data.tar", what) as archive:
            for entry in archive:
                if entry.name.removeprefix("./") != path:
                    continue
                file = archive.extractfile(entry) if entry.isfile() else None
                if file is None or entry.size > MAX_SIZE:
                    raise InputsError(f"{what}: {path}: expected a file of at most {MAX_SIZE} bytes")
                return file.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise InputsError(f"{what}: its files cannot be read: {error}") from error
    raise InputsError(f"{what}: got no {path}, expected the kernel's configuration there")
