"""Files of safetensors: any bytes end in a clean refusal, and what is accepted fills the file."""

from __future__ import annotations

import io
import json
import struct
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit import safetensors_file as s

from privml.lock import safetensors

KINDS = st.sampled_from(sorted(safetensors.BITS))
NUMBERS = st.one_of(st.integers(-1, 40), st.integers(0, 2**53))
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.one_of(KINDS, st.text(max_size=4)),
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(NUMBERS, max_size=3),
    }
)
HEADERS = st.dictionaries(st.text(max_size=4), st.one_of(TENSOR, st.none(), st.integers()), max_size=4)


def read(data: bytes, name: str = "m.safetensors") -> safetensors.Header | None:
    try:
        return safetensors.check(name, io.BytesIO(data), len(data))
    except ValueError:
        return None


@st.composite
def whole(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A header whose tensors fill the data that belongs to it."""
    header, position = {}, 0
    for name in draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5, unique=True)):
        kind = draw(KINDS)
        shape = [*draw(st.lists(st.integers(0, 4), max_size=2)), 8]  # whole bytes for types of 4 and 6 bits
        size = safetensors.BITS[kind]
        for each in shape[:-1]:
            size *= each
        header[name] = s.entry(position, position + size, shape, kind)
        position += size
    return header, bytes(position)


@given(whole())
def test_a_whole_file_is_read_with_every_tensor(file: tuple[dict[str, Any], bytes]) -> None:
    header, data = file
    if "__metadata__" in header:
        return
    found = read(s.made(header, data))
    assert found is not None and found.tensors == {name: each["dtype"] for name, each in header.items()}


@given(whole(), st.data())
def test_a_moved_or_resized_tensor_is_refused(file: tuple[dict[str, Any], bytes], data: st.DataObject) -> None:
    header, body = file
    name = data.draw(st.sampled_from(sorted(header)))
    at = data.draw(st.integers(0, 1))
    by = data.draw(st.integers(-8, 8).filter(bool))
    header[name]["data_offsets"][at] += by
    assert read(s.made(header, body)) is None


@given(HEADERS, st.binary(max_size=40))
def test_what_is_accepted_covers_the_file(header: dict[str, Any], data: bytes) -> None:
    found = read(s.made(header, data))
    if found is not None:
        ends = sorted(each["data_offsets"] for name, each in header.items() if name != "__metadata__")
        assert ends[0][0] == 0 and ends[-1][1] == len(data)
        assert all(one[1] == two[0] for one, two in pairwise(ends))


@given(
    st.binary(max_size=80),
    st.sampled_from(["m.safetensors", "m.safetensors.index.json", "config.json", "x.py", "README.md", "vocab.json"]),
)
def test_any_bytes_end_in_a_refusal_or_a_header(data: bytes, name: str) -> None:
    read(data, name)
    read(struct.pack("<Q", len(data)) + data, name)


@given(st.integers(0, len(s.SMALL) - 1), st.integers(1, 255))
def test_a_changed_byte_of_the_header_never_moves_a_tensor_unseen(at: int, mask: int) -> None:
    made = bytearray(s.SMALL)
    made[at] ^= mask
    found = read(bytes(made))
    if found is not None and at < len(s.SMALL) - 4:
        length = int.from_bytes(made[:8], "little")
        header = json.loads(bytes(made[8 : 8 + length]))
        assert sorted(each["data_offsets"] for each in header.values()) == [[0, 2], [2, 4]]
