"""What a recipe adds is in the image, and in no other way than it says."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.debs import Deb
from tests.real.conftest import ROOT, privml, succeeded
from tests.real.tamper import extract
from tests.signing import Key, armoured
from tests.unit.fake_archive import State, publish
from tests.unit.pool_server import serving

from privml.image.render import ROOT_LABEL
from privml.image.sbom import FILE as SBOM
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.output.manifest import Manifest, read
from privml.recipe.distributions import TOOLS
from privml.recipe.guestroot import PROGRAMS
from privml.recipe.loader import shipped
from privml.store.objects import Store
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
    # The same packages as in the example: no archive is asked.
    shutil.copy(shipped() / "examples/packages.lock.json", folder / "recipes/additions.lock.json")
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


HONEST = Deb(
    "acme-local",
    depends="libc6, python3-minimal",
    files={
        "usr/bin/acme-local": (0o755, b"#!/usr/bin/python3\nprint('acme')\n"),
        "usr/lib/acme-local/data": (0o644, b"data"),
        "usr/share/acme-local/other": (0o644, b"other"),
        "etc/acme-local/conf": (0o644, b"conf"),
    },
    scripts={"postinst": "#!/bin/sh\nset -e\ntrue\n"},
)
CAPABILITY = "0100000200040000000000000000000000000000"
# What a maintainer script does -> the path and the rule that end the build.
TRIES = {
    "chmod u+s /usr/bin/env": ("usr/bin/env", "set-id bits"),
    f'python3 -c \'import os; os.setxattr("/usr/bin/cat", "security.capability", bytes.fromhex("{CAPABILITY}"))\'': (
        "usr/bin/cat",
        "capabilities",
    ),
    "mknod /usr/lib/acme-local/pipe p": ("usr/lib/acme-local/pipe", "device nodes"),
    "mkdir -p /etc/systemd/system/x.d; echo x >/etc/systemd/system/x.d/a.conf": (
        "etc/systemd/system/x.d/a.conf",
        "/etc/systemd",
    ),
    "echo x >/usr/lib/systemd/system/acme.service": ("usr/lib/systemd/system/acme.service", "units"),
    "dpkg-divert --package acme-local --no-rename --divert /usr/bin/env.real --add /usr/bin/env": (
        "var/lib/dpkg/diversions",
        "diversions",
    ),
    "update-alternatives --install /usr/bin/acme acme /usr/bin/acme-local 1": (
        "etc/alternatives/acme",
        "alternatives",
    ),
    "echo x >>/usr/lib/os-release": ("usr/lib/os-release", "files of the package base-files"),
    "echo x >>/var/lib/dpkg/info/dash.list": ("var/lib/dpkg/info/dash.list", "files of the package dash"),
    "echo x >/usr/lib/x86_64-linux-gnu/libnss_acme.so.2": (
        "usr/lib/x86_64-linux-gnu/libnss_acme.so.2",
        "files that other programs read",
    ),
    "echo x >/usr/lib/acme-local/more": ("usr/lib/acme-local/more", "files that the package does not list"),
    "echo 'acme:x:5000:5000::/:/x' >>/etc/passwd": ("etc/passwd", "files that the package does not list"),
}


def locked(tmp_path: Path, text: str) -> str:
    """A recipe of tdx-min with these fields, locked."""
    recipe = tmp_path / "recipes/local.yaml"
    recipe.write_text(f"extends: ./tdx-min.yaml\n{text}")
    shutil.copyfile(tmp_path / "recipes/tdx-min.lock.json", tmp_path / "recipes/local.lock.json")
    succeeded(privml("lock", "--allow-expired", str(recipe)))
    return str(recipe)


def with_local(tmp_path: Path, package: Deb, *, packages: str = "", more: str = "") -> str:
    """A recipe with one local package, locked."""
    shutil.copytree(shipped(), tmp_path / "recipes", dirs_exist_ok=True)
    (tmp_path / "recipes/acme.deb").write_bytes(package.data)
    return locked(tmp_path, f"packages: [file:acme.deb{packages}]\nprograms: [acme-local]\n{more}")


SIGNER = Key("signer")
KEY = Key("acme", subkeys=[SIGNER])
REMOTE = (
    Deb(
        "acme-remote",
        depends="acme-data (= 1.0), libc6",
        files={"usr/lib/acme-remote/data": (0o644, b"remote"), "usr/share/acme-remote/other": (0o644, b"other")},
    ),
    Deb("acme-data", files={"usr/share/acme-data/more": (0o644, b"more")}),
    # The base has a newer one.
    Deb("libc6", version="1.0"),
    Deb(
        "acme-greedy",
        files={
            "usr/bin/env": (0o755, b"#!/bin/sh\n"),
            "usr/lib/systemd/system/acme.service": (0o644, b"[Service]\n"),
        },
        more="Replaces: coreutils\n",
    ),
)
ARCHIVE = f'archives: {{acme: {{suite: stable, keyring: acme.asc, fingerprints: ["{KEY.fingerprint}"]}}}}\n'


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The mirror of a signed archive, named in mirrors.yaml, and its keyring next to the recipes; what was asked."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/acme.asc").write_bytes(armoured(KEY.public))
    now = datetime.now(UTC)
    until = now + timedelta(days=2)
    dates = (moment.strftime("%a, %d %b %Y %H:%M:%S UTC") for moment in (now, until))
    state = State(*dates, REMOTE, origin="Acme", suite="stable", codename="stable")
    publish(tmp_path / "acme", state, SIGNER.clearsigned(state.release))
    with serving(tmp_path / "acme") as (address, asked):
        own = Path.home() / ".config/privml-build/mirrors.yaml"
        mirrors = tmp_path / "config/privml-build/mirrors.yaml"
        mirrors.parent.mkdir(parents=True)
        mirrors.write_text(f"{own.read_text() if own.is_file() else ''}\nacme: [{address}]\n")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("PRIVML_STORE", str(Store().root))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, f"{os.environ.get(name, '')},127.0.0.1".lstrip(","))
        yield asked


def test_packages_from_outside_the_base_are_installed_last(tmp_path: Path, archive: list[str]) -> None:
    recipe = with_local(tmp_path, HONEST, packages=", acme-remote/acme", more=ARCHIVE)
    assert any(path.endswith("/InRelease") for path in archive)
    succeeded(privml("lint", recipe))
    lock = read_lock(Path(recipe).with_name("local.lock.json"))
    assert [package.name for package in lock.outside] == ["acme-data", "acme-local", "acme-remote"]
    assert [(each.label, each.fingerprints) for each in lock.added_archives] == [("acme", (KEY.fingerprint,))]
    assert lock.package("libc6").archive == "debian"
    succeeded(privml("image", recipe, "--output", str(tmp_path / "image")))
    extract(Workplace().tools(), tmp_path / "image/root.raw", ROOT_LABEL, tmp_path)
    root = tmp_path / "tree"
    assert (root / "usr/bin/acme-local").is_file()
    assert (root / "usr/lib/acme-local/data").read_bytes() == b"data"
    assert not (root / "etc/acme-local").exists()
    assert (root / "usr/lib/acme-remote/data").read_bytes() == b"remote"
    named = {package.name: package for package in read(tmp_path / "image").packages}
    assert {"acme-local", "acme-remote", "acme-data"} <= named.keys()
    purls = {
        part["name"]: part.get("purl") for part in json.loads((tmp_path / "image" / SBOM).read_bytes())["components"]
    }
    assert purls["acme-remote"] == "pkg:deb/acme/acme-remote@1.0?arch=amd64"
    assert purls["acme-local"].startswith("pkg:generic/acme-local@1.0?")


def test_a_package_of_an_archive_that_takes_files_of_the_base_ends_the_build(
    tmp_path: Path, archive: list[str]
) -> None:
    shutil.copytree(shipped(), tmp_path / "recipes", dirs_exist_ok=True)
    recipe = locked(tmp_path, f"packages: [acme-greedy/acme]\n{ARCHIVE}")
    done = succeeded(privml("image", recipe, "--output", str(tmp_path / "image")), 6)
    for path, rule in {
        "usr/lib/systemd/system/acme.service": "units",
        "var/lib/dpkg/info/coreutils.list": "files of the package coreutils",
    }.items():
        told = f"/{path} (acme-greedy): a package from outside the base may not add or change {rule}\n"
        assert told in done.stderr + "\n"
    assert archive


def test_what_the_scripts_of_a_local_package_change_ends_the_build(tmp_path: Path) -> None:
    script = "#!/bin/sh\nset -e\n" + "".join(f"{line}\n" for line in TRIES)
    recipe = with_local(tmp_path, dataclasses.replace(HONEST, scripts={"postinst": script}))
    done = succeeded(privml("image", recipe, "--output", str(tmp_path / "image")), 6)
    for path, rule in TRIES.values():
        assert (
            f"/{path} (acme-local): a package from outside the base may not add or change {rule}\n"
            in done.stderr + "\n"
        )
