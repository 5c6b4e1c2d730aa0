"""HPKE and ML-KEM: public vectors, the other implementation, and what is refused."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric import mlkem as library_mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from tests.channel_vectors import FILES, FOLDER, changes, check_hpke, hpke_vectors

from privml.channel import kem as kems
from privml.channel import mlkem
from privml.channel.hpke import Recipient, Sender, schedule
from privml.channel.kem import KEMS, X25519, X_WING, XWingKey
from privml.channel.suites import AEADS, MAX_MESSAGES, TAG_SIZE, CannotOpen, Sequence, expand, extract

NAMES = [f"{KEMS[one['kem_id']].name}-{AEADS[one['aead_id']].name}" for one in hpke_vectors()]
INFO = b"info"


@pytest.mark.parametrize("vector", hpke_vectors(), ids=NAMES)
def test_the_public_vectors_pass(vector: dict[str, Any]) -> None:
    check_hpke(vector)


def test_an_encapsulation_with_the_vectors_ephemeral_key_is_the_vectors() -> None:
    for vector in hpke_vectors():
        if "skEm" in vector:
            ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["skEm"]))
            shared, encapsulated = kems.encapsulate_x25519_with(ephemeral, bytes.fromhex(vector["pkRm"]))
            assert (shared.hex(), encapsulated.hex()) == (vector["shared_secret"], vector["enc"])


def test_the_vectors_are_the_files_that_their_origin_names() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)\.json` \|.*\| ([0-9a-f]{64}) \|$", (FOLDER / "ORIGIN.md").read_text(), re.M)
    files = {path.stem: path for path in FOLDER.glob("*.json")}
    assert dict(rows) == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert {path.name for path in FOLDER.iterdir()} == {"ORIGIN.md", *(f"{name}.json" for name in files)}
    assert files.keys() >= set(FILES)


LIBRARY_AEADS = {
    0x0001: library.AEAD.AES_128_GCM,
    0x0002: library.AEAD.AES_256_GCM,
    0x0003: library.AEAD.CHACHA20_POLY1305,
}


@pytest.mark.parametrize("aead", AEADS.values(), ids=lambda one: one.name)
def test_single_messages_interoperate_with_the_hpke_of_cryptography(aead: Any) -> None:
    suites = {
        one.id: library.Suite(library_kem, library.KDF.HKDF_SHA256, LIBRARY_AEADS[aead.id])
        for one, library_kem in ((X25519, library.KEM.X25519), (X_WING, library.KEM.MLKEM768_X25519))
    }
    theirs = X25519PrivateKey.generate()
    sealed = suites[X25519.id].encrypt(b"to us", theirs.public_key(), INFO)
    ours = X25519.private(theirs.private_bytes_raw())
    size = X25519.encapsulated_size
    assert Recipient(ours, aead, sealed[:size], INFO).open(sealed[size:]) == b"to us"
    sender = Sender(X25519, aead, theirs.public_key().public_bytes_raw(), INFO)
    assert suites[X25519.id].decrypt(sender.encapsulated + sender.seal(b"to them"), theirs, INFO) == b"to them"

    seed = bytes(range(32))
    expanded = hashlib.shake_256(seed).digest(96)
    first = library_mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    hybrid = library.MLKEM768X25519PrivateKey(first, X25519PrivateKey.from_private_bytes(expanded[64:]))
    key = XWingKey(seed)
    sender = Sender(X_WING, aead, key.public, INFO)
    assert suites[X_WING.id].decrypt(sender.encapsulated + sender.seal(b"to them"), hybrid, INFO) == b"to them"
    public = library.MLKEM768X25519PublicKey(
        first.public_key(), X25519PublicKey.from_public_bytes(key.public[mlkem.PUBLIC_SIZE :])
    )
    sealed = suites[X_WING.id].encrypt(b"to us", public, INFO)
    assert Recipient(key, aead, sealed[: X_WING.encapsulated_size], INFO).open(sealed[X_WING.encapsulated_size :])


@pytest.mark.parametrize("kem", KEMS.values(), ids=lambda one: one.name)
def test_every_change_of_what_was_sealed_is_refused(kem: Any) -> None:
    key, aead = kem.generate(), AEADS[0x0002]
    sender = Sender(kem, aead, key.public, INFO)
    sealed = sender.seal(b"prompt", b"aad")
    size = kem.encapsulated_size
    message = sender.encapsulated + sealed
    assert Recipient(key, aead, sender.encapsulated, INFO).open(sealed, b"aad") == b"prompt"
    tried = 0
    for changed in changes(message):
        with pytest.raises(CannotOpen, match=r"^sealed message: could not be opened$"):
            Recipient(key, aead, changed[:size], INFO).open(changed[size:], b"aad")
        tried += 1
    assert tried > 6 * size
    for info, associated in ((b"other", b"aad"), (INFO, b""), (INFO, b"aae")):
        with pytest.raises(CannotOpen):
            Recipient(key, aead, sender.encapsulated, info).open(sealed, associated)
    for size in (0, 1, kem.encapsulated_size - 1, kem.encapsulated_size + 1):
        with pytest.raises(CannotOpen):
            Recipient(key, aead, bytes(size), INFO)


def test_points_of_small_order_are_refused_on_both_sides() -> None:
    zero, one = bytes(32), b"\x01" + bytes(31)
    for point in (zero, one):
        with pytest.raises(CannotOpen):
            X25519.generate().decapsulate(point)
        with pytest.raises(ValueError, match=r"shared key"):
            X25519.encapsulate(point)
        wing = X_WING.generate()
        with pytest.raises(CannotOpen):
            wing.decapsulate(X_WING.encapsulate(wing.public)[1][: mlkem.CIPHERTEXT_SIZE] + point)
        with pytest.raises(ValueError, match=r"shared key"):
            X_WING.encapsulate(wing.public[: mlkem.PUBLIC_SIZE] + point)


def test_a_public_key_of_another_size_is_refused() -> None:
    for kem in KEMS.values():
        for size in (0, kem.public_size - 1, kem.public_size + 1):
            with pytest.raises(ValueError, match=rf"{kem.name}: {size} bytes of public key, expected"):
                Sender(kem, AEADS[1], bytes(size), INFO)
    with pytest.raises(ValueError, match=r"0 bytes of seed, expected 32"):
        XWingKey(b"")


def test_messages_open_in_their_order_only_and_none_after_a_failure() -> None:
    key, aead = X25519.generate(), AEADS[0x0003]
    sender = Sender(X25519, aead, key.public, INFO)
    first, second, third = (sender.seal(text) for text in (b"1", b"2", b"3"))
    context = Recipient(key, aead, sender.encapsulated, INFO)
    assert context.open(first) == b"1"
    with pytest.raises(CannotOpen):
        context.open(second + b"x")
    for sealed in (third, second):
        with pytest.raises(CannotOpen):
            context.open(sealed)


def test_a_key_stops_at_its_last_message() -> None:
    aead = AEADS[0x0001]
    sequence = Sequence(aead, bytes(16), bytes(12))
    sequence._count = MAX_MESSAGES - 1
    sealed = sequence.seal(b"last")
    with pytest.raises(ValueError, match=r"4294967296 messages"):
        sequence.seal(b"more")
    opening = Sequence(aead, bytes(16), bytes(12))
    opening._count = MAX_MESSAGES - 1
    assert opening.open(sealed) == b"last"
    with pytest.raises(CannotOpen):
        opening.open(sealed)


def test_hkdf_and_sequence_refuse_wrong_sizes() -> None:
    key = extract(b"", b"material")
    assert len(expand(key, b"", 255 * 32)) == 255 * 32
    for size in (-1, 255 * 32 + 1):
        with pytest.raises(ValueError, match=r"expected 0 to 8160"):
            expand(key, b"", size)
    with pytest.raises(ValueError, match=r"AES-128-GCM: key 32 bytes"):
        Sequence(AEADS[1], bytes(32), bytes(12))
    with pytest.raises(ValueError, match=r"info: 65536 bytes"):
        schedule(X25519, AEADS[1], bytes(32), bytes(65536))
    assert len(Sequence(AEADS[1], bytes(16), bytes(12)).seal(b"")) == TAG_SIZE


# --- ML-KEM by the system's libcrypto -------------------------------------------------------------------------------


def libcrypto() -> mlkem.Libcrypto:
    """A libcrypto with ML-KEM: the system's, or the one that a test dependency brings along."""
    paths = [mlkem.SYSTEM_LIBRARY]
    found = importlib.util.find_spec("regopy")
    if found and found.origin:
        folder = Path(found.origin).parent.parent / "regopy.libs"
        paths += [str(path) for path in sorted(folder.glob("libcrypto*"))]
    for path in paths:
        try:
            return mlkem.Libcrypto(path)
        except OSError:
            continue
    pytest.skip("libcrypto-mlkem: no libcrypto 3.5 or later on this machine")


