"""The driver's files in the guest's root: modules, libraries, firmware and programs.

They are taken out of the packages, or of the vendor's files, one by one. No script of either runs, so nothing
diverts files of others or asks alternatives which driver is the current one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from privml.base.errors import InputsError
from privml.image import driverrunfile
from privml.image.driver import Modules
from privml.image.render import File
from privml.image.tools import ToolsTree
from privml.lock import deb, vendorarchive
from privml.lock.models import Driver, Package, Runfile
from privml.recipe.drivers import LIBRARIES, Part
from privml.recipe.fabrics import Fabric
from privml.store.objects import Store

LOADED = "etc/modules-load.d/privml-gpu.conf"
_MODULES = "usr/lib/modules/{kernel}/kernel/drivers/video/{name}"
_MAX_BYTES = 256 << 20


def files_of(
    driver: Driver, architecture: str, modules: Modules, store: Store, tools: ToolsTree, place: Path
) -> dict[str, File]:
    """Every file of the driver, by its path in the root; ``InputsError`` if a package or the runfile lacks one.

    ``place`` is the name of a new directory, for the time that a runfile is unpacked.
    """
    record = driver.record
    parts = record.user_space(architecture)
    files = {_MODULES.format(kernel=driver.kernel, name=name): File(data) for name, data in modules.items()}
    files[LOADED] = File("".join(f"{name}\n" for name in record.loaded).encode())
    if isinstance(driver.source, Runfile):
        wanted = [name for part in parts for name in part.files]
        content = driverrunfile.files_in(wanted, driver.source, store, tools, place)
        for part in parts:
            files |= _placed(part.files, part.links, content)
    else:
        packages: dict[str | None, Package] = {package.name: package for package in driver.parts}
        for part in parts:
            content = _in_package(part, packages[part.package], store)
            files |= _placed(part.files, part.links, content)
    if driver.board is not None:
        files |= _of_fabric(driver, driver.board, store)
    return dict(sorted(files.items()))


def is_of_driver(path: str, driver: Driver) -> bool:
    """Whether ``path`` in the root is one of the driver's files, for any architecture."""
    record = driver.record
    names = [f"{name}.ko" for name in record.modules]
    targets = [target for part in (*record.parts, *record.firmware.values()) for target in part.files.values()]
    if driver.board is not None:
        targets += [target for archive in driver.board.archives.values() for target in archive.files.values()]
    return (
        path == LOADED
        or path.startswith(f"{LIBRARIES}/")
        or path in targets
        or path in [_MODULES.format(kernel=driver.kernel, name=name) for name in names]
    )


def _of_fabric(driver: Driver, board: Fabric, store: Store) -> dict[str, File]:
    """What the guest gets of the vendor's archives for switches."""
    files: dict[str, File] = {}
    for locked, archive in zip(driver.fabric, board.archives.values(), strict=True):
        with store.path(locked.sha256, verify=True).open("rb") as file:
            content = vendorarchive.read(file, archive.name, archive.files, str(locked))
        files |= _placed(archive.files, archive.links, content)
    return files


def _placed(
    wanted: Mapping[str, str], links: Mapping[str, tuple[str, ...]], content: Mapping[str, bytes]
) -> dict[str, File]:
    files = {}
    for name, target in wanted.items():
        files[target] = File(content[name], executable=target.startswith("usr/bin/"))
        folder, _, last = target.rpartition("/")
        files |= {f"{folder}/{link}": File(link=last) for link in links.get(target, ())}
    return files


def _in_package(part: Part, package: Package, store: Store) -> dict[str, bytes]:
    """The content of the part's files, by their path in the package."""
    found = {}
    wanted = set(part.files)
    with deb.tar_of(store.read(package.sha256), "data.tar", str(package)) as archive:
        for entry in archive:
            name = entry.name.removeprefix("./")
            if name not in wanted:
                continue
            wanted.remove(name)
            file = archive.extractfile(entry) if entry.isfile() and entry.size <= _MAX_BYTES else None
            if file is None:
                raise InputsError(f"{package}: {entry.name} is not a regular file of at most {_MAX_BYTES >> 20} MiB")
            found[name] = file.read()
    if wanted:
        raise InputsError(f"{package}: has no file {', '.join(sorted(wanted))}")
    return found
