"""What a recipe adds is in the image, and in no other way than it says."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, privml, succeeded
from tests.real.tamper import extract

from privml.image.render import ROOT_LABEL
from privml.image.workplace import Workplace
from privml.output.manifest import Manifest, read
from privml.recipe.distributions import TOOLS
from privml.recipe.guestroot import PROGRAMS
from privml.recipe.loader import shipped
from privml.vm.ask import await_ready
from privml.vm.launch import launch_of
from privml.vm.machine import started

pytestmark = pytest.mark.real

BUILT = ("root.raw", "uki.efi", "firmware.fd")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example recipe, locked again for this checkout, and built."""
    folder = tmp_path_factory.mktemp("additions")
    shutil.copytree(shipped(), folder / "recipes")
    shutil.copytree(ROOT / "tests/real/additions", folder / "recipes", dirs_exist_ok=True, symlinks=True)
    recipe = str(folder / "recipes/additions.yaml")
    succeeded(privml("lock", recipe))
    succeeded(privml("image", recipe, "--output", str(folder / "first")))
    return folder / "first"


@pytest.fixture(scope="module")
def manifest(image: Path) -> Manifest:
    return read(image)


def test_a_second_build_has_the_same_bytes(image: Path, manifest: Manifest) -> None:
    recipe = str(image.parent / "recipes/additions.yaml")
    succeeded(privml("image", recipe, "--force", "--output", str(image.parent / "second")))
    again = read(image.parent / "second")
    assert [again.artefacts[name] for name in BUILT] == [manifest.artefacts[name] for name in BUILT]


def test_the_root_has_what_was_declared(image: Path, tmp_path: Path) -> None:
    extract(Workplace().tools(), image / "root.raw", ROOT_LABEL, tmp_path)
    root, files = tmp_path / "tree", ROOT / "tests/real/additions/files"
    for path, source in {"etc/acme/settings.json": "settings.json", "usr/lib/acme/table": "acme/table"}.items():
        assert (root / path).read_bytes() == (files / source).read_bytes()
        assert stat.S_IMODE((root / path).stat().st_mode) == 0o644
    assert (root / "usr/lib/acme/newest").readlink() == Path("table")
    assert (root / "etc/sysctl.d/privml-recipe.conf").read_text() == "net.core.somaxconn = 4096\nvm.swappiness = 10\n"
    assert (root / "etc/modules-load.d/privml-recipe.conf").read_text() == "tcp_bbr\nsch_fq\n"
    names = {path.name.partition(".")[0] for path in (root / "usr/lib/modules").rglob("*.ko*")}
    assert names >= {"tcp_bbr", "sch_fq"}
    programs = {path.name for folder in ("usr/bin", "usr/sbin") for path in (root / folder).iterdir()}
    assert programs == {*PROGRAMS, TOOLS.release.python, "jq", "report"}
    assert stat.S_IMODE((root / "usr/bin/report").stat().st_mode) == 0o755
    assert list((root / "usr/lib/x86_64-linux-gnu").glob("libjq.so.*"))
    assert (root / "usr/lib/python3/dist-packages/yaml/__init__.py").is_file()
    assert not (root / "usr/share").exists()


def test_manifest_and_command_line_say_it(manifest: Manifest) -> None:
    assert " transparent_hugepage=never mitigations=off privml.root=" in manifest.cmdline
    assert [each.name for each in manifest.exceptions] == ["kernel-option:mitigations=off"]
    assert {package.name for package in manifest.packages} >= {"jq", "libjq1", "python3-yaml"}


def test_it_boots(image: Path, manifest: Manifest) -> None:
    with started(Workplace().tools(), launch_of(image, manifest, shipped())) as machine:
        await_ready(machine, 300)
