"""Files of safetensors: whole or refused with the reason, one by one and as a model.

Those in `tests/vectors/safetensors` were made by the package safetensors; what it says of the small files here was
tried with its version 0.8.0.
"""

from __future__ import annotations

import io

import pytest
import safetensors_file as s
from tests.published import VECTORS

from privml.base.errors import InputsError
from privml.lock import modelfile, safetensors
from privml.lock.safetensors import Header

REAL = VECTORS / "safetensors"
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
KINDS = {
    "model.embed.weight": "F32",
    "model.norm.weight": "F16",
    "lm_head.weight": "I8",
    "flag": "BOOL",
    "scalar": "I64",
    "none": "F64",
}


def check(data: bytes, name: str = "model.safetensors") -> Header:
    return safetensors.check(name, io.BytesIO(data), len(data))


def refusal(data: bytes, name: str = "model.safetensors") -> str:
    with pytest.raises(ValueError) as caught:
        check(data, name)
    return str(caught.value)


def test_a_real_file_is_read() -> None:
    found = check((REAL / "model.safetensors").read_bytes())
    assert found.tensors == KINDS
    assert found.elements == 12 + 4 + 6 + 1 + 1
    assert sum(found.types.values()) == len(KINDS)


def test_every_truncation_of_a_real_file_is_refused() -> None:
    data = (REAL / "model.safetensors").read_bytes()
    for size in range(len(data)):
        refusal(data[:size])
    refusal(data + b"\0")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}   ',
        {"__metadata__": {"format": "pt"}, "a": s.entry(0, 2)},
        {"b": s.entry(1, 2), "a": s.entry(0, 1)},
        {"a": s.entry(0, 2), "b": s.entry(2, 2, [0])},
        {"a": s.entry(0, 1, []), "b": s.entry(1, 2, [2], "F4")},
    ],
)
def test_other_spellings_of_a_whole_file_are_read(header: dict[str, object] | bytes) -> None:
    assert "a" in check(s.made(header, b"12")).tensors


TWICE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({}, "it has no tensors"),
        (b"[]", "its header begins with b'[', expected a brace"),
        (b' {"a":1}', "its header begins with b' ', expected a brace"),
        (b"{}\0\0", "header: Extra data"),
        (b'{"\xff":1}', "header: not UTF-8 at byte 2"),
        (TWICE, "header: key `a` is given twice"),
        ({"a": s.entry(0, 2) | {"x": 1}}, "header.a.x: unknown field"),
        ({"a": 1}, "header.a: an integer, expected an object"),
        ({"a": {"dtype": "U8", "shape": [2]}}, "header.a.data_offsets: missing"),
        ({"a": s.entry(0, 2, kind="I4")}, "header.a.dtype: got `I4`, expected one of BOOL"),
        ({"a": s.entry(0, 2, [-2])}, "header.a.shape: got `-2`, expected whole numbers"),
        ({"a": s.entry(0, 2, [1] * 17)}, "header.a.shape: 17 items, expected at most 16"),
        ({"a": s.entry(0, 2, [True])}, "header.a.shape: got `True`"),
        ({"a": s.entry(0, 2, [3])}, "header.a: U8 of the shape [3] needs 24 bits, and it has 2 bytes"),
        ({"a": s.entry(0, 2, [2**50, 2**50, 2**50])}, "bits, and it has 2 bytes"),
        ({"a": s.entry(0, 2, [1], "F4")}, "F4 of the shape [1] needs 4 bits"),
        ({"a": s.entry(2, 0, [2])}, "data_offsets: got [2, 0]"),
        ({"a": {**s.entry(0, 2), "data_offsets": [0]}}, "data_offsets: got [0]"),
        ({"a": s.entry(0, 1), "b": s.entry(0, 1)}, "tensor `b` begins at byte 0 of the data, expected 1"),
        ({"a": s.entry(1, 2)}, "tensor `a` begins at byte 1 of the data, expected 0"),
        ({"a": s.entry(0, 2), "b": s.entry(1, 1, [0])}, "begins at byte 1 of the data, expected 2"),
        ({"a": s.entry(0, 1)}, "it has 70 bytes, and its tensors end at byte 69"),
        ({"a": s.entry(0, 3)}, "it has 70 bytes, and its tensors end at byte 71"),
        ({"": s.entry(0, 2)}, "a tensor's name has 0 characters"),
        ({"__metadata__": {"a": 1}, "a": s.entry(0, 2)}, "header.__metadata__.a: an integer, expected a string"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_the_reason(header: dict[str, object] | bytes, message: str) -> None:
    assert message in refusal(s.made(header, b"12"))


def test_bounds_hold_before_anything_is_read() -> None:
    assert refusal((1 << 40).to_bytes(8, "little")) == (
        "it says that its header has 1099511627776 bytes, expected at most 33554432"
    )
    assert refusal((1000).to_bytes(8, "little")) == "it has 8 bytes, and its header ends at byte 1008"
    assert "nested deeper than 32 levels" in refusal(s.made(b'{"a":' + b"[" * 40, b""))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("config.json", b"[]", "its JSON is no object"),
        ("config.json", b"{", "not JSON: "),
        ("config.json", b'{"a":1,"a":2}', "`a` is given twice"),
        ("tokenizer.json", b"\xff", "not UTF-8 at byte 0"),
        ("config.json", b'{"a":' + b"[" * 40, "nested deeper than 32 levels"),
        ("modeling_x.py", b"print()", "`modeling_x.py` can hold a program, which an engine would run"),
        ("pytorch_model.bin", b"x", "`pytorch_model.bin` can hold a program, which an engine would run"),
        ("consolidated.00.pth", b"x", "can hold a program"),
        (
            "recipe.yaml",
            b"x",
            "`recipe.yaml` is no file of such a model: expected *.safetensors, its index, config.json",
        ),
        ("config.json", b'{"auto_map":{"AutoModel":"modeling_x.X"}}', "it has `auto_map`: its model needs programs"),
        (
            "tokenizer_config.json",
            b'{"a":[{"auto_map":1}]}',
            "it has `auto_map`: its model needs programs of its own",
        ),
        (INDEX, b'{"weight_map":{"a":"../x.safetensors"}}', "got `../x.safetensors`, expected the name of"),
        (INDEX, b'{"weight_map":{"a":"x.bin"}}', "got `x.bin`, expected the name of"),
        (INDEX, b'{"weight_map":{}}', "weight_map: empty"),
        (INDEX, b'{"weight_map":{"a":1}}', "index.weight_map.a: an integer"),
        (INDEX, b'{"more":1,"weight_map":{"a":"x.safetensors"}}', "index.more: unknown field"),
    ],
)
def test_other_files_of_a_model_are_known_and_readable(name: str, data: bytes, message: str) -> None:
    assert message in refusal(data, name)


