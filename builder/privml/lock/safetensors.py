"""Check that files are a whole model of safetensors: every header, that tensors fill each file, and the index.

A file is the length of its header (8 bytes, little endian), the header (JSON: for each tensor its type, shape and
place), and the tensors' bytes without gaps. Layout and types: github.com/huggingface/safetensors, README.md and
safetensors/src/tensor.rs (0.8.0); the index is that of Hugging Face's transformers. Stricter than there: a name given
twice, unknown members, a header that does not begin with a brace, and a file without tensors are refused.

Reads headers and never tensors. A model's other files are configuration and tokenizer, by name; what can hold
programs (``*.py``, pickled ``*.bin``) is none of them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, check_structure, first_repeated, loads

SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"
MAX_HEADER = 32 << 20
MAX_VALUES = 4_000_000
MAX_TENSORS = 400_000
MAX_DIMENSIONS = 16
MAX_FILES = 1000
MAX_OTHER = 64 << 20
_MAX_NAME = 1000
_LENGTH = 8

BITS: Mapping[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits of one element by its type."""
CONFIG = "config.json"
_CONFIGS = (
    CONFIG, "generation_config.json", "hf_quant_config.json", "preprocessor_config.json", "processor_config.json",
    "quantize_config.json", "tokenizer_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_JSON = (
    "added_tokens.json", "chat_template.json", "special_tokens_map.json", "tekken.json", "tokenizer.json",
    "vocab.json",
)  # fmt: skip
_TEXTS = ("chat_template.jinja", "merges.txt", "vocab.txt")
_BINARY = ("tokenizer.model",)
_DOCUMENTS = (
    "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt", "README.md", "USE_POLICY.md",
)  # fmt: skip
_OF_PROGRAMS = "auto_map"
"""The field of a configuration that names Python classes of the model's own, which an engine would run."""
_PROGRAMS = (".bin", ".ckpt", ".h5", ".msgpack", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".so")


@dataclass(frozen=True)
class Header:
    """What one file says: tensors of each type by name, or the files of tensors that an index names; else neither."""

    tensors: Mapping[str, str] = field(default_factory=dict)
    index: Mapping[str, str] | None = None
    elements: int = 0
    licence: str | None = None

    @property
    def types(self) -> dict[str, int]:
        """The number of tensors of each type, most frequent first."""
        return dict(Counter(self.tensors.values()).most_common())


def brace_first(name: str) -> bool:
    """True for a file of a model that may begin with a brace: JSON, a template, and a header of 123 bytes."""
    plain = name.rpartition("/")[2]
    return plain in (*_CONFIGS, *_JSON, *_TEXTS) or plain.endswith((INDEX_SUFFIX, SUFFIX))


def check(name: str, file: IO[bytes], size: int) -> Header:
    """Raise ``ValueError`` with the reason if ``file`` (``name`` in its model, of ``size`` bytes) is not whole."""
    plain = name.rpartition("/")[2]
    try:
        if plain.endswith(SUFFIX):
            return _tensors(file, size)
        if plain.endswith(INDEX_SUFFIX):
            return _index(_all(file, size, MAX_HEADER))
    except EvidenceError as error:
        raise ValueError(error.message) from error
    if plain in _BINARY:
        return Header()
    if plain.endswith(_PROGRAMS):
        raise ValueError(f"`{plain[:80]}` can hold a program, which an engine would run: expected *{SUFFIX} instead")
    if plain not in (*_CONFIGS, *_JSON, *_TEXTS, *_DOCUMENTS):
        raise ValueError(f"`{plain[:80]}` is no file of such a model: expected *{SUFFIX}, its index, {_known()}")
    text = _text(_all(file, size, MAX_OTHER))
    if plain in (*_CONFIGS, *_JSON):
        _object(text, without=_OF_PROGRAMS if plain in _CONFIGS else None)
    return Header(licence=_licence(text) if plain == "README.md" else None)


