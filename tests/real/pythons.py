"""Trees of Debian releases with their own Python, and the locked requirements for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.real.conftest import ROOT, privml, succeeded

from privml.image.tools import Bind, ToolsTree
from privml.image.unpack import fill
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.recipe.distributions import DEBIAN, TOOLS

_RECIPE = """\
extends: ./tdx-min.yaml
base: {{distribution: debian, release: {release}}}
kernel: {{package: linux-image-cloud-amd64, suite: {release}-backports}}
firmware: {{tdx: {{package: ovmf-inteltdx, suite: forky}}}}
"""


def version_of(release: str) -> str:
    """The version of a release's Python, such as 3.13."""
    return DEBIAN.releases[release].python.removeprefix("python")


def tree_of(release: str, work: Path) -> ToolsTree:
    """A tree with the release's Python: the tools', or one of the locked packages of a guest of that release."""
    tools = Workplace().tools()
    if release == TOOLS.release.codename:
        return tools
    shutil.copytree(ROOT / "recipes", work / "recipes")
    (work / "recipes/other.yaml").write_text(_RECIPE.format(release=release))
    succeeded(privml("lock", "--allow-expired", str(work / "recipes/other.yaml")))
    root = work / "tree"
    root.mkdir()
    seen = [Bind(root, "/tree", writable=True)]
    packages = read_lock(work / "recipes/other.lock.json").packages
    fill(Workplace().store, packages, root, lambda argv: tools.run(argv, binds=seen))
    return ToolsTree(root, "")


def requirements(version: str, work: Path) -> Path:
    """The locked requirements for a Python of this version, without atheris, which only fuzzing needs."""
    chosen = work / "requirements.txt"
    chosen.write_text(
        re.sub(r"^atheris.*\n(?: +--hash.*\n)*", "", (ROOT / "requirements.txt").read_text(), flags=re.M)
    )
    place = work / "libraries"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    install += ["--require-hashes", "--only-binary", ":all:", "--python-version", version, "--target", str(place)]
    subprocess.run([*install, "--requirement", str(chosen)], check=True, capture_output=True)
    return place


def checkout(place: Path) -> Path:
    """A copy of the tracked files as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in listed.decode().split("\0")[:-1]:
        if not (ROOT / name).is_symlink() and not (ROOT / name).exists():
            continue
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).unlink(missing_ok=True)
        shutil.copy(ROOT / name, place / name, follow_symlinks=False)
    return place
