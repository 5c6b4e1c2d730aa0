"""The mkosi tree is a pure function of the plan and contains only what the plan asks for."""

from __future__ import annotations

import configparser
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace

import jinja2
import pytest

from privml.engines.registry import ENGINES
from privml.image import render, resources
from privml.image.render import File, Plan, tree
from privml.lock.trees import agent_tree
from privml.recipe import guestroot, removals
from privml.recipe.compression import COMPRESSIONS
from privml.recipe.distributions import base
from privml.recipe.loader import load, shipped

PLAN = Plan(
    name="demo-cpu",
    base=base("debian", "forky"),
    packages=("systemd", "bash", "llama.cpp"),
    epoch=1_750_000_000,
    tools="/the/tools",
    overlay={"etc/b": File(b"b"), "etc/a": File(link="b")},
    development=False,
    engine=ENGINES["llama-server"],
)


def made(plan: Plan = PLAN) -> dict[str, File]:
    return tree(plan, resources.templates())


def options(files: Mapping[str, File]) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read_string(files["mkosi.conf"].data.decode())
    return {key: value for section in parser.sections() for key, value in parser[section].items()}


def guest(*, development: bool) -> Plan:
    recipe = load(shipped() / ("demo-cpu-dev.yaml" if development else "demo-cpu.yaml"))
    files = [file.path for file in agent_tree(recipe.content.variant).files]
    overlay = resources.overlay(recipe, files, config=b"{}")
    return replace(PLAN, overlay=overlay, development=development)


def test_the_same_plan_renders_the_same_tree() -> None:
    assert made() == made()
    shuffled = replace(PLAN, packages=PLAN.packages[::-1], overlay=dict(reversed(PLAN.overlay.items())))
    assert made(shuffled) == made()
    assert list(made(shuffled)) == sorted(made())


def test_a_root_is_compressed_as_its_recipe_asks() -> None:
    plain, packed = made(), made(replace(PLAN, compression=COMPRESSIONS["zstd"]))
    changed = {name for name in plain if plain[name] != packed[name]}
    assert changed == {"mkosi.env", "mkosi.repart/10-data.conf"} and plain.keys() == packed.keys()
    assert plain["mkosi.repart/10-data.conf"].data.endswith(b"Compression=lz4hc\nCompressionLevel=9\n")
    assert packed["mkosi.repart/10-data.conf"].data.endswith(b"Compression=zstd\nCompressionLevel=3\n")
    assert plain["mkosi.env"].data == f"SYSTEMD_REPART_MKFS_OPTIONS_EROFS=--all-root -T{PLAN.epoch}\n".encode()
    assert packed["mkosi.env"].data == plain["mkosi.env"].data[:-1] + b" -C65536\n"


def test_exactly_these_files_are_rendered() -> None:
    assert sorted(made()) == [
        "mkosi.conf",
        "mkosi.env",
        "mkosi.extra/etc/a",
        "mkosi.extra/etc/b",
        "mkosi.finalize",
        "mkosi.prepare",
        "mkosi.repart/10-data.conf",
        "mkosi.repart/11-verity.conf",
        "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources",
        "privml.json",
    ]


def test_packages_are_sorted_and_each_on_its_line() -> None:
    assert options(made())["Packages"].split() == ["bash", "llama.cpp", "systemd"]


def test_options_keep_builds_reproducible_and_offline() -> None:
    found = options(made())
    expected = {
        "Seed": PLAN.seed,
        "SourceDateEpoch": "1750000000",
        "Release": "forky",
        "ToolsTree": "/the/tools",
        "WithNetwork": "no",
        "Incremental": "no",
        "History": "no",
        "WithRecommends": "no",
        "Bootable": "no",
        "MakeInitrd": "no",
        "PackageDirectories": "packages",
        "SplitArtifacts": "roothash",
        "Output": "root",
    }
    assert {key: found.get(key) for key in expected} == expected
    assert not [key for key in found if "Script" in key or "Password" in key or "Ssh" in key or "Autologin" in key]


def test_a_tree_on_a_cached_base_only_omits_the_packages() -> None:
    plain, based = made(), made(replace(PLAN, based=True))
    assert sorted(plain.keys() - based.keys()) == ["mkosi.prepare"]
    assert [name for name in based if based[name] != plain[name]] == ["mkosi.conf"]
    before, after = options(plain), options(based)
    assert after.pop("BaseTrees") == render.BASE
    assert {key: value for key, value in before.items() if key not in ("Packages", "PackageDirectories")} == after


def test_apt_is_configured_without_archives() -> None:
    assert made()["mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources"].data == b""


