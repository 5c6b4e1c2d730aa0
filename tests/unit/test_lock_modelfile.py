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


def numbers(no: int, count: int, of_all: int = 0) -> tuple[bytes, ...]:
    values = ((b"split.no", no), (b"split.count", count), (b"split.tensors.count", of_all))
    return tuple(g.entry(key, 2, struct.pack("<H", value)) for key, value in values)


def headers(*files: tuple[str, bytes]) -> list[tuple[str, gguf.Header]]:
    return [(name, gguf.check(io.BytesIO(data), len(data))) for name, data in files]


def test_a_header_says_what_a_lock_needs() -> None:
    licence = g.entry(b"general.license", 8, g.text(b"mit"))
    data = g.model((licence, *numbers(1, 2, 4)))
    assert headers(("a", data)) == [("a", gguf.Header(1, part=1, parts=2, tensors_of_all=4, licence="mit"))]
    for odd in (b"", b"a\nb", b"\xff", b"x" * 201):
        assert headers(("a", g.model((g.entry(b"general.license", 8, g.text(odd)),))))[0][1].licence is None


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("m.gguf", 1, "m.gguf"),
        ("m-00002-of-00003.gguf", 3, "m-00003-of-00003.gguf"),
        ("m-00001-of-00001.gguf", 1, "m-00001-of-00001.gguf"),
        ("m-00004-of-00003.gguf", 1, "m-00004-of-00003.gguf"),
        ("m-00001-of-99999.gguf", 1, "m-00001-of-99999.gguf"),
    ],
)
def test_the_names_of_a_split_model_s_files(name: str, count: int, last: str) -> None:
    names = gguf.part_names(name)
    assert (len(names), names[-1]) == (count, last)


ONE, TWO = ((f"m-0000{n}-of-00002.gguf", g.model(numbers(n - 1, 2, 2))) for n in (1, 2))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([ONE], "it is part 1 of 2, and 1 of the files are given"),
        ([TWO, ONE], "its parts are m-00002-of-00002.gguf, m-00001-of-00002.gguf, expected NAME-00001-of-00002.gguf"),
        ([ONE, (TWO[0], ONE[1])], "m-00002-of-00002.gguf is part 1 of 2, expected part 2 of 2"),
        ([ONE, (TWO[0], g.model(numbers(1, 2), data=bytes(99)))], None),
        ([(ONE[0], g.model(numbers(0, 2, 3))), TWO], "its parts have 2 tensors, expected 3"),
        ([(name, g.model(numbers(n, 2), tensors=())) for n, name in enumerate((ONE[0], TWO[0]))], "has no tensors"),
        ([ONE, TWO], None),
        ([("any.gguf", g.SMALL)], None),
    ],
)
def test_the_files_of_a_model_are_whole_together(files: list[tuple[str, bytes]], reason: str | None) -> None:
    found = headers(*files)
    if reason is None:
        modelfile.check_whole(found, kind="gguf", name="m")
        return
    with pytest.raises(InputsError, match=reason):
        modelfile.check_whole(found, kind="gguf", name="m")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (numbers(2, 2), "split.no is 2, expected 0 to 1"),
        (numbers(0, 2000), "split.count is 2000, expected 0 to 1000"),
        ((g.entry(b"split.count", 8, g.text(b"2")),), "split.count is text, expected"),
        ((g.entry(b"general.alignment", 2, b"\x20\0"),), "general.alignment is a value of type 2, expected 4"),
    ],
)
def test_a_header_with_odd_numbers_is_refused(entries: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(InputsError, match=reason):
        check(g.model(entries))


@given(st.integers(0, len(g.SMALL)), st.binary(max_size=40))
def test_any_bytes_give_a_reason_or_pass(at: int, data: bytes) -> None:
    changed = g.SMALL[:at] + data
    try:
        gguf.check(io.BytesIO(changed), len(changed))
    except ValueError as error:
        assert str(error)
    else:
        assert changed[:4] == gguf.MAGIC