def test_configuration_may_have_any_numbers() -> None:
    assert check(b'{"theta": 1e6, "eps": 1e-05, "n": 123456789012345678901234567890}', "config.json") == Header()
    assert check(b"\0\1", "tokenizer.model") == Header()


def test_a_vocabulary_may_have_any_word() -> None:
    for name in ("vocab.json", "tokenizer.json"):
        assert check(b'{"auto_map": 1}', name) == Header()


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (b"---\nlibrary_name: x\nlicense: apache-2.0\n---\n# Tiny\n", "apache-2.0"),
        (b"---\nlicense: other\nlicense_name: acme\n---\n", None),
        (b"---\nlicense: [mit, x]\n---\n", None),
        (b"# Tiny\n---\nlicense: mit\n---\n", None),
        (b"---\na: 1\n---\nlicense: mit\n", None),
    ],
)
def test_a_readme_names_the_licence_in_its_header(text: bytes, licence: str | None) -> None:
    assert check(text, "README.md").licence == licence
    assert check(text, "LICENSE").licence is None


# As a model.

TENSORS = {PARTS[0]: ["a", "b"], PARTS[1]: ["c"]}
FILES = {
    "config.json": b"{}",
    PARTS[0]: s.SMALL,
    PARTS[1]: s.made({"c": s.entry(0, 1)}, b"x"),
    INDEX: s.index(TENSORS),
}


def whole(files: dict[str, bytes]) -> None:
    safetensors.whole([(name, check(data, name)) for name, data in files.items()])


def test_a_model_of_one_and_of_several_files_is_whole() -> None:
    whole(FILES)
    whole({"config.json": b"{}", "model.safetensors": s.SMALL})
    real = {name: (REAL / name).read_bytes() for name in PARTS}
    names = list(KINDS)
    whole({"config.json": b"{}", **real, INDEX: s.index({PARTS[0]: names[:2], PARTS[1]: names[2:]})})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.json": None}, "it has no config.json"),
        ({INDEX: None}, "it has 2 files of tensors and no *.safetensors.index.json"),
        ({PARTS[1]: None}, f"its index names `{PARTS[1]}`, which is not there"),
        ({INDEX: s.index({PARTS[0]: ["a", "b"]})}, f"`{PARTS[1]}` is not in its index"),
        ({INDEX: s.index({PARTS[0]: ["a", "b", "x"], PARTS[1]: ["c"]})}, "its index says that tensor `x` is in"),
        ({INDEX: s.index({PARTS[0]: ["a"], PARTS[1]: ["c"]})}, f"tensor `b` of {PARTS[0]} is not in the index"),
        ({PARTS[1]: s.SMALL}, "tensor `a` is in two files"),
        ({"other.safetensors.index.json": s.index(TENSORS)}, "expected one"),
        ({PARTS[0]: None, PARTS[1]: None}, "it has no *.safetensors with tensors"),
    ],
)
def test_files_that_are_not_one_model_are_refused(change: dict[str, bytes | None], message: str) -> None:
    files = {name: data for name, data in (FILES | change).items() if data is not None}
    with pytest.raises(ValueError) as caught:
        whole(files)
    assert message in str(caught.value)


def test_what_a_server_sends_instead_is_named() -> None:
    for name, data in {"model.safetensors": b"<html>", "config.json": b"version https://git-lfs"}.items():
        with pytest.raises(InputsError, match=r"x is not a whole SAFETENSORS model: it begins with"):
            modelfile.check(io.BytesIO(data), len(data), kind="safetensors", name="x", path=name)
    modelfile.check(io.BytesIO(b"{}"), 2, kind="safetensors", name="x", path="config.json")
