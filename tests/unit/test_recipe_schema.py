"""The schemas that editors use: in agreement with the models, and every field described once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from json_schema import accepts

from privml.base.errors import RecipeError
from privml.events import configuration
from privml.events.verity import Verity
from privml.image.config import measured_config
from privml.image.filling import MadeVolume
from privml.lock.lockfile import read_lock
from privml.recipe import document, manual, schema
from privml.recipe.fields import facts
from privml.recipe.loader import load, shipped

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = (shipped() / "demo-cpu.yaml").read_text()
INFERENCE = re.search(r"^inference:\n( .*\n)+", DEMO, re.M)[0]
PLATFORM = (shipped() / "platforms/qemu-11-q35.yaml").read_text()
LOCK = read_lock(shipped() / "demo-cpu.lock.json")
VOLUME = MadeVolume("smollm2-135m-instruct", "model.gguf", Verity(b"Z" * 32, bytes(32), 1, 2))


def valid(text: str, made: dict[str, Any]) -> bool:
    return accepts(made, document.parse(text.encode(), "t.yaml").value, made)


def test_the_shipped_files_are_valid() -> None:
    for path in shipped().glob("*.yaml"):
        assert valid(path.read_text(), schema.recipe_schema()), path.name
    for path in shipped().glob("platforms/*.yaml"):
        assert valid(path.read_text(), schema.platform_schema()), path.name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("schema: 2", "schema: 1"),
        ("engine:", "engin:"),
        ("name: llama-server", "name: lama"),
        ("tdx: {package: ovmf-inteltdx}", "sev: {package: ovmf-inteltdx}"),
        ("ovmf-inteltdx}", "ovmf-inteltdx, suite: null}"),
        ("ovmf-inteltdx}", "ovmf-inteltdx, suite: buzz}"),
        ('file: "*.gguf"', "file: null"),
        ("release: forky", "release: sid"),
        ("==0.1.2", ""),
        ("listen: 8443", "listen: 443"),
        ("listen: 8443", "listen: 70000"),
        ("memory: 2GiB", "memory: 2G"),
        ("platforms:", "devices: [virtio-scsi: 2]\nplatforms:"),
        ("platforms:", "devices: [virtio-blk: 29]\nplatforms:"),
        ("platforms:", "devices: []\nplatforms:"),
        ("kernel: {package: linux-image-cloud-amd64}", "kernel: {package: bash}"),
        ("vcpus: 4, ", ""),
        ("agent: {listen: 8443, max_concurrency: 64}\n", ""),
        (INFERENCE, "inference: null\n"),
    ],
)
def test_the_schema_refuses_what_the_models_refuse(tmp_path: Path, old: str, new: str) -> None:
    text = DEMO.replace(old, new)
    assert text != DEMO
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError):
        load(tmp_path / "x.yaml")
    assert not valid(text, schema.recipe_schema())


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("extends: ./demo-cpu.yaml\n", True),
        ('extends: ./demo-cpu.yaml\nagent: {listen: 9000}\ninference: {engine: {version: "1"}}\n', True),
        ("extends: ./demo-cpu.yaml\ninference: null\n", True),
        ("extends: ./demo-cpu.yaml\nkernel: null\n", False),
        ("extends: ./demo-cpu.yaml\nkernel: {suite: null}\nfirmware: {tdx: {suite: sid}}\n", True),
        ("extends: ./demo-cpu.yaml\nfirmware: {snp: {suite: sid}}\n", True),
        ("extends: ./demo-cpu.yaml\nfirmware: {cca: {suite: sid}}\n", False),
        ("extends: ./demo-cpu.yaml\ninference: {models: [{name: a}]}\n", False),
        ("extends: ./tdx-min.yaml\n", True),
        ("extends: ./demo-cpu.yaml\nagent: {lisen: 9000}\n", False),
        ("extends: ./demo-cpu.yaml\nshapes: [{vcpus: 2}]\n", False),
        ("agent: {listen: 9000}\n", False),
    ],
)
def test_a_variant_may_contain_only_what_differs(text: str, good: bool) -> None:
    assert valid(text, schema.recipe_schema()) is good


@pytest.mark.parametrize(
    ("old", "new"), [('"02.0"', "2"), ("tpm: false", "tpm: no"), ("kind: qemu, version: 11.1.2", "kind: qemu")]
)
def test_platforms_have_a_schema_too(old: str, new: str) -> None:
    assert not valid(PLATFORM.replace(old, new), schema.platform_schema())


def test_every_field_is_described_once() -> None:
    known = facts()
    assert {"agent.listen", "shapes.memory", "devices", "extends", "platform.devices.slot"} <= set(known)
    for path, fact in known.items():
        assert fact.meaning.endswith("."), path
        assert fact.example or fact.model, path
    # The fields of `encrypt` are the same for models and data, and those of firmware for each TEE.
    again = ("platform.", "data.encrypt.", "firmware.snp.")
    meanings = [fact.meaning for path, fact in known.items() if not path.startswith(again)]
    assert len(set(meanings)) == len(meanings)


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("description", "Builds in minutes", "Builds soon"),
        ("variant", "schema: 2", "schema: 2\nvariant: development"),
        ("kernel.package", "linux-image-cloud-amd64", "linux-image-amd64"),
        ("inference.models.name", "smollm2-135m-instruct", "another"),
        ("agent.listen", "8443", "8444"),
        ("agent.max_concurrency", "64", "63"),
        ("agent.per_address", "max_concurrency: 64", "max_concurrency: 64, per_address: 0"),
        ("agent.callers", "max_concurrency: 64", "max_concurrency: 64, callers: outer"),
        ("agent.metrics", "max_concurrency: 64", "max_concurrency: 64, metrics: true"),
        ("devices", "platforms:", "devices: [virtio-blk: 1]\nplatforms:"),
        ("platforms", "[qemu-11-q35, qemu-11-q35-snp]", "[qemu-11-q35-tpm]"),
        ("shapes.memory", "2GiB", "3GiB"),
        ("shapes.vcpus", "vcpus: 2", "vcpus: 3"),
    ],
)
def test_a_field_changes_rtmr3_if_and_only_if_the_measured_configuration_contains_it(
    tmp_path: Path, field: str, old: str, new: str
) -> None:
    def config(text: str) -> bytes:
        (tmp_path / "x.yaml").write_text(text)
        recipe = load(tmp_path / "x.yaml")
        volume = replace(VOLUME, name=recipe.content.inference.models[0].name)
        return configuration.encode(measured_config(recipe, LOCK, (volume,)))

    assert old in DEMO
    assert (config(DEMO) != config(DEMO.replace(old, new))) is ("RTMR3" in facts()[field].moves)


def test_the_manual_page_is_the_one_that_the_models_give() -> None:
    committed = Path(__file__).parents[2] / "docs" / manual.FILE
    assert committed.read_text() == manual.page(), "renew it: python -m privml.image.schemas"
    for path in facts():
        assert f"### `{path}`\n" in manual.page()
