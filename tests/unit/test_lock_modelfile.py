"""A model file that is something else is refused when it is locked, with the reason."""

from __future__ import annotations

import io
import struct

import gguf_file as g
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import InputsError
from privml.lock import gguf, modelfile


def check(data: bytes) -> None:
    modelfile.check(io.BytesIO(data), len(data), kind="gguf", name="m.gguf")


STRINGS = g.entry(b"tokens", 9, struct.pack("<IQ", 8, 2) + g.text(b"a") + g.text(b"bc"))
NUMBERS = g.entry(b"scores", 9, struct.pack("<IQ", 6, 3) + bytes(12))
WIDE = g.entry(b"general.alignment", 4, struct.pack("<I", 64))


@pytest.mark.parametrize(
    "data",
    [
        g.SMALL,
        g.model(version=2),
        g.model((STRINGS, NUMBERS, g.entry(b"on", 7, b"\x01"))),
        g.model((WIDE,), (g.tensor(b"w", (4,), g.F32, 64),), bytes(80), alignment=64),
        g.model(tensors=(g.tensor(b"a", (64, 2), g.Q4_0, 0), g.tensor(b"b", (2,), g.F16, 96)), data=bytes(100)),
        g.model(tensors=(g.tensor(b"new", (4,), 99, 0),)),  # a type of a later version of ggml
    ],
)
def test_a_whole_model_is_accepted(data: bytes) -> None:
    check(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "m.gguf is not a whole GGUF model: it is empty"),
        (b"<html>not found</html>", "begins with `<html>not found</html>`, so it is an HTML page"),
        (b"\n<!DOCTYPE html><p>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b'{"error": "unauthorized"}', "so it is JSON"),
        (b"PK\x03\x04" + bytes(60), "a ZIP archive"),
        (g.model(magic=b"GGML"), "begins with b'GGML', expected b'GGUF'"),
        (g.model(version=1), "GGUF version 1, expected 2 or 3"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "GGUF version 50331648"),
        (g.SMALL[:-1], "its tensors end at byte"),
        (g.SMALL[:40], "ends after 40 bytes, within its header"),
        (g.model(tensors=()), "it has no tensors"),
        (g.model(tensors=(g.tensor(b"w", (1 << 40,), g.F32, 0),)), "its tensors end at byte"),
        (g.model(tensors=(g.tensor(b"w", (4,), g.F32, 8),)), "not a multiple of 32"),
        (g.model(tensors=(g.tensor(b"w", (), g.F32, 0),)), "0 dimensions, expected 1 to 4"),
        (g.model(tensors=(g.tensor(b"w", (4,), 99, 1 << 40),)), "its tensors end at byte"),
        (g.model((g.entry(b"x", 13, b""),)), "unknown type 13"),
        (g.model((g.entry(b"general.alignment", 4, struct.pack("<I", 48)),)), "alignment 48"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "1152921504606846976 tensors, expected at most"),
        (g.model((g.entry(b"x", 9, struct.pack("<IQ", 0, 1 << 60)),)), "items in an array, expected at most"),
        (g.model((struct.pack("<Q", 1 << 60),)), "bytes of text, expected at most"),
    ],
)
def test_something_else_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(InputsError) as caught:
        check(data)
    assert reason in str(caught.value)


@given(st.integers(0, len(g.SMALL)), st.binary(max_size=40))
def test_any_bytes_give_a_reason_or_pass(at: int, data: bytes) -> None:
    changed = g.SMALL[:at] + data
    try:
        gguf.check(io.BytesIO(changed), len(changed))
    except ValueError as error:
        assert str(error)
    else:
        assert changed[:4] == gguf.MAGIC
