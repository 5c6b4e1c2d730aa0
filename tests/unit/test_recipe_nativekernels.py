"""What of a model has native code on Hopper: which classes have ALiBi, and which quantisations are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from privml.recipe.nativekernels import missing


def of(name: str, **fields: Any) -> dict[str, Any]:
    return {"architectures": [name], **fields}


# ALiBi. Each class of vLLM 0.19.1 that may have it, with and without.


@pytest.mark.parametrize(
    "config",
    [
        of("BaichuanForCausalLM", hidden_size=5120),
        of("BaichuanForCausalLM"),
        of("BloomForCausalLM"),
        of("BloomForCausalLM", alibi=False, position_embedding_type="rotary"),
        of("FalconForCausalLM", alibi=True),
        of("RWForCausalLM", alibi=True),
        of("JAISLMHeadModel", position_embedding_type="alibi"),
        of("MPTForCausalLM", attn_config={"alibi": True}),
        of("MPTForCausalLM"),
        of("MptForCausalLM", attn_config={"alibi": False}),
        of("MptForCausalLM"),
        of("Step1ForCausalLM"),
        of("Step1ForCausalLM", hidden_size=4096),
        {"architectures": ["Other", "BloomForCausalLM"]},
        of("SomeVisionModel", text_config=of("BloomForCausalLM")),
        of("SomeVisionModel", language={"inner": of("FalconForCausalLM", alibi=True)}),
    ],
    ids=repr,
)
def test_a_model_with_alibi_has_no_native_code(config: dict[str, Any]) -> None:
    found = missing(config)
    assert found is not None
    assert found.what.startswith("it has ALiBi (`")
    assert found.expected == "a model without ALiBi"


@pytest.mark.parametrize(
    "config",
    [
        of("BaichuanForCausalLM", hidden_size=4096),
        of("BaiChuanForCausalLM", hidden_size=4096),
        of("BaiChuanForCausalLM", hidden_size=5120),
        of("FalconForCausalLM", alibi=False),
        of("FalconForCausalLM"),
        of("RWForCausalLM", alibi=False),
        of("RWForCausalLM"),
        of("FalconH1ForCausalLM", alibi=True),
        of("JAISLMHeadModel", position_embedding_type="learned"),
        of("JAISLMHeadModel"),
        of("Jais2ForCausalLM", position_embedding_type="alibi"),
        of("Step3TextForCausalLM"),
        of("LlamaForCausalLM", alibi=True),
        of("SomeVisionModel", alibi=True, text_config=of("FalconForCausalLM")),
        {"architectures": "BloomForCausalLM"},
        {"architectures": [["BloomForCausalLM"], None]},
        {},
    ],
    ids=repr,
)
def test_a_model_without_alibi_has(config: dict[str, Any]) -> None:
    assert missing(config) is None


# Quantised weights.


def group(
    weights: tuple[str, int], activations: tuple[str, int] | None, form: str | None = None, **of_activations: Any
) -> dict[str, Any]:
    used = None
    if activations is not None:
        used = {"type": activations[0], "num_bits": activations[1], "dynamic": True, "strategy": "token"}
    made = {"targets": ["Linear"], "weights": {"type": weights[0], "num_bits": weights[1], "strategy": "channel"}}
    made["input_activations"] = used and used | of_activations
    return made if form is None else made | {"format": form}


def compressed(form: str, *groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    named = {f"group_{number}": each for number, each in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": named, **more}


F8, I8 = ("float", 8), ("int", 8)
STATIC: dict[str, Any] = {"dynamic": False, "strategy": "tensor", "symmetric": True}
NATIVE = [
    {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    {"quant_method": "FP8", "activation_scheme": "static"},
    {"quant_method": "modelopt", "quant_algo": "FP8"},
    {"quant_method": "modelopt", "quant_algo": "fp8_per_channel_per_token"},
    {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8_PB_WO"}},
    {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
    compressed("float-quantized", group(F8, F8)),
    compressed("float-quantized", group(F8, F8, **STATIC), sparsity_config={}, transform_config={}),
    compressed("naive-quantized", group(F8, F8)) | {"quant_method": "compressed_tensors"},
    compressed("int-quantized", group(I8, I8)),
    compressed("int-quantized", group(I8, I8, **STATIC, zero=1)),
    compressed("mixed-precision", group(F8, F8, "float-quantized"), group(I8, I8, "int-quantized")),
]
UNKNOWN = [
    ({"quant_method": "awq", "bits": 4}, "awq"),
    ({"quant_method": "gptq"}, "gptq"),
    ({"quant_method": "gptq_marlin"}, "gptq_marlin"),
    ({"quant_method": "mxfp4"}, "mxfp4"),
    ({"quant_method": "mxfp8"}, "mxfp8"),
    ({"quant_method": "auto-round"}, "auto-round"),
    ({"quant_method": "hqq"}, "hqq"),
    ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
    ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
    ({"quant_method": "of\nnext\x1b week"}, "of?next? week"),
    ({"quant_method": 8}, "of no method"),
    ({"bits": 4}, "of no method"),
    ("awq", "no object"),
    (["fp8"], "no object"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt with NVFP4"),
    ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "modelopt with MIXED_PRECISION"),
    ({"quant_method": "modelopt"}, "modelopt with NONE"),
    ({"quant_method": "modelopt_fp4", "quant_algo": "FP8"}, "modelopt_fp4 with FP8"),
    (
        {"quant_method": "fp8", "producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}},
        "modelopt with NVFP4",
    ),
    (
        compressed("pack-quantized", group(("int", 4), None)),
        "compressed-tensors with pack-quantized (bits of weights: 4, of activations: none)",
    ),
    (
        compressed("nvfp4-pack-quantized", group(("float", 4), ("float", 4))),
        "compressed-tensors with nvfp4-pack-quantized (bits of weights: 4, of activations: 4)",
    ),
    (
        compressed("mixed-precision", group(F8, F8, "float-quantized"), group(("int", 4), None, "pack-quantized")),
        "compressed-tensors with float-quantized (bits of weights: 8, of activations: 8), "
        "pack-quantized (bits of weights: 4, of activations: none)",
    ),
    (
        compressed("float-quantized", group(F8, None)),
        "compressed-tensors with float-quantized (bits of weights: 8, of activations: none)",
    ),
    (
        compressed("float-quantized", group(F8, F8), sparsity_config={"format": "sparse-24-bitmask"}),
        "compressed-tensors with float-quantized (bits of weights: 8, of activations: 8), sparsity_config",
    ),
    (
        compressed("float-quantized"),
        "compressed-tensors with float-quantized (bits of weights: none, of activations: none)",
    ),
]


def places(quantised: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """A model's configuration with a quantisation at each place where one may be."""
    yield "quantization_config", of("LlamaForCausalLM", quantization_config=quantised)
    yield "compression_config", of("LlamaForCausalLM", compression_config=quantised)
    for key in ("quantization_config", "compression_config"):
        yield f"text_config.{key}", of("SomeVisionModel", text_config={"hidden_size": 8, key: quantised})
    yield "a.b.quantization_config", of("Some", quantization_config=None, a={"b": {"quantization_config": quantised}})


