"""Keys for signing: files in PEM and OpenSSH's format, their passphrases, and what is no key."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from published_fake import signer

from privml.base.errors import HostError, PrivmlError, UsageError
from privml.publish.signer import load, load_public

KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ecdsa-p256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-p384": ec.generate_private_key(ec.SECP384R1()),
}


def written(
    path: Path, key: object, form: PrivateFormat = PrivateFormat.PKCS8, passphrase: bytes | None = None
) -> str:
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    path.write_bytes(key.private_bytes(Encoding.PEM, form, encryption))  # type: ignore[attr-defined]
    return str(path)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.OpenSSH])
@pytest.mark.parametrize("prefix", ["", "file:"])
def test_a_key_file_signs_what_its_public_part_verifies(
    kind: str, form: PrivateFormat, prefix: str, tmp_path: Path
) -> None:
    key = KEYS[kind]
    found = load(prefix + written(tmp_path / "key", key, form))
    assert found.public.algorithm == kind
    assert found.public.verifies(found.sign(b"x"), b"x")
    assert not found.public.verifies(found.sign(b"x"), b"y")
    for encoding, public in (
        (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        (Encoding.OpenSSH, PublicFormat.OpenSSH),
    ):
        (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(encoding, public))
        assert load_public(tmp_path / "key.pub") == found.public


def test_keys_of_ssh_keygen_and_openssl_are_read(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "ssh"], check=True)
    assert load(str(tmp_path / "ssh")).public == load_public(tmp_path / "ssh.pub")
    private, public = tmp_path / "k.pem", tmp_path / "p.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    assert load(str(private)).public == load_public(public)


def test_a_passphrase_is_asked_for_and_never_taken_from_elsewhere(tmp_path: Path) -> None:
    path = written(tmp_path / "key", KEYS["ed25519"], passphrase=b"secret")
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "secret"

    assert load(path, ask).public == load(written(tmp_path / "plain", KEYS["ed25519"])).public
    assert asked == [f"Passphrase of {path}"]
    with pytest.raises(HostError, match="the passphrase does not open it"):
        load(path, lambda _: "wrong")
    with pytest.raises(HostError, match="there is nobody to ask"):
        load(path)


def test_a_passphrase_of_opensshs_format_that_needs_another_package_is_said(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", tmp_path / "ssh"], check=True)
    with pytest.raises(HostError, match="bcrypt") as caught:
        load(str(tmp_path / "ssh"), lambda _: "secret")
    assert "PEM keys with a passphrase do not" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, HostError, "cannot be read"),
        (b"", UsageError, "not a private key"),
        (b"x" * 70_000, UsageError, "larger than"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", UsageError, "not a private key"),
    ],
)
def test_what_is_no_key_is_said(data: bytes | None, error: type[PrivmlError], message: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(error, match=message):
        load(str(path))


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP521R1())):
        with pytest.raises(UsageError, match=r"another kind|its kind is not one of"):
            load(written(tmp_path / "key", key))
        data = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "pub").write_bytes(data)
        with pytest.raises(UsageError, match=r"another kind|its kind is not one of"):
            load_public(tmp_path / "pub")


@pytest.mark.parametrize("uri", ["gnupg:me", "awskms:x", "hsm:2?label=x"])
def test_a_kind_of_key_that_does_not_exist_is_said(uri: str) -> None:
    with pytest.raises(UsageError, match="there is no kind of key"):
        load(uri)


def test_a_private_key_is_no_public_one(tmp_path: Path) -> None:
    path = written(tmp_path / "key", KEYS["ed25519"])
    with pytest.raises(UsageError, match="not a public key"):
        load_public(Path(path))
    assert signer("alice").public == signer("alice").public
