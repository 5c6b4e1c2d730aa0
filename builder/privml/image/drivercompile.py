"""Compile a driver's kernel modules with the locked toolchain: nothing else decides their bytes.

Toolchain and headers of the kernel are unpacked into a tree of their own, whose programs run in the sandbox, without
a network. The source is at one path there, because the compiler writes it into the modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from privml.base.errors import BuildError
from privml.image.tools import Bind, ToolsTree
from privml.lock import deb
from privml.lock.models import Driver
from privml.store.objects import Store

SOURCE = "/build/driver"
Unpack = Callable[[Path], None]
"""Writes the modules' source into a new directory."""
_ENVIRONMENT = {
    "PATH": "/usr/bin:/usr/sbin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "KBUILD_BUILD_USER": "privml",
    "KBUILD_BUILD_HOST": "privml",
    "KBUILD_BUILD_TIMESTAMP": "@0",
    "KBUILD_BUILD_VERSION": "1",
}
_SECONDS = 3600.0


def compiled(
    driver: Driver, unpack: Unpack, patches: Mapping[str, bytes], store: Store, tools: ToolsTree, place: Path
) -> tuple[dict[str, bytes], bytes]:
    """Compile in the new directory ``place`` what ``unpack`` writes, with the patches; returns the modules without
    debugging information, by file name, and the kernel's Module.symvers.
    """
    record = driver.record
    tree = place / "toolchain"
    _toolchain(driver, store, tree)
    abi = driver.kernel.rpartition("-")[0]
    headers = f"usr/src/linux-headers-{driver.kernel}"
    # The modules' type information is for tracing, which the guest has not; it is not made without this file.
    (tree / headers / "vmlinux").unlink(missing_ok=True)
    work = place / "build"
    source = work / Path(SOURCE).name
    unpack(source)
    sandbox = tools.other(tree)
    seen = [Bind(work, str(Path(SOURCE).parent), writable=True)]

    def run(argv: list[str], what: str, stdin: bytes | None = None) -> None:
        sandbox.run(
            argv,
            binds=seen,
            env=_ENVIRONMENT,
            chdir=SOURCE,
            stdin=stdin,
            timeout=_SECONDS,
            what=what,
            error=BuildError,
        )

    for name, data in patches.items():
        run(["patch", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--batch"], f"patch {name}", data)
    run(
        [
            "make",
            f"--jobs={len(os.sched_getaffinity(0))}",
            "modules",
            f"NV_KERNEL_MODULES={' '.join(record.modules)}",
            f"SYSSRC=/usr/src/linux-headers-{abi}-common",
            f"SYSOUT=/{headers}",
            f"KERNEL_UNAME={driver.kernel}",
            f"CC={record.compiler}",
            "IGNORE_CC_MISMATCH=1",
        ],
        f"the compilation of the driver {record.vendor} {record.version}",
    )
    files = {f"{name}.ko": source / f"{name}.ko" for name in record.modules}
    run(["strip", "--strip-debug", *files], "strip")
    return {name: path.read_bytes() for name, path in files.items()}, (tree / headers / "Module.symvers").read_bytes()


def _toolchain(driver: Driver, store: Store, tree: Path) -> None:
    tree.mkdir()
    # base-files first: it has the merged-/usr links that the paths of all other packages use.
    for package in sorted(driver.toolchain, key=lambda each: (each.name != "base-files", each.name)):
        deb.unpack(store.read(package.sha256), tree, str(package))
    (tree / "usr/bin/awk").symlink_to("mawk")  # by a maintainer script elsewhere