def test_libcrypto_by_ctypes_passes_the_vectors_of_x_wing() -> None:
    provider = libcrypto()
    for vector in hpke_vectors():
        if vector["kem_id"] == X_WING.id:
            check_hpke(vector, provider)


def test_libcrypto_and_cryptography_agree_and_refuse_the_same() -> None:
    theirs, ours = mlkem.provider(), libcrypto()
    assert theirs is not None and theirs.name == "cryptography"
    seed = hashlib.sha512(b"seed").digest()
    pairs = [(one, one.private(seed)) for one in (theirs, ours)]
    assert pairs[0][1].public() == pairs[1][1].public()
    for provider, _ in pairs:
        secret, ciphertext = provider.encapsulate(pairs[0][1].public())
        assert [key.decapsulate(ciphertext) for _, key in pairs] == [secret, secret]
        # Implicit rejection is a function of key and ciphertext, so both give the same wrong secret.
        wrong = [key.decapsulate(bytes(mlkem.CIPHERTEXT_SIZE)) for _, key in pairs]
        assert wrong[0] == wrong[1] != secret
    for provider, key in pairs:
        for size in (0, mlkem.PUBLIC_SIZE - 1, mlkem.PUBLIC_SIZE + 1):
            with pytest.raises(ValueError, match=rf"ML-KEM-768 public key: {size} bytes, expected 1184"):
                provider.encapsulate(bytes(size))
        with pytest.raises(ValueError):
            provider.encapsulate(b"\xff" * mlkem.PUBLIC_SIZE)
        with pytest.raises(ValueError, match=r"ciphertext: 1087 bytes, expected 1088"):
            key.decapsulate(bytes(1087))
        with pytest.raises(ValueError, match=r"seed: 32 bytes, expected 64"):
            provider.private(bytes(32))


