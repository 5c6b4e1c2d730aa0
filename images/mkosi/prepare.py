#!/usr/bin/python3
"""mkosi's prepare script: the steps that depend only on the packages. It keeps the resulting tree for later builds.

Runs in the sandbox of the tools tree, after the packages are installed and before any file of ours is in the tree.
Removes the parts of Python that the guest never imports and compiles the rest, with the guest's own Python if the
tools have another version. Writes the tree to ``base.tar`` next
to mkosi.conf; a build with the same packages starts from it (``BaseTrees=``) and skips this script.
"""

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

UNUSED = (
    "test", "idlelib", "ensurepip", "tkinter", "turtledemo", "pydoc_data", "lib2to3", "venv", "unittest", "xmlrpc",
    "wsgiref", "dbm", "curses", "sqlite3", "__phello__",
)


def main(root: Path, place: Path) -> None:
    for pattern in (*(f"usr/lib/python3*/{name}" for name in UNUSED), "usr/lib/python3/dist-packages/*.egg-info"):
        for path in sorted(root.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # Files compiled by maintainer scripts contain times.
    for directory in [*root.rglob("__pycache__")]:
        shutil.rmtree(directory)
    trees = [*sorted(root.glob("usr/lib/python3.*")), root / "usr/lib/python3/dist-packages"]
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if (root / "usr/bin" / ours).exists():
        for tree in filter(Path.is_dir, trees):
            compileall.compile_dir(
                tree, quiet=2, workers=0, stripdir=str(root), prependdir="/",
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
    else:
        # What one version compiles, another does not read. Files that are not for this version are passed over.
        words = ["/usr/bin/python3", "-I", "-B", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
        named = [f"/{tree.relative_to(root)}" for tree in trees if tree.is_dir()]
        subprocess.run(["chroot", root, *words, *named], check=False)
    subprocess.run(
        ["tar", "--create", "--file", place / "base.tar", "--directory", root,
         "--format=pax", "--numeric-owner", "--xattrs", "--sort=name", "."],
        check=True,
    )


# compileall's helpers import this file again.
if __name__ == "__main__":
    main(Path(os.environ["BUILDROOT"]), Path(os.environ["SRCDIR"]))
