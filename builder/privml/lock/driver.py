"""Lock the driver of a recipe's GPUs: its source, its user space, and all that compiles its modules.

Source and user space are packages, or the vendor's runfile that the recipe names; the rest is always the release's.
GPUs in protected PCIe mode need the vendor's archives for switches too.

The headers of a kernel leave the archive within weeks, long before the kernel itself. So everything is locked
together, and packages in the store are kept when no archive lists them any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from privml.base.errors import InputsError
from privml.lock import kernelconfig, runfile, vendorarchive
from privml.lock.debian import upstream_version
from privml.lock.models import Driver, Lock, Package, Runfile, VendorArchive, VendorFile
from privml.lock.solver import Solver, pins_of, solve
from privml.lock.wanted import Wanted, in_order
from privml.recipe import drivers
from privml.recipe.distributions import Kernel, Version
from privml.recipe.gpu import DriverRunfile, FabricArchive, Gpu
from privml.recipe.loader import Recipe
from privml.recipe.packages import Request
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool


def driver_of(
    recipe: Recipe, packages: Sequence[Package], previous: Lock | None, store: Store, solver: Solver
) -> Driver | None:
    """The locked driver of ``recipe`` for the kernel among ``packages``; None for a machine without GPUs.

    ``InputsError`` if the driver was never built for this kernel, or the archives have no headers of it any more.
    """
    if recipe.content.gpu is None:
        return None
    record = recipe.content.gpu.record
    kernel = record.base.distribution.kernel
    release, locked = kernel_of(kernel, packages)
    _check_kernel(record, kernel, packages)
    before = previous.driver if previous is not None else None
    if before is not None and solver.upgrade is None and same_driver(recipe, packages, before):
        return before
    if before is not None and (before.version, before.kernel) != (record.version, release):
        before = None
    suite = recipe.content.kernel.suite
    alone = _alone(recipe)
    held = before.debs if before is not None else ()
    headers = headers_of(record, release)
    pins = {**pins_of(held, solver), **dict.fromkeys(headers, locked.version)}
    wanted = Wanted(record.base, toolchain_of(record, release, suite), alone, pins)
    found = solve(wanted, held, before.archives if before is not None else (), store, solver)
    _check_headers(found.packages, headers, locked)
    _check_config(record, release, found.packages, store, solver)
    _check_versions(record, found.alone)
    source: Package | Runfile
    if isinstance(record.source, drivers.Runfile):
        source, *parts = (_runfile(recipe, record, store, solver.pools),)
    else:
        source, *parts = found.alone
    return Driver(
        vendor=record.vendor,
        version=record.version,
        kernel=release,
        archives=found.archives,
        requested=tuple(map(str, wanted.install)),
        source=source,
        toolchain=found.packages,
        parts=in_order(parts),
        fabric=_fabric(recipe, store, solver.pools),
    )


def same_driver(recipe: Recipe, packages: Sequence[Package], locked: Driver | None) -> bool:
    """Whether ``locked`` is what ``recipe`` asks for: the driver, for the kernel among ``packages``."""
    gpu = recipe.content.gpu
    if gpu is None or locked is None:
        return gpu is None and locked is None
    record = gpu.record
    release, _ = kernel_of(record.base.distribution.kernel, packages)
    requested = toolchain_of(record, release, recipe.content.kernel.suite)
    names = sorted(each.package for each in gpu.record.user_space(gpu.architecture) if each.package)
    asked = gpu.driver.runfile
    return (
        (locked.vendor, locked.version, locked.kernel) == (record.vendor, record.version, release)
        and locked.requested == tuple(map(str, requested))
        and [package.name for package in locked.parts] == names
        and (asked is None or _is_asked(locked.source, asked))
        and len(locked.fabric) == len(archives := fabric_of(gpu))
        and all(map(_is_asked, locked.fabric, archives.values()))
    )


def fabric_of(gpu: Gpu) -> dict[str, FabricArchive]:
    """The archives that a recipe names for the switches of its GPUs, by their name in the board's record."""
    chosen = gpu.driver.fabric
    return {} if gpu.board is None or chosen is None else {name: getattr(chosen, name) for name in gpu.board.archives}


def kernel_of(kernel: Kernel, packages: Sequence[Package]) -> tuple[str, Package]:
    """The release of the kernel among ``packages``, as `uname -r` prints it, and its package."""
    found = {package.name: package for package in packages}
    for name in kernel.chosen(sorted(found)):
        for prefix in (kernel.parts[0], kernel.image):
            if name.startswith(prefix):
                return name.removeprefix(prefix), found[name]
    raise InputsError("the lock has no kernel", hint="renew it with `privml-build lock NAME`")


def headers_of(record: drivers.Driver, release: str) -> tuple[str, ...]:
    """The packages that have the headers of the kernel ``release``."""
    return tuple(_of_release(name, release) for name in record.headers)


def _of_release(pattern: str, release: str) -> str:
    abi, _, flavour = release.rpartition("-")
    return pattern.format(abi=abi, flavour=flavour)


def toolchain_of(record: drivers.Driver, release: str, suite: str | None) -> tuple[Request, ...]:
    """The requests for all that compiles the driver's modules for the kernel ``release`` of ``suite``."""
    headers = (Request(name, suite) for name in headers_of(record, release))
    return (*map(Request, record.toolchain), *headers)


