"""Packages of no archive: how they are read and locked, and what their installation may not change."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from tests.debs import Deb

from privml.base.errors import InputsError
from privml.image import root as root_volume
from privml.image.sbom import deb_purl
from privml.lock import make
from privml.lock.localdebs import local_debs, store_local
from privml.lock.locate import inputs_now
from privml.lock.lockfile import read_lock
from privml.lock.models import LOCAL, Lock
from privml.lock.trees import images_folder
from privml.recipe.loader import Recipe, load, shipped
from privml.store.objects import Store

ACME = Deb("acme", files={"usr/bin/acme": (0o755, b"#!/usr/bin/python3\n"), "usr/lib/acme/data": (0o644, b"x")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(shipped(), tmp_path / "recipes")
    (tmp_path / "recipes/acme.deb").write_bytes(ACME.data)
    return tmp_path / "recipes"


def recipe(folder: Path, packages: str = "file:acme.deb") -> Recipe:
    path = folder / "mine.yaml"
    path.write_text(f"extends: ./tdx-min.yaml\npackages: [{packages}]\n")
    return load(path)


def locked(mine: Recipe) -> Lock:
    """A lock of tdx-min's packages and the local ones."""
    now = inputs_now(mine)
    old = read_lock(shipped() / "tdx-min.lock.json")
    packages = tuple(sorted((*old.packages, *now.local), key=lambda each: (each.name, each.architecture)))
    return old.model_copy(
        update={
            "recipe_sha256": now.recipe_sha256,
            "agent": now.agent,
            "guest": now.guest,
            "packages": packages,
            "packages_requested": (*old.packages_requested, *(each.name for each in now.local)),
        }
    )


def test_a_local_package_is_a_locked_package_without_an_archive(folder: Path, tmp_path: Path) -> None:
    mine = recipe(folder)
    (found,) = local_debs(mine)
    assert (found.package.name, found.package.version, found.package.archive) == ("acme", "1.0", LOCAL)
    assert (found.package.path, found.package.size) == ("acme.deb", len(ACME.data))
    store = Store(tmp_path / "store")
    store_local(mine, store)
    assert store.read(found.package.sha256) == ACME.data
    lock = locked(mine)
    make.check(mine, lock, inputs_now(mine))
    assert lock.local == (found.package,)
    plan = root_volume.plan_of(mine, lock, b"{}")
    assert plan.outside == plan.added == ("acme",)
    assert "acme" not in plan.packages
    digest = found.package.sha256
    assert deb_purl(found.package, lock) == f"pkg:generic/acme@1.0?arch=amd64&checksum=sha256:{digest}"


def test_other_bytes_make_the_lock_stale(folder: Path) -> None:
    mine = recipe(folder)
    lock = locked(mine)
    (folder / "acme.deb").write_bytes(replace(ACME, files={}).data)
    with pytest.raises(InputsError, match=r"local package acme 1\.0: different bytes under the same version"):
        make.check(mine, lock, inputs_now(mine))
    (folder / "acme.deb").write_bytes(replace(ACME, version="1.1").data)
    with pytest.raises(InputsError, match=r"local package acme 1\.0 -> 1\.1"):
        make.check(mine, lock, inputs_now(mine))