def whole(files: Sequence[tuple[str, Header]]) -> None:
    """Raise ``ValueError`` with the reason if files, each with its name and header, are not one whole model."""
    if len(files) > MAX_FILES:
        raise ValueError(f"it has {len(files)} files, expected at most {MAX_FILES}")
    names = [name.rpartition("/")[2] for name, _ in files]
    if CONFIG not in names:
        raise ValueError(f"it has no {CONFIG}")
    tensors = {name: header.tensors for name, (_, header) in zip(names, files, strict=True) if header.tensors}
    indexes = {name: header.index for name, (_, header) in zip(names, files, strict=True) if header.index is not None}
    if not tensors:
        raise ValueError(f"it has no *{SUFFIX} with tensors")
    twice = first_repeated(tensor for each in tensors.values() for tensor in each)
    if twice is not None:
        raise ValueError(f"tensor `{twice[:80]}` is in two files")
    if len(indexes) > 1:
        raise ValueError(f"it has the indexes {' and '.join(sorted(indexes))}, expected one")
    if len(tensors) > 1 and not indexes:
        raise ValueError(f"it has {len(tensors)} files of tensors and no *{INDEX_SUFFIX}")
    for index in indexes.values():
        agree(index, tensors)


def agree(index: Mapping[str, str], tensors: Mapping[str, Mapping[str, str]]) -> None:
    """Raise ``ValueError`` if an index and the files' tensors, by the files' names, are not of one model."""
    if missing := sorted(set(index.values()) - tensors.keys()):
        raise ValueError(f"its index names `{missing[0][:80]}`, which is not there")
    if extra := sorted(tensors.keys() - set(index.values())):
        raise ValueError(f"`{extra[0]}` is not in its index")
    for tensor, file in index.items():
        if tensor not in tensors[file]:
            raise ValueError(f"its index says that tensor `{tensor[:80]}` is in {file}, which has none of that name")
    for file, inside in tensors.items():
        if left := next((tensor for tensor in inside if index.get(tensor) != file), None):
            raise ValueError(f"tensor `{left[:80]}` of {file} is not in the index")


def beside(place: Path) -> tuple[str, ...]:
    """The names of the files in the folder ``place``; none if it is not there.

    ``ValueError`` if there is anything but files: a link could lead to what differs between machines, and an engine
    looks at no folder below.
    """
    if not place.is_dir():
        return ()
    with os.scandir(place) as entries:
        found = sorted(itertools.islice(entries, MAX_FILES + 1), key=lambda entry: entry.name)
    if len(found) > MAX_FILES:
        raise ValueError(f"{place.name} has more than {MAX_FILES} files")
    for entry in found:
        if entry.is_symlink():
            raise ValueError(f"`{entry.name}` is a link, expected a file: copy the folder with `cp -rL`")
        if not entry.is_file():
            kind = "a folder" if entry.is_dir() else "not a regular file"
            raise ValueError(f"`{entry.name}` is {kind}, expected only the files of one model")
    return tuple(entry.name for entry in found)


def together(paths: Sequence[str]) -> bool:
    """True if files with these paths can be one model: all are in one folder, and each is there once."""
    return len({path.rpartition("/")[0] for path in paths}) == 1 and len(set(paths)) == len(paths)


def ordered(paths: Sequence[str]) -> tuple[str, ...]:
    """The paths sorted, with the configuration first: it is what an engine opens."""
    return tuple(sorted(paths, key=lambda path: (path.rpartition("/")[2] != CONFIG, path)))


def _known() -> str:
    return ", ".join((*_CONFIGS, *_JSON, *_TEXTS, *_BINARY, *_DOCUMENTS))


