"""Distributions as records: Debian's, and a second distribution that exists only in this test."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from privml.base.errors import RecipeError
from privml.image import render, resources
from privml.image.render import Plan
from privml.recipe.distributions import (
    DEBIAN,
    DISTRIBUTIONS,
    TOOLS,
    Distribution,
    Firmware,
    HostSources,
    Kernel,
    Packages,
    Release,
    Suite,
    base,
)
from privml.recipe.lint import lint
from privml.recipe.loader import load, shipped
from privml.recipe.packages import Request, firmware_packages, guest_packages
from privml.store.mirrors import host_mirrors

ACME = Distribution(
    name="acme",
    origin="Acme",
    releases={"one": Release("one", (Suite("acme", "one"),), "python9.9")},
    others=(),
    keyring_package="acme-keyring",
    keyrings=("usr/share/keyrings/acme.gpg",),
    purl="acme",
    kernel=Kernel("kernel-image-", ("kernel-core-",), "kernel-", (9, 1)),
    firmware=(Firmware("acme-td-firmware", "tdx", "boot/td.fd", enrolled_keys=False, production=True),),
    packages=Packages(("base",), ("init",), ("box",), ("python",), ("shell",)),
    sources=HostSources(re.compile("one"), "acme", ((("",), "acme"),)),
)
RECIPE = (
    (shipped() / "tdx-min.yaml")
    .read_text()
    .replace("distribution: debian, release: forky", "distribution: acme, release: one")
    .replace("linux-image-cloud-amd64", "kernel-image-cloud")
    .replace("ovmf-inteltdx", "acme-td-firmware")
)


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> Distribution:
    monkeypatch.setitem(DISTRIBUTIONS, ACME.name, ACME)
    return ACME


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipes/x.yaml"
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


def test_a_recipe_of_a_second_distribution_is_read_by_its_record(acme: Distribution, recipe: Path) -> None:
    found = load(recipe)
    assert lint(found) == []
    assert found.content.base.record.distribution is acme
    assert [*map(str, guest_packages(found))] == ["base", "init", "box", "python", "kernel-image-cloud"]
    assert firmware_packages(found) == {"tdx": Request("acme-td-firmware")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "acme, release: one",
            "acne, release: one",
            "base.distribution: got `acne`, expected debian or acme; did you",
        ),
        ("acme, release: one", "acme, release: two", "recipes/x.yaml:3: base.release: got `two`, expected one"),
        ("acme, release: one", "acme, release: forky", "base.release: got `forky`, expected one"),
        (
            "acme-td-firmware",
            "ovmf-inteltdx",
            "firmware.tdx.package: got `ovmf-inteltdx`, expected acme-td-firmware in a",
        ),
        ("acme, release: one", "debian, release: one", "base.release: got `one`, expected forky"),
    ],
)
def test_packages_outside_the_record_are_refused_with_their_line(
    acme: Distribution, recipe: Path, old: str, new: str, message: str
) -> None:
    assert old in RECIPE
    recipe.write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load(recipe)
    assert message in caught.value.message


def test_mkosi_gets_the_distribution_and_finalize_its_python(acme: Distribution) -> None:
    plan = Plan("x", base("acme", "one"), (), 1, "/tools", {}, development=False, engine=None)
    files = render.tree(plan, resources.templates())
    lines = files["mkosi.conf"].data.decode().splitlines()
    assert {"Distribution=acme", "Release=one"} <= set(lines)
    facts = json.loads(files["privml.json"].data)
    assert "python9.9" in facts["programs"] and "usr/lib/python9.9/**" in facts["paths"]
    other = json.loads(render.tree(replace(plan, base=TOOLS), resources.templates())["privml.json"].data)
    assert "python9.9" not in other["programs"] and "usr/lib/python3.14/**" in other["paths"]


def test_the_hosts_mirrors_of_a_second_archive_are_found(acme: Distribution, tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "deb http://a.example.invalid/acme one main\n"
        "deb [signed-by=/usr/share/keyrings/debian-archive.gpg] http://b.example.invalid/acme one main\n"
        "deb http://c.example.invalid/debian trixie main\n"
    )
    found = host_mirrors(tmp_path, tmp_path / "none.yaml")
    assert found == {"acme": ("http://a.example.invalid/acme",), "debian": ("http://c.example.invalid/debian",)}


@pytest.mark.parametrize(
    ("packages", "mode"),
    [
        (
            [("linux-binary-7.2.12-cloud-amd64", "7.2.12-1"), ("linux-modules-7.2.12-cloud-amd64", "7.2.12-1")],
            "staged",
        ),
        ([("linux-binary-6.16-amd64", "6.16~rc7-1~exp1")], "staged"),
        ([("linux-image-6.12.117+deb13-amd64", "6.12.117-1")], "unused"),
        ([("linux-image-6.9-amd64", "6.9.7-1")], "unused"),
        ([("linux-image-10.1-amd64", "1:10.1-1")], "staged"),
        ([("linux-sysctl-defaults", "99.1"), ("systemd", "262.1")], "unused"),
        ([("linux-sysctl-defaults", "4.1"), ("linux-binary-7.2", "7.2.1-1")], "staged"),
        ([("linux-binary-7.2", "none")], "unused"),
        ([], "unused"),
    ],
)
def test_rtmr3_support_depends_on_the_kernel_version(packages: list[tuple[str, str]], mode: str) -> None:
    assert DEBIAN.kernel.rtmr3(packages) == mode


def test_every_suite_of_a_distribution_has_one_name() -> None:
    for each in DISTRIBUTIONS.values():
        listed = [suite for release in each.releases.values() for suite in release.suites] + list(each.others)
        assert len({suite.name for suite in listed}) == len(listed)
        assert each.releases == {release.codename: release for release in each.releases.values()}


def test_production_firmware_is_allowed_in_development() -> None:
    assert [one.package for one in DEBIAN.firmwares("tdx", production=True)] == ["ovmf-inteltdx"]
    assert [one.package for one in DEBIAN.firmwares("tdx", production=False)] == ["ovmf-inteltdx", "ovmf-generic"]
    assert [one.package for one in DEBIAN.firmwares("snp", production=True)] == ["ovmf-amdsev"]
    assert [one.package for one in DEBIAN.firmware if one.bound] == ["ovmf-amdsev"]