def test_a_template_with_an_unknown_name_fails() -> None:
    templates = {**resources.templates(), "mkosi.conf.j2": b"Release={{ relase }}\n"}
    with pytest.raises(jinja2.UndefinedError):
        tree(PLAN, templates)


def test_the_seed_is_a_function_of_the_name() -> None:
    assert uuid.UUID(PLAN.seed).version == 5
    assert render.seed_of("demo-cpu") == PLAN.seed
    assert render.seed_of("demo-cpu-dev") != PLAN.seed
    changed = replace(PLAN, packages=("other",), epoch=1, tools="/elsewhere", overlay={}, development=True)
    assert changed.seed == PLAN.seed


def test_the_path_of_the_tools_is_only_in_the_configuration() -> None:
    here, there = made(), made(replace(PLAN, tools="/elsewhere"))
    assert [name for name in here if here[name] != there[name]] == ["mkosi.conf"]


def test_a_production_tree_has_no_shell_script_but_the_initrd_s_init() -> None:
    scripts = {
        path for path, file in made(guest(development=False)).items() if file.executable or file.data[:2] == b"#!"
    }
    assert scripts == {"mkosi.finalize", "mkosi.prepare", "mkosi.extra/usr/lib/privml/initrd-init"}
    assert made()["mkosi.finalize"].data.startswith(b"#!/usr/bin/python3\n")


def test_only_a_development_tree_holds_simulation() -> None:
    production, development = made(guest(development=False)), made(guest(development=True))

    def simulated(files: Mapping[str, File]) -> list[str]:
        return [
            path
            for path, file in files.items()
            if "/sim" in path or (b"simulated" in file.data and "etc/systemd" in path)
        ]

    assert simulated(production) == []
    assert simulated(development)
    facts = [json.loads(files["privml.json"].data) for files in (production, development)]
    assert "qemu_fw_cfg" not in facts[0]["modules"]
    assert "qemu_fw_cfg" in facts[1]["modules"]


def test_finalize_gets_every_overlay_path() -> None:
    plan = guest(development=False)
    facts = json.loads(made(plan)["privml.json"].data)
    assert facts["overlay"].keys() == plan.overlay.keys()
    assert facts["overlay"]["etc/machine-id"] == hashlib.sha256(b"").hexdigest()
    assert File(link="../a").fact == "-> ../a"
    assert facts["epoch"] == PLAN.epoch
    assert facts["generators"] == []
    assert "systemd-journald.service" not in facts["units"]
    assert "systemd-journald" not in facts["systemd"]
    assert {"erofs", "dm_verity", "virtio_blk"} == set(facts["initrd_modules"])


def test_the_overlay_holds_the_configuration_and_the_agent() -> None:
    files = resources.overlay(load(shipped() / "demo-cpu.yaml"), ["privml/agent/boot.py"], config=b"{1}")
    assert files["etc/privml/config.json"] == File(b"{1}")
    assert files["usr/lib/privml/privml/agent/boot.py"].data.startswith(b'"""')
    assert files["usr/lib/privml/initrd-init"].executable
    assert b"poweroff --force --force" in files["etc/systemd/system/emergency.service"].data
    assert "usr/lib/systemd/system/privml-engine.service" in files


def test_a_guest_without_an_engine_has_no_engine_files() -> None:
    overlay = resources.overlay(load(shipped() / "tdx-min.yaml"), [], config=b"{}")
    assert not [name for name in overlay if "engine" in name]
    facts = json.loads(made(replace(PLAN, overlay=overlay, engine=None))["privml.json"].data)
    assert facts["programs"] == sorted((*guestroot.PROGRAMS, PLAN.base.release.python))
    assert not [path for path in facts["paths"] if "llama" in path or "ggml" in path]
    with_engine = json.loads(made()["privml.json"].data)
    assert "llama-server" in with_engine["programs"]
    assert set(facts["paths"]) < set(with_engine["paths"])
    assert with_engine["removals"][:-1] == facts["removals"]
    assert with_engine["removals"][-1] == [
        "llama-server does not need it",
        ["usr/lib/x86_64-linux-gnu/llama/libllama-[bcq]*"],
    ]


def test_what_a_kept_tree_does_not_have_is_removed_from_every_root() -> None:
    for pattern in render.LEFT_OUT:
        assert any(removal.takes(pattern) for removal in removals.REMOVALS), pattern
    facts = json.loads(made()["privml.json"].data)
    assert (facts["left_out"], facts["read_later"]) == (list(render.LEFT_OUT), list(render.READ_LATER))
