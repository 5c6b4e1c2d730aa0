"""Unpack the packages of a tools tree and create the few files their maintainer scripts would create.

All code that determines the tree's content is here and in ``lock.deb``; both are part of the tree's key.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from privml.image import code
from privml.lock import deb
from privml.lock.models import Package
from privml.store.objects import Store

_CODE = ("image/unpack.py", "lock/deb.py")


def tree_key(packages: Sequence[Package]) -> str:
    """The key of the tree with these packages: a hex SHA-256 over them and the code that unpacks them."""
    modules = [f"{digest} {name}" for name, digest in code.digests(_CODE).items()]
    lines = sorted(f"{package.sha256} {package.name}" for package in packages)
    return hashlib.sha256("\n".join([*modules, *lines]).encode()).hexdigest()


def fill(store: Store, packages: Sequence[Package], root: Path, run: Callable[[Sequence[str]], object]) -> None:
    """Fill the empty directory ``root``; ``run`` runs one of its programs, which sees the tree at ``/tree``."""
    unpack(store, packages, root)
    etc = root / "etc"
    for name in ("passwd", "group"):
        shutil.copyfile(root / f"usr/share/base-passwd/{name}.master", etc / name)
    certificates = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    bundle = etc / "ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(path.read_bytes() for path in certificates))
    (etc / "resolv.conf").write_bytes(b"")
    awk = root / "usr/bin/awk"
    if not awk.exists():
        awk.symlink_to("mawk")
    run(["ldconfig", "-r", "/tree"])
    shutil.rmtree(root / "var/cache/ldconfig", ignore_errors=True)


def unpack(store: Store, packages: Sequence[Package], root: Path) -> None:
    """Unpack packages into the directory ``root``; no script of theirs runs."""
    # base-files first: it has the merged-/usr links that the paths of all other packages use.
    ordered = sorted(packages, key=lambda package: (package.name != "base-files", package.name))
    with ThreadPoolExecutor(2) as pool:
        bodies = pool.map(lambda package: store.read(package.sha256), ordered)
        for package, body in zip(ordered, bodies, strict=True):
            deb.unpack(body, root, f"{package.name} {package.version}")
