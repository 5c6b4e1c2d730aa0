"""The modules of a locked driver: taken from the store, else compiled and checked."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from privml.base import strictjson
from privml.base.errors import BuildError
from privml.base.steps import say, step
from privml.image import code, driverpackage, driverrunfile, kernelmodule
from privml.image.drivercompile import Unpack, compiled
from privml.image.kernelmodule import KernelModule
from privml.image.tools import ToolsTree
from privml.lock.models import Driver, Runfile
from privml.lock.trees import DRIVER_PATCHES, images_folder
from privml.recipe.drivers import Source
from privml.store.objects import Store

# What decides the modules' bytes, besides the packages, and what more for each form of their source.
_CODE = ("image/drivercompile.py", "lock/deb.py")
_CODE_OF_PACKAGE = ("image/driverpackage.py",)
_CODE_OF_RUNFILE = ("image/driverrunfile.py", "lock/runfile.py", "lock/vendortar.py")

Modules = Mapping[str, bytes]


def patches_of(driver: Driver) -> dict[str, bytes]:
    """The patches that make the driver's source fit its kernel, by file name, in order."""
    major, minor = (int(part) for part in driver.kernel.split(".")[:2])
    kernels = driver.record.kernel((major, minor))
    names = () if kernels is None else kernels.patches
    return {name: (images_folder() / DRIVER_PATCHES / name).read_bytes() for name in names}


def inputs_of(driver: Driver) -> dict[str, str]:
    """All that decides the modules' bytes, by readable names."""
    record = driver.record
    return {
        "driver": f"{record.vendor} {record.version}",
        "kernel": driver.kernel,
        "modules": " ".join(record.modules),
        "compiler": record.compiler,
        f"source {driver.source.name}": f"{driver.source.version} {driver.source.sha256}",
        **{f"package {each.name}": f"{each.version} {each.sha256}" for each in driver.toolchain},
        **{f"patch {name}": hashlib.sha256(data).hexdigest() for name, data in patches_of(driver).items()},
        **code.digests((*_CODE, *(_CODE_OF_RUNFILE if isinstance(driver.source, Runfile) else _CODE_OF_PACKAGE))),
    }


def key(driver: Driver) -> str:
    """The digest of the inputs, which names the modules in the store, and their record."""
    return hashlib.sha256(strictjson.canonical(inputs_of(driver))).hexdigest()


def modules_of(driver: Driver, store: Store, tools: ToolsTree, work: Path, *, forced: bool = False) -> Modules:
    """The driver's modules by file name; compiled in the new directory ``work`` if the store has none, or ``forced``.

    ``BuildError`` if a check finds them unusable.
    """
    name = key(driver)
    packed = work.with_name(f"{work.name}.tar")
    if not forced and store.drivers.take(name, packed):
        modules = _unpacked(packed.read_bytes())
        packed.unlink()
        say(f"driver: {driver.vendor} {driver.version} for {driver.kernel}: cached")
    else:
        modules, _ = compiled_and_checked(driver, store, tools, work)
        keep(driver, modules, store, packed)
    return modules


def keep(driver: Driver, modules: Modules, store: Store, packed: Path) -> None:
    """Keep the modules in the store; ``packed`` is the name of a new file next to which there is room for them."""
    packed.write_bytes(_packed(modules))
    store.drivers.keep(key(driver), packed)
    packed.unlink()


def is_kept(driver: Driver, store: Store) -> bool:
    """Whether the store has the modules, so that the toolchain is not needed."""
    return store.drivers.has(key(driver))


def check(driver: Driver, modules: Modules, symvers: bytes) -> tuple[str, ...]:
    """Raise ``BuildError`` if a module cannot be used; returns the kernel's cryptography that they use."""
    read = {name: kernelmodule.parse(data, name) for name, data in modules.items()}
    kernel = kernelmodule.exported(symvers, "Module.symvers")
    offered = kernel.union(*(module.exports for module in read.values()))
    for name, module in read.items():
        if missing := sorted(module.needed - offered):
            raise BuildError(f"driver-symbols: {name} needs {_some(missing)}, which {driver.kernel} does not export")
        if (got := module.fact("vermagic").partition(" ")[0]) != driver.kernel:
            raise BuildError(f"driver-vermagic: {name} is for the kernel {got or 'none'}, expected {driver.kernel}")
        if (got := module.fact("version")) != driver.version:
            raise BuildError(f"driver-version: {name} has the version {got or 'none'}, expected {driver.version}")
        if debug := [section for section in module.sections if section.startswith((".debug", ".rela.debug"))]:
            raise BuildError(f"driver-debug: {name} has {_some(debug)}, expected no debugging information")
    return _crypto(driver, read)


def _crypto(driver: Driver, read: Mapping[str, KernelModule]) -> tuple[str, ...]:
    used = frozenset[str]().union(*(module.needed for module in read.values()))
    for group in driver.record.crypto:
        if not used & set(group):
            raise BuildError(
                f"driver-crypto: no module uses {' or '.join(group)} of the kernel: its cryptography is stubs, and "
                "confidential computing would fail when a GPU is used",
                hint="a compile test of the driver fails on this kernel: see the patches in images/drivers",
            )
    return tuple(sorted(name for name in used if name.startswith(("crypto_", "ecc_", "public_key_"))))


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")


def compiled_and_checked(
    driver: Driver, store: Store, tools: ToolsTree, work: Path
) -> tuple[Modules, tuple[str, ...]]:
    """Compile in the new directory ``work``; modules by file name, and the kernel's cryptography that they use."""
    with step(f"Compiling {driver.vendor} {driver.version} for {driver.kernel}, which takes minutes"):
        work.mkdir()
        modules, symvers = compiled(driver, _unpack(driver, store, tools), patches_of(driver), store, tools, work)
    return modules, check(driver, modules, symvers)


def _unpack(driver: Driver, store: Store, tools: ToolsTree) -> Unpack:
    """What writes the modules' source, which is in a package or in the vendor's runfile."""
    locked, record = driver.source, driver.record.source
    if isinstance(locked, Runfile):
        folder = record.folder
        return lambda target: driverrunfile.unpack_source(folder, locked, store, tools, target)
    assert isinstance(record, Source), "the lock was checked when it was read"
    return lambda target: driverpackage.unpack_source(record, locked, store, target)


def _packed(modules: Modules) -> bytes:
    """The modules as one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(modules.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _unpacked(data: bytes) -> Modules:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive}
        return {name: file.read() for name, file in files.items() if file is not None}
