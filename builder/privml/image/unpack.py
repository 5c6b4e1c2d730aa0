"""Fill a tools tree: its packages unpacked, and the few files that their maintainer scripts would have made.

All code that shapes the tree's bytes is here and in ``lock.deb``; both are in the tree's key.
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
    """The key of the tree that these packages make: a hex SHA-256 over them and over the code that unpacks them."""
    modules = [f"{digest} {name}" for name, digest in code.digests(_CODE).items()]
    lines = sorted(f"{package.sha256} {package.name}" for package in packages)
    return hashlib.sha256("\n".join([*modules, *lines]).encode()).hexdigest()


def fill(store: Store, packages: Sequence[Package], root: Path, run: Callable[[Sequence[str]], object]) -> None:
    """Make the tree in the empty directory ``root``; ``run`` runs one of its programs, which sees it at ``/tree``."""
    _unpack(store, packages, root)
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


def _unpack(store: Store, packages: Sequence[Package], root: Path) -> None:
    # base-files first: it brings the merged-/usr links that every other package's paths go through.
    ordered = sorted(packages, key=lambda package: (package.name != "base-files", package.name))
    with ThreadPoolExecutor(2) as pool:
        bodies = pool.map(lambda package: store.read(package.sha256), ordered)
        for package, body in zip(ordered, bodies, strict=True):
            deb.unpack(body, root, f"{package.name} {package.version}")
