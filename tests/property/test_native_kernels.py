"""A model's configuration is a stranger's: whatever it holds, the answer is one printable line or none."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from privml.recipe.nativekernels import missing

KEYS = st.one_of(
    st.sampled_from(
        [
            "architectures", "alibi", "hidden_size", "text_config", "quantization_config", "compression_config",
            "quant_method", "format", "config_groups", "weights", "input_activations", "num_bits", "type", "dynamic",
            "strategy", "producer", "name", "quantization", "quant_algo", "sparsity_config",
        ]
    ),
    st.text(max_size=5),
)  # fmt: skip
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 16),
    st.sampled_from(
        [
            "BloomForCausalLM",
            "fp8",
            "compressed-tensors",
            "modelopt",
            "FP8",
            "float-quantized",
            "float",
            "int",
            "tensor",
        ]
    ),
    st.text(max_size=5),
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6))


@given(st.dictionaries(KEYS, JSON, max_size=6))
def test_any_configuration_is_judged(config: dict[str, Any]) -> None:
    found = missing(config)
    assert found is None or (found.what.isprintable() and len(found.what) < 2000 and found.expected)


@given(JSON)
def test_what_is_quantised_in_an_unknown_way_is_refused(quantised: Any) -> None:
    known = isinstance(quantised, dict) and str(quantised.get("quant_method")).lower() in (
        "fp8", "modelopt", "compressed-tensors",
    )  # fmt: skip
    known = known or (isinstance(quantised, dict) and isinstance(quantised.get("producer"), dict))
    if quantised and not known:
        assert missing({"quantization_config": quantised}) is not None