@pytest.mark.parametrize("quantised", NATIVE, ids=repr)
def test_what_is_known_to_have_native_code(quantised: dict[str, Any]) -> None:
    assert [missing(config) for _, config in places(quantised)] == [None] * 5


@pytest.mark.parametrize(("quantised", "text"), UNKNOWN, ids=[text for _, text in UNKNOWN])
def test_every_other_quantisation_is_refused_wherever_it_is(quantised: object, text: str) -> None:
    for path, config in places(quantised):
        found = missing(config)
        assert found is not None, path
        assert found.what == f"`{path}` is {text}"
        assert found.expected.startswith("none or one that has it: fp8, modelopt with FP8, compressed-tensors with")


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_model_that_is_not_quantised_has_native_code(nothing: object) -> None:
    assert [missing(config) for _, config in places(nothing)] == [None] * 5


def changed(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``value`` with each of its members gone, and each leaf another, one at a time; but for those in ``NEUTRAL``."""
    for name, inner in value.items():
        if name in NEUTRAL:
            continue
        yield {key: each for key, each in value.items() if key != name}
        others: Iterable[Any] = changed(inner) if isinstance(inner, dict) else ("other", 4, None, [], {})
        yield from ({**value, name: other} for other in others)


NEUTRAL = {"targets", "strategy", "symmetric", "dynamic", "zero", "sparsity_config", "transform_config"}
"""Fields by which no other kernel is chosen, or which have a test of their own."""


@pytest.mark.parametrize("quantised", NATIVE[6:11], ids=repr)
def test_any_change_to_a_known_quantisation_makes_it_unknown(quantised: dict[str, Any]) -> None:
    tried = [missing({"quantization_config": other}) for other in changed(quantised)]
    assert len(tried) == 40
    assert None not in tried


@pytest.mark.parametrize(
    ("change", "native"),
    [
        ({"dynamic": True, "strategy": "token"}, True),
        ({"dynamic": True, "symmetric": False}, True),
        ({"dynamic": False, "strategy": "tensor"}, True),
        ({"dynamic": False, "strategy": "tensor", "symmetric": False}, False),
        ({"dynamic": False, "strategy": "token"}, False),
        ({"dynamic": "local", "strategy": "group"}, False),
    ],
)
def test_activations_of_type_float_that_are_not_used_leave_the_weights_alone(
    change: dict[str, Any], native: bool
) -> None:
    found = missing({"quantization_config": compressed("float-quantized", group(F8, F8, **change))})
    assert (found is None) is native