def _tensors(file: IO[bytes], size: int) -> Header:
    if size < _LENGTH:
        raise ValueError(f"it has {size} bytes, expected the length of its header")
    (length,) = struct.unpack("<Q", _exactly(file, _LENGTH))
    if length > MAX_HEADER:
        raise ValueError(f"it says that its header has {length} bytes, expected at most {MAX_HEADER}")
    if _LENGTH + length > size:
        raise ValueError(f"it has {size} bytes, and its header ends at byte {_LENGTH + length}")
    head = _exactly(file, length)
    if not head.startswith(b"{"):
        raise ValueError(f"its header begins with {head[:1]!r}, expected a brace")
    fields = Fields(loads(head, what="header", limit=MAX_HEADER, values=MAX_VALUES), "header")
    if fields.has("__metadata__"):
        _texts(fields.fields("__metadata__"))
    names = fields.names()
    if not names:
        raise ValueError("it has no tensors")
    if len(names) > MAX_TENSORS:
        raise ValueError(f"it has {len(names)} tensors, expected at most {MAX_TENSORS}")
    found = [(*_tensor(Fields(value, f"header.{name[:80]}"), name), name) for name, value in fields.rest().items()]
    position = 0
    for begin, end, _, _, name in sorted(found):
        if begin != position:
            raise ValueError(f"tensor `{name[:80]}` begins at byte {begin} of the data, expected {position}")
        position = end
    if _LENGTH + length + position != size:
        raise ValueError(f"it has {size} bytes, and its tensors end at byte {_LENGTH + length + position}")
    return Header({name: kind for _, _, kind, _, name in found}, elements=sum(count for _, _, _, count, _ in found))


def _tensor(fields: Fields, name: str) -> tuple[int, int, str, int]:
    """One tensor: begin and end in the data, type, and number of elements."""
    if not name or len(name) > _MAX_NAME:
        raise ValueError(f"a tensor's name has {len(name)} characters, expected 1 to {_MAX_NAME}")
    kind = fields.text("dtype", one_of=tuple(BITS))
    shape = list(_counts(fields, "shape", MAX_DIMENSIONS))
    offsets = list(_counts(fields, "data_offsets", 2))
    fields.end()
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{fields.path}.data_offsets: got {offsets}, expected where the tensor begins and ends")
    elements = prod(shape)
    bits = elements * BITS[kind]
    if bits != 8 * (size := offsets[1] - offsets[0]):
        raise ValueError(f"{fields.path}: {kind} of the shape {shape} needs {bits} bits, and it has {size} bytes")
    return offsets[0], offsets[1], kind, elements


def _counts(fields: Fields, key: str, limit: int) -> Iterator[int]:
    for value in fields.array(key, limit=limit):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{fields.path}.{key}: got `{str(value)[:40]}`, expected whole numbers")
        yield value


def _texts(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name, limit=MAX_HEADER) for name in fields.names()}


def _index(data: bytes) -> Header:
    fields = Fields(loads(data, what="index", limit=MAX_HEADER, values=MAX_VALUES), "index")
    # What tools count there (total_size and others) differs between them and is read by none.
    if fields.has("metadata"):
        fields.fields("metadata").rest()
    index = _texts(fields.fields("weight_map"))
    fields.end()
    for name in set(index.values()):
        if "/" in name or not name.endswith(SUFFIX) or len(name) > _MAX_NAME:
            raise ValueError(f"index.weight_map: got `{name[:80]}`, expected the name of a *{SUFFIX} next to it")
    if not index:
        raise ValueError("index.weight_map: empty, expected the file of each tensor")
    return Header(index=index)


def _licence(text: str) -> str | None:
    """The licence in the header of a model's README, as hubs have it; None for `other` and if there is none."""
    header = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    said = re.search(r"^license: *([A-Za-z0-9][A-Za-z0-9.+-]{0,99}) *$", header[1], re.MULTILINE) if header else None
    return None if said is None or said[1] in ("other", "unknown") else said[1]


def _object(text: str, *, without: str | None) -> None:
    """Require one JSON object without a name given twice, and without the field ``without`` at any level.

    Unlike in our own formats, numbers may be any.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if without is not None and any(name == without for name, _ in items):
            raise ValueError(f"it has `{without}`: its model needs programs of its own, and no engine runs these")
        if (twice := first_repeated(name for name, _ in items)) is not None:
            raise ValueError(f"`{twice[:80]}` is given twice")
        return dict(items)

    try:
        check_structure(text, what="it", values=MAX_VALUES)
        value = json.loads(text, object_pairs_hook=pairs, parse_int=float)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except EvidenceError as error:
        raise ValueError(error.message) from error
    if not isinstance(value, dict):
        raise ValueError("its JSON is no object")


def _all(file: IO[bytes], size: int, limit: int) -> bytes:
    if size > limit:
        raise ValueError(f"it has {size} bytes, expected at most {limit}")
    return _exactly(file, size)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"it ends after {len(data)} bytes, expected {size}")
    return data
