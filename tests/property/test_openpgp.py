"""The reader of OpenPGP keyrings: it names the keys that were written, and takes no other bytes for keys."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.signing import Key, armoured, packet

from privml.recipe import openpgp
from privml.recipe.openpgp import KeyringError

KEYS = [Key(f"key {number}") for number in range(4)]
WITH_SUBKEYS = [Key("a", subkeys=[KEYS[0]]), Key("b", subkeys=KEYS[1:])]
PUBLIC = {each.fingerprint: each.public for each in (*KEYS, *WITH_SUBKEYS)}


@given(st.lists(st.sampled_from(sorted(PUBLIC)), min_size=1, max_size=8))
def test_the_keys_of_a_keyring_are_named_in_order(names: list[str]) -> None:
    data = b"".join(PUBLIC[name] for name in names)
    assert [key.fingerprint for key in openpgp.keys(data)] == names
    assert openpgp.unarmoured(armoured(data)) == data


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    for read in (openpgp.keys, openpgp.unarmoured):
        with pytest.raises(KeyringError):
            read(data)


WHOLE = WITH_SUBKEYS[1].public


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_changed_byte_never_gives_another_set_of_keys_the_same_names(at: int, mask: int) -> None:
    changed = bytearray(WHOLE)
    changed[at] ^= mask
    (before,) = openpgp.keys(WHOLE)
    try:
        found = openpgp.keys(bytes(changed))
    except KeyringError:
        return
    bodies = [packet(6, WITH_SUBKEYS[1].body)[6:], *(each.body for each in KEYS[1:])]
    same = all(body in bytes(changed) for body in bodies)
    assert same == ([key.fingerprint for key in found] == [before.fingerprint] and found[0].subkeys == before.subkeys)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_keyring_has_at_most_fewer_subkeys(length: int) -> None:
    try:
        (found,) = openpgp.keys(WHOLE[:length])
    except KeyringError:
        return
    (whole,) = openpgp.keys(WHOLE)
    assert found.fingerprint == whole.fingerprint
    assert found.subkeys == whole.subkeys[: len(found.subkeys)]
    assert length > len(packet(6, WITH_SUBKEYS[1].body)) - 1


@given(st.permutations(range(3)))
def test_parts_in_another_order_are_refused_or_name_no_other_primary_key(order: list[int]) -> None:
    key = WITH_SUBKEYS[0]
    parts = [packet(6, key.body), packet(13, b"user"), packet(14, KEYS[0].body) + key.binding(KEYS[0])]
    data = b"".join(parts[each] for each in order)
    if order == [0, 1, 2]:
        assert openpgp.keys(data)[0].subkeys == [KEYS[0].fingerprint]
        return
    with pytest.raises(KeyringError):
        openpgp.keys(data)
