"""Keys in a token, with Debian's SoftHSM; without it, the addresses alone are tested."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from published_fake import IMAGES, NAME, Fake, build
from published_fake import signer as fake_signer
from softhsm import LIBRARY, PIN, installed
from softhsm import token as new_token

from privml.base.dsse import decode
from privml.base.errors import HostError, UsageError
from privml.publish import signer, token
from privml.publish.signing import Signing
from privml.publish.version import files_of, release_of
from privml.statement.keys import Role
from privml.statement.signed import verify

CURVES = {"ecdsa-p256": "secp256r1", "ecdsa-p384": "secp384r1", "ed25519": "1.3.101.112"}


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A token `privml` with one key of each kind, labelled by it; the folder has the file `pin`."""
    folder = tmp_path_factory.mktemp("softhsm")
    pkcs11 = pytest.importorskip("pkcs11")
    from pkcs11.util.ec import encode_named_curve_parameters

    with new_token(folder, "privml") as opened:
        with opened as session:
            for label, curve in CURVES.items():
                kind = pkcs11.KeyType.EC_EDWARDS if label == "ed25519" else pkcs11.KeyType.EC
                how = pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN if label == "ed25519" else None
                values = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
                parameters = session.create_domain_parameters(kind, values, local=True)
                parameters.generate_keypair(mechanism=how, store=True, label=label)
        yield folder


def uri(folder: Path, key: str, **more: str) -> str:
    values = {
        "token": "privml",
        "object": key,
        "module-path": str(LIBRARY),
        "pin-source": f"file:{folder}/pin",
        **more,
    }
    path = ";".join(f"{name}={values[name]}" for name in ("token", "object"))
    return f"pkcs11:{path}?module-path={values['module-path']}&pin-source={values['pin-source']}"


@installed
@pytest.mark.parametrize("kind", CURVES)
def test_a_key_in_a_token_signs(kind: str, softhsm: Path) -> None:
    found = signer.load(uri(softhsm, kind))
    assert found.public.algorithm == kind
    assert found.public.verifies(found.sign(b"x"), b"x")
    assert signer.load(uri(softhsm, kind)).public == found.public


@installed
def test_publishers_with_tokens_publish_what_a_caller_accepts(softhsm: Path) -> None:
    keys = [signer.load(uri(softhsm, kind)) for kind in CURVES]
    role = Role(tuple(key.public for key in keys), 3)
    fake = Fake(images={**IMAGES, NAME: role})
    signing = Signing(keys)
    fake.files |= files_of(build(), release_of(build(), "1.0", 1), role, signing)
    for name in ("statement", "provenance"):
        envelope = decode(fake.files[f"{NAME}/1.0/{name}.dsse.json"])
        assert len(verify(envelope, role, what=name).signers) == 3


@installed
def test_the_pin_is_asked_for(softhsm: Path) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return PIN

    address = uri(softhsm, "ed25519").partition("&")[0]
    assert signer.load(address, ask).public.algorithm == "ed25519"
    assert asked == ["PIN of token privml"]
    with pytest.raises(HostError, match="there is nobody to ask"):
        signer.load(address)
    with pytest.raises(HostError, match="cannot be used"):
        signer.load(address, lambda _: "wrong")


@installed
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": "other"}, "token `other`, key `ed25519` cannot be used"),
        ({"object": "other"}, "key `other` cannot be used"),
        ({"pin-source": "file:/nowhere"}, "/nowhere cannot be read"),
        ({"module-path": "/nowhere.so"}, "/nowhere.so cannot be loaded|cannot be used"),
    ],
)
def test_a_token_that_cannot_be_reached_is_exit_5(change: dict[str, str], message: str, softhsm: Path) -> None:
    with pytest.raises(HostError, match=message) as caught:
        signer.load(uri(softhsm, "ed25519", **change))
    assert PIN not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("pkcs11:token=a;object=b", "`module-path` is missing"),
        ("pkcs11:token=a?module-path=/x", "`object` is missing"),
        ("pkcs11:object=b?module-path=/x", "`token` is missing"),
        ("pkcs11:token=a;object=b;type=private?module-path=/x", "`type` is not expected there"),
        ("pkcs11:token=a;token=b;object=b?module-path=/x", "`token` is not expected there once"),
        ("pkcs11:token=a;object=b?module-path=/x&pin-value=1234", "can be read by every user"),
        ("pkcs11:token=a;object=b;pin-value=1234?module-path=/x", "can be read by every user"),
        ("pkcs11:token=a;object=b?module-path=/x&pin-source=|prog", "expected file:/PATH"),
    ],
)
def test_an_address_that_names_no_key(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        signer.load(address)
    assert "1234" not in str(caught.value)


def test_labels_may_have_any_character() -> None:
    found = token.TokenUri.parse("pkcs11:token=my%20token;object=a%3Bb?module-path=/lib/x.so")
    assert (found.token, found.key, found.module, found.pin_source) == ("my token", "a;b", "/lib/x.so", None)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(HostError) as caught:
        signer.load("pkcs11:token=a;object=b?module-path=/x")
    assert "privml-build[hsm]" in caught.value.message


def test_a_token_that_signs_with_another_key_is_found() -> None:
    other, good = fake_signer("alice"), fake_signer("bob")
    with pytest.raises(HostError, match="is not that of its public key"):
        token.TokenSigner(good.public, other.sign).sign(b"x")
