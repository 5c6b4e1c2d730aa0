"""Lint rules of guest files: each has a file that breaks it, and the shipped files break none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from privml.base.errors import RecipeError
from privml.cli.lint import lint
from privml.image.workplace import Workplace
from privml.lock.trees import images_folder
from privml.recipe.guestfiles import CONFIGURATION, SETTINGS, GuestFile, lint_guest, read_guest
from privml.recipe.loader import shipped
from privml.recipe.rules import RULES

CONF = b"[Output]\nSeed={{ seed }}\n[Content]\nSourceDateEpoch={{ source_date_epoch }}\nWithNetwork=no\n"
SCRIPT = "mkosi/finalize.py"
UNIT = "guest/common/etc/a.service"
KEY = b"-----BEGIN " + b"PRIVATE KEY-----\nMC4\n"

CASES: dict[str, list[tuple[str, GuestFile]]] = {
    "missing-seed": [
        (CONFIGURATION, GuestFile(CONF.replace(b"Seed={{ seed }}\n", b""))),
        (CONFIGURATION, GuestFile(CONF.replace(b"{{ seed }}", b"random"))),
        (CONFIGURATION, GuestFile(CONF.replace(b"SourceDateEpoch", b"#SourceDateEpoch"))),
        (CONFIGURATION, GuestFile(CONF.replace(b"{{ source_date_epoch }}", b"now"))),
    ],
    "generated-keys": [
        ("guest/common/etc/own.pem", GuestFile(KEY)),
        ("guest/common/etc/acme/ssh_host_rsa_key", GuestFile(b"x")),
        ("guest/common/etc/machine-id", GuestFile(b"0123\n")),
        (SCRIPT, GuestFile(b"#!/bin/sh\nssh-keygen -A\n")),
        (SCRIPT, GuestFile(b"import uuid\nseed = uuid.uuid4()\n")),
        ("initrd/init", GuestFile(b"#!/bin/sh\nopenssl genpkey -algorithm ed25519\n", 0o755)),
    ],
    "latest": [
        (SCRIPT, GuestFile(b"IMAGE = 'tools:latest'\n")),
        (SCRIPT, GuestFile(b"path = 'releases/latest/tool.tar'\n")),
        (CONFIGURATION, GuestFile(CONF + b"Release=stable\n")),
    ],
    "script-network": [
        (SCRIPT, GuestFile(b"#!/bin/sh\ncurl -O tool\n")),
        (SCRIPT, GuestFile(b"#!/bin/sh\napt-get -y install tool\n")),
        (SCRIPT, GuestFile(b"import urllib.request\n")),
        ("guest/common/usr/lib/a", GuestFile(b"#!/bin/sh\npip install x\n", 0o755)),
        (CONFIGURATION, GuestFile(CONF.replace(b"=no", b"=yes"))),
    ],
    "baked-cache": [
        ("guest/common/usr/lib/a/.cache/vllm/x", GuestFile(b"x")),
        ("guest/common/usr/lib/a/__pycache__/a.pyc", GuestFile(b"x")),
        ("guest/common/usr/lib/a/.triton/k", GuestFile(b"x")),
        ("guest/common/usr/lib/a/aux-cache", GuestFile(b"x")),
    ],
    "overlay-lost": [
        ("guest/common/etc/motd", GuestFile(b"x")),
        ("guest/common/opt/acme/a", GuestFile(b"x")),
        ("guest/common/usr/share/acme/c", GuestFile(b"x")),
        ("guest/common/usr/share/doc/acme/d", GuestFile(b"x")),
        ("guest/common/usr/bin/acmectl", GuestFile(b"#!/usr/bin/python3\nprint(1)\n", 0o755)),
        ("guest/engine/usr/sbin/acmed", GuestFile(b"../bin/python3", link=True)),
        ("guest/development/etc/systemd/system/acme.target.wants/acme.service", GuestFile(b"../x", link=True)),
        ("guest/common/usr/lib/systemd/system/acme.timer", GuestFile(b"[Timer]\n")),
        ("guest/common/usr/lib/systemd/system-generators/acme", GuestFile(b"x", 0o755)),
        ("guest/common/etc/resolv.conf", GuestFile(b"nameserver 192.0.2.1\n")),
        ("guest/common/usr/lib/acme/curl", GuestFile(b"x", 0o755)),
    ],
    "overlay-modes": [
        ("guest/common/usr/lib/acme/a", GuestFile(b"x", 0o4755)),
        ("guest/common/usr/lib/acme/a", GuestFile(b"x", 0o2755)),
        (UNIT, GuestFile(b"[Unit]\n", 0o755)),
    ],
    "unknown-setting": [
        (CONFIGURATION, GuestFile(CONF + b"SourceDateEpochs=1\n")),
        (CONFIGURATION, GuestFile(CONF + b"WithNetwork=no\n")),
    ],
}


@pytest.mark.parametrize(("rule", "path", "file"), [(rule, *case) for rule, cases in CASES.items() for case in cases])
def test_each_rule_has_files_that_break_it(rule: str, path: str, file: GuestFile) -> None:
    found = lint_guest({CONFIGURATION: GuestFile(CONF), path: file})
    assert {finding.rule for finding in found} == {rule}, found
    assert found[0].file == f"images/{path}"
    assert found[0].severity == "error"


def test_the_cases_are_the_rules() -> None:
    assert list(CASES) == [rule.id for rule in RULES.values() if rule.stage == "guest"]


def test_valid_files_have_no_findings() -> None:
    files = {
        CONFIGURATION: GuestFile(CONF),
        SCRIPT: GuestFile(
            b"# curl is what we do not do; see https://example.invalid/latest/\nremove('etc/wgetrc')\n"
        ),
        UNIT: GuestFile(b"[Unit]\nDocumentation=https://example.invalid\n"),
        "guest/common/usr/lib/acme/a": GuestFile(b"#!/bin/sh\nexit 0\n", 0o755),
        "guest/common/etc/machine-id": GuestFile(b""),
        "guest/common/usr/lib/acme/link": GuestFile(b"a", 0o777, link=True),
        "guest/common/etc/group-writable.conf": GuestFile(b"x", 0o664),
    }
    assert lint_guest(files) == []


def test_a_finding_names_its_line() -> None:
    (found,) = lint_guest({CONFIGURATION: GuestFile(CONF), SCRIPT: GuestFile(b"#!/bin/sh\n:\nwget x\n")})
    assert str(found).startswith(f"images/{SCRIPT}:3: `wget`: ")


def test_a_missing_mkosi_configuration_is_reported() -> None:
    assert [finding.rule for finding in lint_guest({})] == ["missing-seed"]


def test_the_shipped_files_break_no_rule_and_are_all_checked() -> None:
    files = read_guest(images_folder())
    assert {CONFIGURATION, SCRIPT, "initrd/init"} <= set(files)
    assert lint_guest(files) == []
    used = {line.partition(b"=")[0].decode() for line in files[CONFIGURATION].data.splitlines() if b"=" in line}
    assert {name for name in used if not name.startswith((" ", "#"))} == SETTINGS


@pytest.fixture
def bad_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(images_folder(), tmp_path / "images")
    with (tmp_path / "images" / SCRIPT).open("a") as file:
        file.write("subprocess.run(['curl', 'x'])\n")
    for module in ("privml.image.workplace", "privml.cli.lint"):
        monkeypatch.setattr(f"{module}.images_folder", lambda: tmp_path / "images")


@pytest.mark.usefixtures("bad_images")
def test_lint_reports_findings_in_guest_files() -> None:
    result = CliRunner().invoke(lint, ["demo-cpu", "--json"])
    assert isinstance(result.exception, RecipeError)
    assert result.exception.hint == "why: `privml-build lint --explain script-network`"
    told = json.loads(result.stdout)["guest"]
    assert (told["ok"], [finding["rule"] for finding in told["findings"]]) == (False, ["script-network"])


@pytest.mark.usefixtures("bad_images")
def test_a_broken_rule_stops_a_build_before_it_begins() -> None:
    with pytest.raises(RecipeError, match=r"finalize\.py:\d+: `curl`") as caught:
        Workplace().recipe_and_lock(shipped() / "demo-cpu.yaml")
    assert caught.value.exit_code == 3


def test_a_broken_recipe_rule_stops_a_build(tmp_path: Path) -> None:
    shutil.copytree(shipped(), tmp_path / "recipes")
    path = tmp_path / "recipes/demo-cpu.yaml"
    path.write_text(path.read_text() + "devices: [virtio-blk: 2, virtio-net: 2]\n")
    with pytest.raises(RecipeError, match="platform-devices"):
        Workplace().recipe_and_lock(path)
