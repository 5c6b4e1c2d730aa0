"""Kernel modules: what was put into one is read, and any damage ends in a clean refusal or another reading."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit import module_file

from privml.base.errors import BuildError
from privml.image import kernelmodule

NAMES = st.lists(st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=30), max_size=8, unique=True)
KEYS = st.lists(st.tuples(st.text("abcdef", min_size=1, max_size=8), st.text("xyz .=", max_size=20)), max_size=6)


def ours(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(module_file.EXPORT)]


@given(KEYS, NAMES, NAMES, NAMES)
def test_a_module_is_read_as_it_was_made(
    facts: list[tuple[str, str]], needed: list[str], exports: list[str], weak: list[str]
) -> None:
    needed, weak = ours(needed), ours(weak)
    read = kernelmodule.parse(module_file.made(facts, needed, exports, weak, (".debug_info",)), "m.ko")
    assert (read.needed, read.exports) == (frozenset(needed), frozenset(exports))
    assert [(key, value) for key, values in read.facts.items() for value in values] == sorted(
        facts, key=lambda fact: [key for key, _ in facts].index(fact[0])
    )
    assert ".debug_info" in read.sections


@given(st.data())
def test_a_damaged_module_is_refused_or_read_within_its_bounds(data: st.DataObject) -> None:
    body = bytearray(module_file.made(needed=("crypto_alloc_aead", "printk"), exports=("nvidia_get",)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut])):
        try:
            kernelmodule.parse(damaged, "m.ko")
        except BuildError as error:
            assert error.message.startswith("m.ko is not a kernel module: ")


@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=[".modinfo", ".symtab", ".strtab", ".shstrtab"])
@pytest.mark.parametrize("more", [24, 1 << 40])
def test_a_section_outside_the_file_is_refused(number: int, more: int) -> None:
    body = bytearray(module_file.made(needed=("printk",)))
    (table,) = struct.unpack_from("<Q", body, 40)
    at = table + number * 64 + 24
    assert kernelmodule.parse(bytes(body), "m.ko").needed == {"printk"}
    struct.pack_into("<Q", body, at, len(body) - 8 + more)
    with pytest.raises(BuildError, match=r"^m\.ko is not a kernel module: a section is outside the file$"):
        kernelmodule.parse(bytes(body), "m.ko")


@given(st.binary(max_size=300))
def test_other_bytes_are_no_module(data: bytes) -> None:
    try:
        kernelmodule.parse(data, "m.ko")
    except BuildError as error:
        assert error.message.startswith("m.ko is not a kernel module: ")
    else:
        raise AssertionError("these bytes were read as a module")
