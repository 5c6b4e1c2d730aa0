"""The encryption of a volume and its broker, as the measured configuration has them."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from privml.base.errors import EvidenceError
from privml.base.resource import MAX_GENERATION, is_resource
from privml.base.strictjson import Fields
from privml.events.crypt import (
    KEY_SIZE,
    Broker,
    Crypt,
    check_key,
    check_value,
    is_broker,
)

KEY = bytes(range(KEY_SIZE))
CRYPT = Crypt("owner", "model/qwen2.5", 3, check_value("model/qwen2.5", 3, KEY))


def read(value: object) -> Crypt:
    return Crypt.from_fields(Fields(value, "crypt"))


def test_a_check_value_is_the_documented_digest() -> None:
    listed = b'["model/qwen2.5",3]'
    assert CRYPT.check == hashlib.sha256(b"privml-key-check/v1\0" + listed + KEY).digest()
    assert CRYPT.is_key(KEY)


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_another_key_resource_or_generation_has_another_check_value(at: int) -> None:
    other = KEY[:at] + bytes([KEY[at] ^ 1]) + KEY[at + 1 :]
    assert not CRYPT.is_key(other)
    assert check_value("model/qwen2.6", 3, KEY) != CRYPT.check != check_value("model/qwen2.5", 4, KEY)


def test_an_encryption_and_a_broker_are_read_as_they_were_written() -> None:
    assert read(CRYPT.to_dict()) == CRYPT
    broker = Broker("owner-2", bytes(range(32)))
    assert Broker.from_fields(Fields(broker.to_dict(), "broker")) == broker


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cipher", "aes-xts-plain"),
        ("cipher", "aes-cbc-essiv:sha256"),
        ("sector_size", 512),
        ("sector_size", "4096"),
        ("broker", ""),
        ("broker", "Owner"),
        ("broker", "a--b"),
        ("resource", "/model"),
        ("resource", "model/"),
        ("resource", "a" * 129),
        ("generation", 0),
        ("generation", MAX_GENERATION + 1),
        ("generation", True),
        ("check", "11" * 31),
        ("check", None),
        ("key", "11"),
    ],
)
def test_another_value_of_a_field_is_refused(name: str, value: Any) -> None:
    with pytest.raises(EvidenceError):
        read({**CRYPT.to_dict(), name: value})


def test_a_field_that_is_missing_is_refused() -> None:
    for name in CRYPT.to_dict():
        with pytest.raises(EvidenceError, match="missing"):
            read({each: value for each, value in CRYPT.to_dict().items() if each != name})
    for bad in ({"name": "a"}, {"name": "A", "ed25519": "11" * 32}, {"name": "a", "ed25519": "11" * 33}):
        with pytest.raises(EvidenceError):
            Broker.from_fields(Fields(bad, "broker"))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("model/qwen2.5", True),
        ("a", True),
        ("data/claims-2026/v1.0", True),
        ("", False),
        ("a//b", False),
        ("a/../b", False),
        ("a b", False),
        ("a\n", False),
        ("ä", False),
        ("a." + "b" * 127, False),
    ],
)
def test_names_of_resources(text: str, good: bool) -> None:
    assert is_resource(text) is good
    assert is_broker(text) is (good and text == "a")


def test_a_usable_key_has_64_bytes_and_two_halves() -> None:
    check_key(os.urandom(KEY_SIZE))
    for bad, said in ((KEY[:-1], "63 bytes"), (KEY + b"x", "65 bytes"), (b"h" * KEY_SIZE, "both halves are equal")):
        with pytest.raises(ValueError, match=said):
            check_key(bad)