def _alone(recipe: Recipe) -> tuple[Request, ...]:
    """The requests for source and user space, which are installed without what they depend on."""
    gpu = recipe.content.gpu
    assert gpu is not None
    if isinstance(gpu.record.source, drivers.Runfile):
        return ()
    source, parts = gpu.record.source, gpu.record.user_space(gpu.architecture)
    asked = (Request(each.package, each.suite) for each in parts if each.package is not None)
    return (Request(source.package, source.suite), *asked)


def _runfile(recipe: Recipe, record: drivers.Driver, store: Store, pools: Sequence[Pool]) -> Runfile:
    """The runfile that the recipe names, fetched and checked to be the driver's."""
    gpu = recipe.content.gpu
    assert gpu is not None and gpu.driver.runfile is not None and isinstance(record.source, drivers.Runfile)
    url, sha256, name = gpu.driver.runfile.url, gpu.driver.runfile.sha256, record.source.name
    where = recipe.origin("gpu.driver.runfile.url")
    path = _fetched(gpu.driver.runfile, f"{name}.run", where, store, pools)
    with path.open("rb") as file:
        said = runfile.header(file, f"{where}: {name}.run")
    if (said.name, said.version) != (name, record.version):
        raise InputsError(
            f"driver-version: {where}: got a file that unpacks to {said.name}, version {said.version}, "
            f"expected {name}, version {record.version}",
            hint="compare address and SHA-256 with those that the vendor publishes for this version",
        )
    return Runfile(name=name, version=record.version, url=url, sha256=sha256, size=path.stat().st_size)


def _fabric(recipe: Recipe, store: Store, pools: Sequence[Pool]) -> tuple[VendorArchive, ...]:
    """The archives that the recipe names for switches, fetched and checked to be the driver's."""
    gpu = recipe.content.gpu
    if gpu is None or gpu.board is None:
        return ()
    found = []
    for name, asked in fabric_of(gpu).items():
        archive = gpu.board.archives[name]
        where = recipe.origin(f"gpu.driver.fabric.{name}.url")
        path = _fetched(asked, f"{archive.name}.tar.xz", where, store, pools)
        with path.open("rb") as file:
            vendorarchive.read(file, archive.name, archive.files, f"{where}: {archive.name}.tar.xz")
        size = path.stat().st_size
        found.append(
            VendorArchive(
                name=archive.name, version=gpu.driver.version, url=asked.url, sha256=asked.sha256, size=size
            )
        )
    return tuple(found)


def _fetched(
    asked: DriverRunfile | FabricArchive, name: str, where: str, store: Store, pools: Sequence[Pool]
) -> Path:
    """The file that the recipe names, in the store."""
    if not store.has(asked.sha256):
        try:
            fetch(store, [Item(asked.sha256, None, name, (asked.url,))], pools=pools)
        except InputsError as error:
            hint = "name a pool that has it (--pool), or another address in the recipe"
            raise InputsError(f"{where}: {error.message}", hint=hint) from error
    return store.path(asked.sha256, verify=True)


def _is_asked(locked: Package | VendorFile, asked: DriverRunfile | FabricArchive) -> bool:
    return isinstance(locked, VendorFile) and (locked.url, locked.sha256) == (asked.url, asked.sha256)


def _check_kernel(record: drivers.Driver, kernel: Kernel, packages: Iterable[Package]) -> None:
    version = kernel.version((package.name, package.version) for package in packages)
    if version is None or record.kernel(version) is None:
        got = "none" if version is None else "{}.{}".format(*version)
        ranges = " or ".join(f"from {_shown(each.first)} to before {_shown(each.before)}" for each in record.kernels)
        raise InputsError(
            f"driver-kernel: the driver {record.vendor} {record.version} was never built for the kernel {got}, "
            f"expected {ranges}",
            hint="keep the kernel of the previous lock, or use a driver that has a record for this kernel",
        )


def _check_headers(packages: Iterable[Package], headers: Sequence[str], kernel: Package) -> None:
    found = {package.name: package for package in packages}
    for name in headers:
        if name not in found or found[name].version != kernel.version:
            got = found[name].version if name in found else "none"
            raise InputsError(
                f"driver-kernel: got {name} {got}, expected {kernel.version}, the version of {kernel.name}",
                hint="the archive has the headers of its newest kernel only: upgrade the kernel with "
                "`privml-build lock NAME --upgrade-package KERNEL`",
            )


def _check_config(
    record: drivers.Driver, release: str, packages: Iterable[Package], store: Store, solver: Solver
) -> None:
    """Refuse a kernel without the cryptography that the driver's confidential computing needs.

    The modules would compile and load. ``image.driver`` looks at what they use, when minutes have passed.
    """
    name = headers_of(record, release)[0]
    headers = next(package for package in packages if package.name == name)
    config = kernelconfig.config_of(headers, _of_release(record.config, release), store, solver)
    missing = [f"CONFIG_{option}" for option in record.options if config.get(option) not in ("y", "m")]
    if missing:
        raise InputsError(
            f"driver-crypto: {headers}: got no {', '.join(missing)}, expected y or m: without them "
            f"{record.vendor} {record.version} cannot use a GPU in confidential mode",
            hint="use a kernel package that has these options, or keep the kernel of the previous lock",
        )


def _check_versions(record: drivers.Driver, packages: Iterable[Package]) -> None:
    for package in packages:
        if (got := upstream_version(package.version)) != record.version:
            raise InputsError(
                f"driver-version: got {package.name} {got}, expected {record.version}: modules, libraries, firmware "
                f"and persistence daemon are of one version",
                hint="the archive has another version now: keep the lock, or add a record for that version",
            )


def _shown(version: Version) -> str:
    return "{}.{}".format(*version)
