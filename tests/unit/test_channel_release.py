"""Releases: one encoding, sealed to one boot, and nothing in them that can be changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import canonical, loads
from privml.channel.kem import X25519, X_WING, usable
from privml.channel.release import LogHead, Release, Released, Request, Statement, kem_named, seal
from privml.channel.suites import CannotOpen

BROKER = Ed25519PrivateKey.from_private_bytes(b"b" * 32)
PUBLIC = BROKER.public_key().public_bytes_raw()
GUEST = X25519.private(b"g" * 32)
KEYS = (b"k" * 32 + b"l" * 32, b"m" * 32 + b"n" * 32)
SAID = Statement(
    broker=PUBLIC,
    kem="x25519",
    report_data=bytes(range(64)),
    resources=(Released("model/a", 1, b"c" * 32, b"p" * 32), Released("data/b", 7, b"d" * 32, b"q" * 32)),
    log=LogHead(3, b"r" * 32),
)
RELEASE = seal(SAID, KEYS, GUEST.public, BROKER.sign)
REQUEST = Request(b"n" * 32, b"a document", (("model/a", 1), ("data/b", 7)))


def mine(key: bytes) -> bool:
    return key == PUBLIC


def test_the_statement_is_the_documented_json() -> None:
    assert json.loads(SAID.encode()) == {
        "format": "privml-key-release/v1",
        "broker": PUBLIC.hex(),
        "kem": "x25519",
        "report_data": bytes(range(64)).hex(),
        "resources": [
            {"resource": "model/a", "generation": 1, "check": "63" * 32, "policy_sha256": "70" * 32},
            {"resource": "data/b", "generation": 7, "check": "64" * 32, "policy_sha256": "71" * 32},
        ],
        "log": {"size": 3, "root": "72" * 32},
    }


@pytest.mark.parametrize("kem", usable(), ids=lambda kem: kem.name)
def test_a_release_is_opened_by_its_guest_alone(kem: Any) -> None:
    key, said = kem.generate(), replace(SAID, kem=kem.name)
    made = Release.decode(seal(said, KEYS, key.public, BROKER.sign).encode())
    assert made.statement_by(mine) == said
    assert made.open(said, key) == KEYS
    with pytest.raises(CannotOpen):
        made.open(said, kem.generate())
    assert kem_named(kem.name) is kem


def test_a_release_is_signed_by_a_broker_that_is_known() -> None:
    with pytest.raises(Refused, match="which the measured configuration does not name"):
        RELEASE.statement_by(lambda _: False)
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(Refused, match="signature is wrong"):
        seal(SAID, KEYS, GUEST.public, stranger.sign).statement_by(mine)


@pytest.mark.parametrize("part", ["statement", "sealed", "signature"])
def test_no_part_can_be_changed_or_taken_from_another_release(part: str) -> None:
    other = seal(replace(SAID, report_data=bytes(64)), KEYS, GUEST.public, BROKER.sign)
    with pytest.raises(Refused):
        replace(RELEASE, **{part: getattr(other, part)}).statement_by(mine)
    data = getattr(RELEASE, part)
    for at in (0, len(data) // 2, len(data) - 1):
        bent = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((Refused, EvidenceError)):
            replace(RELEASE, **{part: bent}).statement_by(mine)


def test_what_is_sealed_belongs_to_its_statement() -> None:
    """Signed or not: the statement is in the key schedule."""
    other = replace(SAID, report_data=bytes(64))
    with pytest.raises(CannotOpen):
        replace(RELEASE, statement=other.encode()).open(other, GUEST)
    for sealed in (b"", RELEASE.sealed[:32], RELEASE.sealed[:-1], RELEASE.sealed + b"x"):
        with pytest.raises(CannotOpen):
            replace(RELEASE, sealed=sealed).open(SAID, GUEST)
    with pytest.raises(EvidenceError, match="sealed by x-wing, expected x25519"):
        RELEASE.open(replace(SAID, kem="x-wing"), GUEST)


def test_keys_are_those_of_the_statement_in_its_order() -> None:
    first, second = SAID.resources
    for listed in ((second, first), (first,), (replace(first, generation=2), second)):
        with pytest.raises(EvidenceError, match="released keys"):
            RELEASE.open(replace(SAID, resources=listed), GUEST)
    with pytest.raises(ValueError, match="zip"):
        seal(SAID, KEYS[:1], GUEST.public, BROKER.sign)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "privml-release/v2"),
        ("broker", "11" * 31),
        ("kem", "p-256"),
        ("report_data", "11" * 32),
        ("resources", []),
        ("resources", [json.loads(SAID.encode())["resources"][0]] * 2),
        ("resources", [{"resource": "a", "generation": 0, "check": "11" * 32, "policy_sha256": "11" * 32}]),
        ("resources", [{"resource": "a", "generation": 1, "check": "11", "policy_sha256": "11" * 32}]),
        ("resources", [{"resource": "a", "generation": 1, "check": "11" * 32}]),
        ("log", {"size": 0, "root": "11" * 32}),
        ("log", {"size": 1, "root": "11" * 32, "more": 1}),
        ("time", 1),
    ],
)
def test_another_value_of_a_field_is_refused(name: str, value: Any) -> None:
    fields = loads(SAID.encode())
    fields[name] = value
    with pytest.raises(EvidenceError):
        Statement.decode(canonical(fields))


def test_only_the_canonical_encoding_is_read() -> None:
    assert Statement.decode(SAID.encode()) == SAID
    with pytest.raises(EvidenceError, match="not canonical"):
        Statement.decode(SAID.encode() + b" ")
    assert Release.decode(RELEASE.encode()) == RELEASE
    with pytest.raises(EvidenceError, match="expected at most 65536"):
        Release.decode(RELEASE.encode() + b" " * 65536)
    with pytest.raises(EvidenceError, match="unknown field"):
        Release.decode(RELEASE.encode()[:-1] + b',"x":1}')


BENT: dict[str, Callable[[dict[str, Any]], object]] = {
    "format": lambda found: found.update(format="x"),
    "a short nonce": lambda found: found.update(nonce="11"),
    "no document": lambda found: found.pop("document"),
    "no resources": lambda found: found.update(resources=[]),
    "one twice": lambda found: found.update(resources=found["resources"][:1] * 2),
    "too many": lambda found: found.update(resources=[{"resource": f"m{n}", "generation": 1} for n in range(33)]),
    "a name with a line break": lambda found: found.update(resources=[{"resource": "a\nb", "generation": 1}]),
    "generation 0": lambda found: found.update(resources=[{"resource": "a", "generation": 0}]),
    "another field": lambda found: found.update(x=1),
}


@pytest.mark.parametrize("name", BENT)
def test_a_malformed_request_is_refused(name: str) -> None:
    found = loads(REQUEST.encode())
    assert Request.decode(canonical(found), limit=4096) == REQUEST
    BENT[name](found)
    with pytest.raises(EvidenceError):
        Request.decode(canonical(found), limit=4096)


def test_sizes_of_both_kems_are_within_a_release() -> None:
    assert len(RELEASE.encode()) + X_WING.encapsulated_size * 2 < 64 * 1024
