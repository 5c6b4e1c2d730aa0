"""What a boot accepts of the releases that a courier brings: each refusal by its name, and nothing by halves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_guest import BROKER, SIGNER, VOLUME_KEY, a_config, a_crypt, a_model
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from key_release import a_release, said

from privml.agent.volumekeys import CODES, MAX_QUOTED, VolumeKeys
from privml.agent.wire import RefusedRequest
from privml.channel import release as module
from privml.channel.kem import KEMS, X25519, usable
from privml.channel.release import Release, seal
from privml.events.configuration import Config, decode, encode
from privml.events.crypt import Broker, Crypt, check_value
from privml.evidence.sections import RELEASE_KEYS, RELEASE_USE, Key, Keys

DATA_SIGNER = Ed25519PrivateKey.from_private_bytes(b"data".ljust(32))
DATA = Broker("data", DATA_SIGNER.public_key().public_bytes_raw())
EQUAL_HALVES = b"k" * 64
WEIGHTS, CORPUS, SECOND = a_crypt(), a_crypt("corpus", "data"), a_crypt("model/second")
BAD = a_crypt("model/bad", key=EQUAL_HALVES)
BOTH, REPORT_DATA = (WEIGHTS, SECOND), b"r" * 64


def config_of(*crypts: Crypt) -> Config:
    """A configuration with these encrypted models."""
    models = tuple(dataclasses.replace(a_model(f"m{n}"), crypt=crypt) for n, crypt in enumerate(crypts))
    named = {crypt.broker for crypt in crypts}
    brokers = tuple(broker for broker in (DATA, BROKER) if broker.name in named)
    return decode(encode(a_config(models=models, brokers=brokers)))


class Booted:
    """The keys of a boot that has quoted `REPORT_DATA`."""

    def __init__(self, *crypts: Crypt) -> None:
        private = tuple(kem.generate() for kem in usable())
        offered = sorted((Key("release", key.kem.name, key.public) for key in private), key=lambda key: key.alg)
        self.section = Keys(tuple(offered))
        self.keys = VolumeKeys(config_of(*(crypts or (WEIGHTS, SECOND, CORPUS))), private)
        self.keys.quoted(REPORT_DATA)

    def release(self, *crypts: Crypt, **changes: object) -> Release:
        return a_release(crypts or BOTH, REPORT_DATA, self.section, **changes)  # type: ignore[arg-type]

    def code(self, release: Release | bytes) -> str:
        """Why the release is refused; no key is accepted."""
        before = self.keys.missing
        with pytest.raises(RefusedRequest) as caught:
            self.keys.accept(release if isinstance(release, bytes) else release.encode())
        assert self.keys.missing == before
        return caught.value.code


@pytest.mark.parametrize("kem", usable(), ids=lambda kem: kem.name)
def test_a_release_to_each_offered_key_is_accepted(kem: object) -> None:
    booted = Booted()
    released = booted.keys.accept(booted.release(kem=kem.name).encode())  # type: ignore[attr-defined]
    assert [wanted.crypt for wanted in released] == [WEIGHTS, SECOND]
    assert [booted.keys.key(crypt) for crypt in BOTH] == [VOLUME_KEY, VOLUME_KEY]
    assert [str(wanted) for wanted in booted.keys.missing] == ["data for corpus, generation 1"]
    booted.keys.accept(booted.release(CORPUS, signer=DATA_SIGNER).encode())
    assert booted.keys.missing == ()
    assert booted.keys._private == {} and booted.keys._quoted == {}
    booted.keys.drop()
    assert booted.keys._keys == {}


def _other_kem(booted: Booted) -> str:
    booted.keys._private.pop("x25519")
    return booted.code(booted.release())


def _again(booted: Booted) -> str:
    release = booted.release(WEIGHTS)
    booted.keys.accept(release.encode())
    assert booted.code(booted.release()) == "already-released"  # with another one that is wanted
    return booted.code(release)


def _in_another_order(booted: Booted) -> Release:
    public, other = booted.section.find("release", "x25519"), said((SECOND, WEIGHTS), REPORT_DATA, kem="x25519")
    assert public is not None
    sealed = seal(other, (VOLUME_KEY, VOLUME_KEY), public, SIGNER.sign)
    return dataclasses.replace(sealed, statement=said(BOTH, REPORT_DATA, kem="x25519").encode())


def _unusable(_: Booted) -> str:
    booted = Booted(BAD)
    return booted.code(booted.release(BAD, keys=(EQUAL_HALVES,)))


CASES: dict[str, Callable[[Booted], str]] = {
    "release-malformed": lambda booted: booted.code(b"{}"),
    "release-broker": lambda booted: booted.code(
        booted.release(signer=Ed25519PrivateKey.from_private_bytes(bytes(32)))
    ),
    "release-signature": lambda booted: booted.code(_in_another_order(booted)),
    "release-other-boot": lambda booted: booted.code(a_release(BOTH, b"s" * 64, booted.section)),
    "release-unknown-resource": lambda booted: booted.code(booted.release(WEIGHTS, a_crypt("model/other"))),
    "release-other-broker": lambda booted: booted.code(booted.release(WEIGHTS, CORPUS)),
    "release-generation": lambda booted: booted.code(
        booted.release(dataclasses.replace(WEIGHTS, generation=2), SECOND)
    ),
    "already-released": _again,
    "release-check": lambda booted: booted.code(
        booted.release(WEIGHTS, dataclasses.replace(SECOND, check=bytes(32)))
    ),
    "release-kem": _other_kem,
    "release-sealed": lambda booted: booted.code(a_release(BOTH, REPORT_DATA, Booted().section)),
    "release-wrong-key": lambda booted: booted.code(booted.release(keys=(VOLUME_KEY, b"x" * 64))),
    "release-unusable-key": _unusable,
}


@pytest.mark.parametrize("code", CODES)
def test_each_refusal_has_its_name_and_accepts_nothing(code: str) -> None:
    assert CASES[code](Booted()) == code


def test_the_codes_are_documented_in_the_order_of_the_checks() -> None:
    page = (Path(__file__).parents[2] / "docs/ARCHITECTURE.md").read_text()
    rows = "".join(f"| `{code}` | {why[0].lower()}{why[1:].rstrip('.')} |\n" for code, why in CODES.items())
    assert rows in page


def test_a_key_sealed_for_one_resource_does_not_open_another() -> None:
    """The check value has the name and the generation in it, so keys cannot be swapped."""
    booted = Booted()
    other = bytes(reversed(VOLUME_KEY))
    assert check_value("a", 1, other) != check_value("b", 1, other) != check_value("b", 2, other)
    assert booted.code(booted.release(WEIGHTS, keys=(other,))) == "release-wrong-key"
    assert booted.keys.accept(booted.release(WEIGHTS).encode())


def test_every_flipped_byte_of_a_release_is_refused() -> None:
    booted = Booted(WEIGHTS)
    release = booted.release(WEIGHTS)
    for name in ("statement", "sealed", "signature"):
        data = getattr(release, name)
        for at in range(0, len(data), 7):
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            found = booted.code(dataclasses.replace(release, **{name: changed}))
            assert found in ("release-malformed", "release-broker", "release-signature")
    booted.keys.accept(release.encode())


def test_what_is_sealed_is_the_list_of_the_statement() -> None:
    """A broker that seals other keys than it says is refused, and its words are not repeated."""
    booted = Booted(WEIGHTS)
    public = booted.section.find("release", "x25519")
    assert public is not None
    statement = said((WEIGHTS,), REPORT_DATA, kem="x25519")
    for plain in (b'{"keys":[]}', b'{"keys":[{"generation":2,"key":"c2VjcmV0","resource":"model/tiny"}]}', b"secret"):
        sender = module.Sender(X25519, module._AEAD, public, module._info(statement.encode()))
        sealed = sender.encapsulated + sender.seal(plain)
        signature = SIGNER.sign(module._signed(statement.encode(), sealed))
        with pytest.raises(RefusedRequest) as caught:
            booted.keys.accept(Release(statement.encode(), sealed, signature).encode())
        assert caught.value.code == "release-sealed"
        assert "secret" not in caught.value.message and "c2Vj" not in caught.value.message


def test_the_oldest_quotes_are_forgotten() -> None:
    booted = Booted(WEIGHTS)
    for number in range(MAX_QUOTED - 1):
        booted.keys.quoted(number.to_bytes(64, "big"))
    booted.keys.quoted(bytes(64))  # repeated: nothing is forgotten
    assert booted.code(booted.release(WEIGHTS, keys=(b"x" * 64,))) == "release-wrong-key"
    booted.keys.quoted(b"n" * 64)
    assert booted.code(booted.release(WEIGHTS)) == "release-other-boot"


def test_every_kem_has_a_release_key() -> None:
    assert {(RELEASE_USE, kem.name) for kem in KEMS.values()} == set(RELEASE_KEYS)
