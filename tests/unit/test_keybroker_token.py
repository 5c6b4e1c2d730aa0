"""A store whose root a hardware token wraps, with Debian's SoftHSM; without it, the addresses alone are tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import broker_samples as samples
import pytest
from broker_samples import desk
from softhsm import LIBRARY, installed, token

from privml.base.errors import HostError, Refused, UsageError
from privml.keybroker import kek, store


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A token `broker` with two AES-256 keys and one of 128 bits; the folder has the file `pin`."""
    folder = tmp_path_factory.mktemp("softhsm")
    pkcs11 = pytest.importorskip("pkcs11")
    with token(folder, "broker") as opened:
        with opened as session:
            for label, bits in (("kek", 256), ("other", 256), ("short", 128)):
                session.generate_key(pkcs11.KeyType.AES, bits, store=True, label=label)
        yield folder


def uri(folder: Path, key: str) -> str:
    return f"pkcs11:token=broker;object={key}?module-path={LIBRARY}&pin-source=file:{folder}/pin"


@installed
def test_a_token_wraps_the_root_of_a_store(softhsm: Path, tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        made.store.rotate(kek.make(uri(softhsm, "kek")))
        assert made.ask(samples.guest(samples.X25519))[0] == 200
    with store.opened(made.path, uri(softhsm, "kek")) as again:
        assert again.secret(store.VOLUME, samples.RESOURCE, 1) == made.key.key
        assert dict(again.kek.parameters) == {"kind": "pkcs11", "object": "kek"}
    with pytest.raises(Refused, match="kek-kind"), store.opened(made.path, made.kek):
        pass
    with pytest.raises(Refused, match="kek-wrong"), store.opened(made.path, uri(softhsm, "other")):
        pass


@installed
def test_what_a_token_wrapped_opens_only_unchanged_and_for_its_use(softhsm: Path) -> None:
    found = kek.make(uri(softhsm, "kek"))
    wrapped = found.wrap(b"s" * 32, b"use")
    assert found.unwrap(wrapped, b"use") == b"s" * 32
    for bent, use in ((wrapped, b"another"), (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b"use"), (b"", b"use")):
        with pytest.raises(Refused, match="kek-wrong"):
            found.unwrap(bent, use)
    with pytest.raises(Refused, match="kek-wrong"):
        kek.make(uri(softhsm, "other")).unwrap(wrapped, b"use")


@installed
@pytest.mark.parametrize(("key", "said"), [("short", "has 128 bits, expected 256"), ("none", "cannot be used")])
def test_a_token_without_such_a_key_is_named(key: str, said: str, softhsm: Path) -> None:
    with pytest.raises(HostError, match=said):
        kek.make(uri(softhsm, key))


def test_a_pin_in_the_address_is_refused() -> None:
    with pytest.raises(UsageError, match="--kek: a PIN in the address can be read"):
        kek.make("pkcs11:token=broker;object=kek?module-path=/x.so&pin-value=123456")
