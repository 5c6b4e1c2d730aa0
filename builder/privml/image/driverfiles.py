"""The driver's files in the guest's root: modules, libraries, firmware and programs.

They are taken out of the packages one by one. No maintainer script runs, so nothing diverts files of others or asks
alternatives which driver is the current one.
"""

from __future__ import annotations

from privml.base.errors import InputsError
from privml.image.driver import Modules
from privml.image.render import File
from privml.lock import deb
from privml.lock.models import Driver, Package
from privml.recipe.drivers import LIBRARIES, Part
from privml.store.objects import Store

LOADED = "etc/modules-load.d/privml-gpu.conf"
_MODULES = "usr/lib/modules/{kernel}/kernel/drivers/video/{name}"
_MAX_BYTES = 256 << 20


def files_of(driver: Driver, architecture: str, modules: Modules, store: Store) -> dict[str, File]:
    """Every file of the driver, by its path in the root; ``InputsError`` if a package lacks one."""
    record = driver.record
    packages = {package.name: package for package in driver.parts}
    files = {_MODULES.format(kernel=driver.kernel, name=name): File(data) for name, data in modules.items()}
    files[LOADED] = File("".join(f"{name}\n" for name in record.loaded).encode())
    for part in record.user_space(architecture):
        files |= _of_part(part, packages[part.package], store)
    return dict(sorted(files.items()))


def is_of_driver(path: str, driver: Driver) -> bool:
    """Whether ``path`` in the root is one of the driver's files, for any architecture."""
    record = driver.record
    names = [f"{name}.ko" for name in record.modules]
    targets = [target for part in (*record.parts, *record.firmware.values()) for target in part.files.values()]
    return (
        path == LOADED
        or path.startswith(f"{LIBRARIES}/")
        or path in targets
        or path in [_MODULES.format(kernel=driver.kernel, name=name) for name in names]
    )


def _of_part(part: Part, package: Package, store: Store) -> dict[str, File]:
    files = {}
    wanted = dict(part.files)
    with deb.tar_of(store.read(package.sha256), "data.tar", str(package)) as archive:
        for entry in archive:
            target = wanted.pop(entry.name.removeprefix("./"), None)
            if target is None:
                continue
            file = archive.extractfile(entry) if entry.isfile() and entry.size <= _MAX_BYTES else None
            if file is None:
                raise InputsError(f"{package}: {entry.name} is not a regular file of at most {_MAX_BYTES >> 20} MiB")
            files[target] = File(file.read(), executable=target.startswith("usr/bin/"))
            folder, _, name = target.rpartition("/")
            files |= {f"{folder}/{link}": File(link=name) for link in part.links.get(target, ())}
    if wanted:
        raise InputsError(f"{package}: has no file {', '.join(sorted(wanted))}")
    return files
