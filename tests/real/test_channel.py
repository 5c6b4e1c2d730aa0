"""The sealed channel inside guests: its vectors, by the Python, `cryptography` and libcrypto that a guest has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import ROOT, only_full
from tests.real.pythons import tree_of
from tests.real.tamper import extract

from privml.image.render import ROOT_LABEL
from privml.image.tools import Bind, ToolsTree

pytestmark = pytest.mark.real

# What `MemoryDenyWriteExecute=` of privml-server.service asks of the kernel: PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN.
CONFINED = """
import ctypes, os, sys
library = ctypes.CDLL(None, use_errno=True)
if library.prctl(65, 1, 0, 0, 0):
    sys.exit(f"PR_SET_MDWE: {os.strerror(ctypes.get_errno())}; expected a kernel of 6.3 or later")
os.execv(sys.executable, [sys.executable, "-B", "-P", *sys.argv[1:]])
"""
CHECK = "/check/channel_vectors.py"


def confined(tree: ToolsTree, package: str, *words: str, check: bool = True) -> bytes:
    """What the tree's Python prints, with our package at ``package`` and memory that cannot become executable."""
    binds = [
        Bind(ROOT / "tests/channel_vectors.py", CHECK),
        Bind(ROOT / "tests/vectors/channel", "/check/vectors/channel"),
        Bind(ROOT / "builder", "/checkout"),
    ]
    argv = ["/usr/bin/python3", "-B", "-P", "-c", CONFINED, *words]
    done = tree.run(argv, binds=binds, env={"PYTHONPATH": package}, check=check)
    return done.stdout + done.stderr


def vectors(tree: ToolsTree, package: str = "/usr/lib/privml") -> dict[str, Any]:
    """The findings of `tests/channel_vectors.py` in a tree."""
    found: dict[str, Any] = json.loads(confined(tree, package, CHECK))
    return found


def built_tree(tools: ToolsTree, image: Path, work: Path) -> ToolsTree:
    """The root of a built image."""
    extract(tools, image / "root.raw", ROOT_LABEL, work)
    return tools.other(work / "tree")


def test_the_python_of_a_built_guest_passes_the_vectors(demo_cpu: Path, tools: ToolsTree, tmp_path: Path) -> None:
    tree = built_tree(tools, demo_cpu, tmp_path)
    found = vectors(tree)
    assert (found["mlkem"], found["kems"]) == ("cryptography", ["x-wing", "x25519"])
    assert found["opened"] == 47
    assert found["opened_by_libcrypto"] > 0
    # The confinement is one: memory that can be written cannot be executed.
    words = ("-c", "import mmap; mmap.mmap(-1, 4096, prot=7)")
    assert b"PermissionError" in confined(tree, "", *words, check=False)


@only_full
def test_debian_13_passes_the_vectors_with_ml_kem_of_its_libcrypto(tools: ToolsTree, tmp_path: Path) -> None:
    found = vectors(tools.other(tree_of("trixie", tmp_path).root), "/checkout")
    assert (found["python"], found["cryptography"].partition(".")[0]) == ("3.13", "43")
    assert (found["mlkem"], found["kems"]) == ("libcrypto.so.3", ["x-wing", "x25519"])
    assert (found["opened"], found["opened_by_libcrypto"] > 0) == (47, True)
