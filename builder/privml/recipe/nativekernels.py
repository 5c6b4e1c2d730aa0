"""What of a model vLLM 0.19 computes by native code for Hopper (sm_90), as its configuration says.

On a driver that compiles no PTX as new as the wheels', nothing else runs. Classes and choices of kernels were read in
the Python of the wheel 0.19.1, kernels by cuobjdump in its libraries:

- FlashAttention 2 (`_vllm_fa2_C`) is there for sm_80 and as PTX only. On Hopper version 3 is used (192 kernels for
  sm_90a), except for ALiBi (`v1/attention/backends/fa_utils.py`).
- Marlin converts weights when they are loaded (`gptq_marlin_repack`, `awq_marlin_repack`). These, a part of its
  products, and all of those for experts (`_moe_C`) are there for sm_75, sm_80 and as PTX only.
- For sm_90 there are products of 8-bit weights with 8-bit activations (`cutlass_3x_gemm_sm90_fp8`,
  `cutlass_3x_gemm_fp8_blockwise`, `cutlass_3x_group_gemm`, `cutlass_3x_gemm<signed char>`). The rest of what those
  formats need is Triton's, which brings its own compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Missing:
    """``what`` of a model has no native code, as far as is known, and what is ``expected`` instead."""

    what: str
    expected: str


def missing(config: Config) -> Missing | None:
    """What of a model with this config.json is not known to have native code; None if there is nothing."""
    found = _missing(config)
    # The configuration is a stranger's, and ``what`` is printed.
    return found and Missing("".join(each if each.isprintable() else "?" for each in found.what), found.expected)


def _missing(config: Config) -> Missing | None:
    inside = tuple(_mappings(config))
    for _, part in inside:
        for name in _classes(part):
            if name in _ALIBI and _ALIBI[name](part):
                return Missing(f"it has ALiBi (`{name}`)", "a model without ALiBi")
    for path, part in inside:
        for key in _QUANTISED:
            if (found := part.get(key)) and not _is_native(found):
                return Missing(f"`{path}{key}` is {_described(found)}", _EXPECTED)
    return None


def _mappings(config: Config) -> Iterator[tuple[str, Config]]:
    """The configuration and those inside it, of a text model or an encoder, each with its path and a dot."""
    todo = [("", config)]
    while todo:
        path, part = todo.pop()
        yield path, part
        inner = ((name, each) for name, each in part.items() if isinstance(each, dict))
        todo += [(f"{path}{name[:40]}."[:200], each) for name, each in inner]


# ALiBi.


def _always(_: Config) -> bool:
    return True


def _of_falcon(config: Config) -> bool:
    return bool(config.get("alibi"))


_ALIBI: Mapping[str, Callable[[Config], bool]] = {
    # baichuan.py. With a capital C, `BaiChuanForCausalLM` is another class, which always has rotary embeddings.
    "BaichuanForCausalLM": lambda config: config.get("hidden_size") != 4096,
    "BloomForCausalLM": _always,
    "FalconForCausalLM": _of_falcon,
    "RWForCausalLM": _of_falcon,
    "JAISLMHeadModel": lambda config: config.get("position_embedding_type") == "alibi",
    # mpt.py refuses a configuration without it.
    "MPTForCausalLM": _always,
    "MptForCausalLM": _always,
    # step1.py. Its form of it is Triton's alone, which is never chosen on Hopper: it runs with no driver.
    "Step1ForCausalLM": _always,
}
"""Every class below `model_executor/models` that gives `alibi_slopes` to its attention, and when it does."""


def _classes(config: Config) -> list[str]:
    listed = config.get("architectures")
    return [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []


# Quantised weights.

_QUANTISED = ("quantization_config", "compression_config")
_FLOAT_8 = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
_BY_TYPE = ("float-quantized", "int-quantized", "naive-quantized")
_CHANGES = ("sparsity_config", "transform_config")
"""What makes compressed-tensors compute a layer by other kernels."""
_EXPECTED = (
    "none or one that has it: fp8, modelopt with FP8, compressed-tensors with weights and activations of 8 bits "
    f"({', '.join(_BY_TYPE)})"
)


def _is_native(quantised: object) -> bool:
    """Whether all kernels of a quantisation are known to have native code."""
    if not isinstance(quantised, dict):
        return False
    match _method(quantised):
        case "fp8":  # fp8.py: by CUTLASS, because Marlin is only for GPUs without FP8
            return True
        case "modelopt":  # modelopt.py, ModelOptFp8Config; of its other formats it makes other methods
            return _algorithm(quantised) in _FLOAT_8
        case "compressed-tensors":
            return _is_8_bits(quantised)
        case _:
            return False


def _is_8_bits(quantised: Config) -> bool:
    """Whether each group is computed as 8 bits times 8 bits (`_get_scheme_from_parts` in compressed_tensors.py)."""
    groups = quantised.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        return False
    if any(quantised.get(name) for name in _CHANGES):
        return False
    for group in groups.values():
        if not isinstance(group, dict) or _format(quantised, group) not in _BY_TYPE:
            return False
        weights, activations = group.get("weights"), group.get("input_activations")
        if not isinstance(weights, dict) or not isinstance(activations, dict):
            return False  # without activations Marlin computes it
        if (weights.get("num_bits"), activations.get("num_bits")) != (8, 8):
            return False
        kinds = (weights.get("type"), activations.get("type"))
        if kinds != ("int", "int") and not (kinds == ("float", "float") and _used(activations)):
            return False
    return True


def _used(activations: Config) -> bool:
    """Whether activations of type float are used; else the weights alone count, and Marlin computes them."""
    of_tensor = activations.get("strategy") == "tensor" and activations.get("symmetric", True) is True
    return activations.get("dynamic") is True or of_tensor


def _format(quantised: Config, group: object) -> object:
    own = group.get("format") if isinstance(group, dict) else None
    return quantised.get("format") if own is None else own


def _method(quantised: Config) -> str:
    """The method's name as vLLM reads it (`model_arch_config_convertor.py`); empty if there is none."""
    name, producer = quantised.get("quant_method"), quantised.get("producer")
    if isinstance(producer, dict) and producer.get("name") == "modelopt":
        return "modelopt"
    return name.lower().replace("compressed_tensors", "compressed-tensors") if isinstance(name, str) else ""


def _algorithm(quantised: Config) -> str:
    inner = quantised.get("quantization")
    return str((inner if isinstance(inner, dict) else quantised).get("quant_algo")).upper()


def _described(quantised: object) -> str:
    """A quantisation in a message."""
    if not isinstance(quantised, dict):
        return "no object"
    method = _method(quantised)
    if method.startswith("modelopt"):
        return f"{method[:40]} with {_algorithm(quantised)[:40]}"
    if method != "compressed-tensors":
        return method[:40] or "of no method"
    groups = quantised.get("config_groups")
    every = groups.values() if isinstance(groups, dict) and groups else ({},)
    kinds = sorted({_group(quantised, each) for each in every})
    kinds += [name for name in _CHANGES if quantised.get(name)]
    return f"{method} with {', '.join(kinds)}"[:200]


def _group(quantised: Config, group: object) -> str:
    """A group in a message: its format, and the bits of weights and activations."""
    parts = [group.get(name) if isinstance(group, dict) else None for name in ("weights", "input_activations")]
    weights, activations = (str(each.get("num_bits"))[:20] if isinstance(each, dict) else "none" for each in parts)
    return f"{str(_format(quantised, group))[:40]} (bits of weights: {weights}, of activations: {activations})"