@pytest.mark.parametrize(
    ("packages", "text"),
    [
        ("file:absent.deb", "`absent.deb` does not exist"),
        ("file:out.deb", "`out.deb` leads outside the recipe's folder"),
        ("file:page.deb", "page.deb: not a .deb"),
        ("file:other.deb", "`other.deb`: architecture"),
        ("file:needed.deb", "packages: `needed.deb` is marked `Essential: yes`"),
        ("file:systemd.deb", "`systemd.deb` would replace the guest's own package `systemd`"),
        ("file:kernel.deb", "`kernel.deb` would replace the guest's own package `linux-image-x`"),
        ("file:acme.deb, file:again.deb", "two local packages are called `acme`"),
    ],
)
def test_what_is_no_package_for_the_guest_is_refused(folder: Path, packages: str, text: str) -> None:
    (folder.parent / "outside.deb").write_bytes(ACME.data)
    (folder / "out.deb").symlink_to("../outside.deb")
    (folder / "page.deb").write_text("<html>")
    (folder / "needed.deb").write_bytes(replace(ACME, more="Essential: yes\n").data)
    (folder / "other.deb").write_bytes(ACME.data.replace(b"Architecture: amd64", b"Architecture: arm64"))
    (folder / "systemd.deb").write_bytes(replace(ACME, name="systemd").data)
    (folder / "kernel.deb").write_bytes(replace(ACME, name="linux-image-x").data)
    (folder / "again.deb").write_bytes(replace(ACME, version="2").data)
    with pytest.raises(InputsError) as caught:
        local_debs(recipe(folder, packages))
    assert text in caught.value.message


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    """The build's own script."""
    specification = importlib.util.spec_from_file_location("prepare", images_folder() / "mkosi/prepare.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A guest's root with the package `base`, before `acme` is installed."""
    root = tmp_path / "root"
    for name in ("usr/bin/env", "etc/os", "etc/alternatives/README", "var/lib/dpkg/status", "etc/passwd"):
        put(root, name)
    put(root, "var/lib/dpkg/info/base.list", "/usr\n/usr/bin\n/bin/env\n/etc\n/etc/os\n/usr/lib\n")
    return root


def put(root: Path, name: str, text: str = "x") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def installed(root: Path) -> None:
    """What dpkg does for `acme`."""
    put(root, "usr/lib/acme/data")
    put(root, "usr/bin/acme")
    put(root, "var/lib/dpkg/status", "more")
    put(root, "var/lib/dpkg/diversions", "")
    put(root, "etc/ld.so.cache", "more")
    listed = "/usr\n/usr/bin\n/usr/bin/acme\n/usr/lib\n/usr/lib/acme\n/usr/lib/acme/data\n"
    put(root, "var/lib/dpkg/info/acme.list", f"{listed}/usr/lib/systemd/system/acme.service\n/srv/acme\n")
    put(root, "var/lib/dpkg/info/acme.postinst")


def judged(prepare: ModuleType, root: Path, change: Callable[[Path], object]) -> list[str]:
    before = prepare.look(root)
    installed(root)
    change(root)
    lines: list[str] = prepare.broken(before, prepare.look(root), root, ["acme"])
    return lines


def test_an_honest_package_breaks_no_rule(prepare: ModuleType, tree: Path) -> None:
    assert judged(prepare, tree, lambda root: None) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: (root / "usr/bin/acme").chmod(0o4755), "/usr/bin/acme (acme): {} set-id bits"),
        (lambda root: (root / "usr/lib/acme").chmod(0o2755), "/usr/lib/acme (acme): {} set-id bits"),
        (lambda root: os.mkfifo(root / "usr/lib/acme/p"), "/usr/lib/acme/p (acme): {} device nodes"),
        (lambda root: put(root, "usr/lib/systemd/system/acme.service"),
         "/usr/lib/systemd/system/acme.service (acme): {} units"),
        (lambda root: put(root, "etc/systemd/system/a"), "/etc/systemd/system/a (acme): {} /etc/systemd"),
        (lambda root: put(root, "var/lib/dpkg/diversions"), "/var/lib/dpkg/diversions (acme): {} diversions"),
        (lambda root: (root / "etc/alternatives/a").symlink_to("/usr/bin/acme"),
         "/etc/alternatives/a (acme): {} alternatives"),
        (lambda root: put(root, "usr/bin/env", "y"), "/usr/bin/env (acme): {} files of the package base"),
        (lambda root: (root / "etc/os").unlink(), "/etc/os (acme): {} files of the package base"),
        (lambda root: put(root, "var/lib/dpkg/info/base.list", "/usr/bin/acme\n/bin/env\n"),
         "/var/lib/dpkg/info/base.list (acme): {} files of the package base"),
        (lambda root: put(root, "etc/passwd", "y"),
         "/etc/passwd (acme): {} files that the package does not list"),
        (lambda root: put(root, "usr/lib/python3/dist-packages/a.pth"),
         "/usr/lib/python3/dist-packages/a.pth (acme): {} files that other programs read"),
        (lambda root: put(root, "usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libc.so.6"),
         "/usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libc.so.6 (acme): {} files that other programs read"),
        (lambda root: put(root, "srv/acme"), "/srv/acme (acme): {} files outside /usr, /etc, /opt and /var"),
    ],
)  # fmt: skip
def test_each_rule_ends_the_build_with_path_and_package(
    prepare: ModuleType, tree: Path, change: Callable[[Path], object], told: str
) -> None:
    assert told.format("a package from outside the base may not add or change") in judged(prepare, tree, change)


def test_a_local_package_that_another_one_pulled_in_is_refused(prepare: ModuleType, tree: Path) -> None:
    put(tree, "var/lib/dpkg/info/acme:amd64.list")
    with pytest.raises(SystemExit, match="the packages acme from outside the base are installed already"):
        prepare.install_outside(tree, ["acme"])