def test_a_library_without_ml_kem_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"no function|cannot open"):
        mlkem.Libcrypto("libc.so.6")
    real = libcrypto()
    monkeypatch.setattr(mlkem, "PUBLIC_SIZE", 1568)  # as a library that has ML-KEM-1024 under that name
    with pytest.raises(ValueError, match=r"refused"):
        real.private(bytes(64))


def test_without_ml_kem_only_x25519_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kems.usable() == (X_WING, X25519)
    monkeypatch.setattr(mlkem, "provider", lambda: None)
    assert kems.usable() == (X25519,)
    assert not any(kem.post_quantum for kem in kems.usable())
    with pytest.raises(ValueError, match=r"no ML-KEM-768"):
        X_WING.generate()


def test_where_cryptography_has_no_ml_kem_libcrypto_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = libcrypto()

    def absent() -> mlkem.Provider:
        raise ImportError

    monkeypatch.setattr(mlkem, "_ByCryptography", absent)
    monkeypatch.setattr(mlkem, "Libcrypto", lambda: ours)
    mlkem.provider.cache_clear()
    try:
        assert mlkem.provider() is ours
        key = X_WING.generate()
        sender = Sender(X_WING, AEADS[2], key.public, INFO)
        assert Recipient(key, AEADS[2], sender.encapsulated, INFO).open(sender.seal(b"x")) == b"x"
    finally:
        mlkem.provider.cache_clear()
