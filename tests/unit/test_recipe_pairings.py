"""Versions that do not go together (drivers, CUDA, engines, models): the table, lint's findings, lock's refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from privml.base.errors import InputsError, RecipeError
from privml.engines.engine import NumberOption, ServedModel
from privml.engines.registry import ENGINES, engine_named
from privml.lock import modelsources
from privml.lock.modelrecord import LocalSource, Model, ModelFile
from privml.recipe import drivers, pairings
from privml.recipe.lint import lint
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.modelneeds import config_at, config_of
from privml.store.objects import Store

VLLM = engine_named("vllm")
OWN = {"engine-gpus", "engine-cuda", "engine-kernels", "engine-fault", "driver-known"}
ALIBI = {"architectures": ["MPTForCausalLM"], "attn_config": {"alibi": True}}
AWQ = {"architectures": ["Qwen3MoeForCausalLM"], "quantization_config": {"quant_method": "awq", "bits": 4}}
NVFP4 = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
PLAIN = {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-05, "alibi": False, "quantization_config": None}


def recipe_of(folder: Path, *changes: tuple[str, str]) -> Recipe:
    """The shipped recipe for an H100, changed, with its model in ``folder``/model."""
    text = (shipped() / "tdx-h100-vllm.yaml").read_text().replace("../models/smollm2/", "model/")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (folder / "x.yaml").write_text(text)
    (folder / "model").mkdir(exist_ok=True)
    return load(folder / "x.yaml")


def found(recipe: Recipe) -> list[tuple[str, str]]:
    return [(finding.rule, finding.text) for finding in lint(recipe) if finding.rule in OWN]


# The table.


def test_each_version_of_an_engine_has_one_cuda_and_every_row_a_source() -> None:
    for engine in (each for each in ENGINES.values() if each.needs_gpus):
        assert engine.wheels is not None
        first, before = engine.wheels.versions.first, engine.wheels.versions.before
        rows = [row for row in pairings.CUDA if row.engine == engine.name]
        assert [row.versions.first for row in rows] == [first, *(row.versions.before for row in rows[:-1])]
        assert rows[-1].versions.before == before
        assert all(row.major in pairings.OLDEST_DRIVER for row in rows)
    assert all(row.source for row in pairings.CUDA)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", fault.source) for fault in pairings.FAULTS)
    assert [*pairings.NEWEST_PTX] == sorted(pairings.NEWEST_PTX)


def test_the_records_avoid_what_the_table_says_they_avoid() -> None:
    avoided = [fault for fault in pairings.FAULTS if fault.avoided]
    assert len(avoided) == 2
    for fault in avoided:
        engine = engine_named(fault.engine)
        assert {name: engine.environment.get(name) for name in fault.environment} == dict(fault.environment)
        for name, option in engine.options.items():
            values = (option.low, option.high) if isinstance(option, NumberOption) else option.values
            for value in values:
                argv = engine.argv([ServedModel("m", "config.json", "/m")], {name: value}, version="0.19.1")
                assert not set(argv) & set(fault.unused)


HBM3 = "attestation of GPUs with HBM3 memory may fail, use 550.127.05 or later (Azure/az-cgpu-onboarding, README)"
ADVISED = {
    ("nvidia", "550.54.14", "550.113"): (
        HBM3,
        ("550.54.14", "550.54.15", "550.90.07", "550.90.12", "550.113"),
        ("535.274.02", "550.54.13", "550.40", "550.127.05", "550.163.01", "551.54.14", "570.86.15"),
    ),
}
"""Each advisory, the text of it, published versions that it is about, and versions that it is not about."""


@pytest.mark.parametrize("key", ADVISED, ids="-".join)
def test_each_advisory_is_told_of_the_versions_that_it_is_about(key: tuple[str, str, str]) -> None:
    text, about, others = ADVISED[key]
    for version in about:
        assert drivers.known_of(key[0], version) == [text], version
        assert text not in drivers.known_of("other", version)
    for version in others:
        assert text not in drivers.known_of(key[0], version), version


def test_no_advisory_is_untested() -> None:
    assert [(each.vendor, each.first, each.last) for each in drivers.ADVISORIES] == list(ADVISED)


def test_a_recipe_with_a_driver_under_an_advisory_is_refused_with_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"\[driver-version\]") as caught:
        recipe_of(tmp_path, ("version: 550.163.01", "version: 550.90.07"))
    assert f"got `550.90.07`, expected 550.163.01 or 595.71.05: {HBM3} [driver-version]" in caught.value.message


def test_an_advisory_about_a_driver_that_can_be_built_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path)
    advisory = drivers.Advisory("nvidia", "550.163.01", "550.163.01", "it is recalled", "vendor, README")
    monkeypatch.setattr(drivers, "ADVISORIES", (advisory,))
    assert found(recipe) == [
        ("driver-known", "gpu.driver.version: nvidia 550.163.01: it is recalled (vendor, README)")
    ]


def test_no_driver_that_can_be_built_has_an_advisory() -> None:
    for vendor, version in drivers.DRIVERS:
        assert not [each for each in drivers.ADVISORIES if each.concerns(vendor, version)]


@pytest.mark.parametrize(
    ("version", "driver", "refused"),
    [
        ("0.19.1", "550.163.01", False),
        ("0.19.1", "525.60.13", False),
        ("0.19.1", "520.61.05", True),
        ("0.20.0", "575.57.08", True),
        ("0.20.0", "580.65.06", False),
        ("0.33.0", "550.163.01", True),
        ("0.33.0", "595.58", False),
    ],
)
def test_a_driver_is_new_enough_for_the_cuda_of_the_wheels(version: str, driver: str, refused: bool) -> None:
    text = pairings.against_driver(VLLM, version, driver)
    assert (text is not None) is refused
    assert pairings.against_driver(engine_named("llama-server"), version, driver) is None


@pytest.mark.parametrize("config", [ALIBI, AWQ], ids=["alibi", "awq"])
def test_what_has_no_native_code_needs_a_driver_for_its_ptx(config: dict[str, Any]) -> None:
    text = pairings.against_model(VLLM, "0.19.1", "550.163.01", config)
    assert text is not None
    found, rest = text.split(
        ", for which vllm 0.19.1 is not known to have native code for the GPU, and its PTX is 8.8 ("
    )
    assert found == ("it has ALiBi (`MPTForCausalLM`)" if config is ALIBI else "`quantization_config` is awq")
    assert ", of which the driver 550.163.01 compiles up to 8.4: expected " in rest
    assert rest.endswith(", or driver 575 or later")
    assert ("none or one that has it: fp8, modelopt with FP8, compressed-tensors" in rest) is (config is AWQ)
    for version, driver in (("0.19.1", "575.57.08"), ("0.19.1", "580.65.06"), ("0.33.0", "580.65.06")):
        assert pairings.against_model(VLLM, version, driver, config) is None
    assert pairings.against_model(engine_named("llama-server"), "1", "550.163.01", config) is None
    assert pairings.against_model(VLLM, "0.19.1", "570.86.15", config) is not None


# lint.


def test_the_shipped_recipe_has_no_such_finding(tmp_path: Path) -> None:
    assert found(recipe_of(tmp_path)) == []
    assert [each for each in lint(load(shipped() / "tdx-h100-vllm.yaml")) if each.rule in OWN] == []


@pytest.mark.parametrize(
    ("changes", "rule", "text"),
    [
        (
            [("gpu: {vendor: nvidia, architecture: hopper, count: 1, driver: {version: 550.163.01}}\n", "")],
            "engine-gpus",
            "inference.engine.name: `vllm` needs GPUs, but the recipe has no `gpu`",
        ),
        (
            [("count: 1", "count: 2")],
            "engine-gpus",
            "gpu.count: got 2, but the engine's option `gpus` is 1: expected the same number",
        ),
        (
            [("slots: 16", "slots: 16, gpus: 2")],
            "engine-gpus",
            "gpu.count: got 1, but the engine's option `gpus` is 2: expected the same number",
        ),
        (
            [("vllm==0.19.1", "vllm==0.33.0")],
            "engine-cuda",
            "gpu.driver.version: got 550.163.01, but vllm 0.33.0 is for CUDA 13 (vllm 0.20.0 and 0.33.0 require "
            "nvidia-cublas 13): expected 580 or later",
        ),
    ],
)
def test_what_does_not_go_together_is_an_error(
    changes: list[tuple[str, str]], rule: str, text: str, tmp_path: Path
) -> None:
    assert found(recipe_of(tmp_path, *changes)) == [(rule, text)]


def test_a_known_fault_of_a_version_is_a_warning(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, ("vllm==0.19.1", "vllm==0.29.0"))
    (finding,) = [each for each in lint(recipe) if each.rule == "engine-fault"]
    assert finding.severity == "warning"
    assert finding.text.startswith("inference.engine.name: vllm 0.29.0: decoding was 3.3 times slower in 0.29.0")
    assert finding.text.endswith("(vllm-project/vllm#57680)")


def test_what_is_known_of_a_driver_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path)
    monkeypatch.setattr(drivers, "_REFERENCE_VALUES", {})
    ((rule, text),) = found(recipe)
    assert rule == "driver-known"
    assert text.startswith("gpu.driver.version: nvidia 550.163.01: no reference values of it are known")


def test_the_configuration_of_a_model_next_to_the_recipe_is_looked_at(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(PLAIN))
    assert found(recipe) == []
    config.write_text(json.dumps(AWQ))
    ((rule, text),) = found(recipe)
    assert rule == "engine-kernels"
    assert text.startswith("inference.models[0].source: `quantization_config` is awq, for which vllm 0.19.1 is not")
    # Where ModelOpt said it before it was in config.json.
    (tmp_path / "model" / "hf_quant_config.json").write_text(json.dumps(NVFP4))
    assert "`quantization_config` is awq" in found(recipe)[0][1]
    config.write_text(json.dumps(PLAIN))
    ((rule, text),) = found(recipe)
    assert rule == "engine-kernels"
    assert text.startswith("inference.models[0].source: `quantization_config` is modelopt with NVFP4, for which")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b" " * (2 << 20)])
def test_a_configuration_that_cannot_be_read_says_nothing(data: bytes, tmp_path: Path) -> None:
    assert config_of(data) == {}
    (tmp_path / "config.json").write_bytes(data)
    assert config_at(tmp_path / "config.json") == config_at(tmp_path / "other") == {}


# lock.


@pytest.mark.parametrize(
    ("config", "text"), [(PLAIN, None), (ALIBI, "it has ALiBi"), (AWQ, "`quantization_config` is awq")]
)
def test_lock_refuses_a_model_that_the_driver_has_no_kernels_for(
    config: dict[str, Any], text: str | None, tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path)
    store = Store(tmp_path / "store")
    data = json.dumps(config).encode()
    file = ModelFile(path="config.json", sha256=store.add_bytes(data), size=len(data))
    model = Model(name="x", source=LocalSource(local="model/"), files=(file,), licence=None, signature=None)
    if text is None:
        modelsources._check_needs(recipe, 0, model, {}, store)
        return
    with pytest.raises(InputsError, match=rf"engine-kernels: .*inference\.models\[0\]\.source: .*{text}"):
        modelsources._check_needs(recipe, 0, model, {}, store)
    # Of a lock that is kept, the files need not be there: they were looked at when it was made.
    modelsources._check_needs(recipe, 0, model, {}, Store(tmp_path / "empty"))


def test_lock_reads_the_file_next_to_the_configuration_too(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    store = Store(tmp_path / "store")

    def model(*names: str) -> Model:
        made = []
        for name in names:
            data = json.dumps(PLAIN if name.endswith("/config.json") or name == "config.json" else NVFP4).encode()
            made.append(ModelFile(path=name, sha256=store.add_bytes(data), size=len(data)))
        return Model(name="x", source=LocalSource(local="model/"), files=tuple(made), licence=None, signature=None)

    for apart in ("", "a/"):
        named = model(f"{apart}config.json", f"{apart}hf_quant_config.json")
        with pytest.raises(InputsError, match=r"engine-kernels: .*`quantization_config` is modelopt with NVFP4"):
            modelsources._check_needs(recipe, 0, named, {}, store)
    modelsources._check_needs(recipe, 0, model("config.json", "a/hf_quant_config.json"), {}, store)
