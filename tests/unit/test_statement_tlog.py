"""Transparency logs: trees, tiles, notes and proofs, on others' logs and on every small tree."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from logged_fake import ORIGIN, key, signer

from privml.base.errors import EvidenceError
from privml.base.times import MAX_TIME
from privml.statement import tlog
from privml.statement.tlog import Checkpoint, NoteKey, Proof

TESSERA = Path(__file__).resolve().parents[1] / "vectors/publishing/transparency-dev_tessera"
# Of testdata/build_log.sh in the same place.
TESSERA_KEY = NoteKey.decode("example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx")
# The example of https://c2sp.org/signed-note, and the two signatures of golang/mod's test (sumdb/note, BSD-3-Clause).
FOO = (
    "This is an example message.\n",
    "— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n",
)
TWO = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n",
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n",
)
NOTES = [
    (FOO, "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"),
    (TWO, "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"),
    (TWO, "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"),
]
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = NoteKey("log.example", PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def entries(number: int) -> list[bytes]:
    return [f"entry {index}".encode() for index in range(number)]


def leaves(number: int) -> list[bytes]:
    return [tlog.leaf_hash(entry) for entry in entries(number)]


def by_definition(hashes: list[bytes]) -> bytes:
    """The root as RFC 6962 defines it, from the top down."""
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256(b"").digest()
    cut = 1 << (len(hashes) - 1).bit_length() - 1
    return tlog.node_hash(by_definition(hashes[:cut]), by_definition(hashes[cut:]))


def note(text: str) -> bytes:
    return f"{text}\n{KEY.line(PRIVATE.sign(text.encode()))}".encode()


@pytest.mark.parametrize("size", [5, 15])
def test_another_log_s_checkpoint_entries_and_tiles_are_ours(size: int) -> None:
    state = Checkpoint.read((TESSERA / f"checkpoint.{size}").read_bytes(), TESSERA_KEY)
    found = tlog.entries_of({path: (TESSERA / path).read_bytes() for path in tlog.bundle_paths(size)}, size)
    assert (state.size, state.root) == (size, tlog.root_of([tlog.leaf_hash(entry) for entry in found]))
    assert {path: (TESSERA / path).read_bytes() for path in tlog.tiles(found)} == tlog.tiles(found)


@pytest.mark.parametrize(("parts", "key"), NOTES)
def test_others_notes_are_read_by_each_of_their_keys(parts: tuple[str, str], key: str) -> None:
    found = NoteKey.decode(key)
    assert found.text == key
    assert tlog.signed_text("\n".join(parts).encode(), found) == parts[0]


def test_the_root_is_that_of_the_definition() -> None:
    for size in range(70):
        assert tlog.root_of(leaves(size)) == by_definition(leaves(size))


def test_each_leaf_of_each_tree_is_proven_and_no_other() -> None:
    for size in range(1, 40):
        hashes, root = leaves(size), tlog.root_of(leaves(size))
        for index in range(size):
            proof = tlog.inclusion(hashes, index)
            assert tlog.includes(root, size, index, hashes[index], proof)
            assert not tlog.includes(root, size, index, tlog.leaf_hash(b"x"), proof)
            assert not tlog.includes(root, size, index, hashes[index], (*proof, bytes(32)))
            assert not proof or not tlog.includes(root, size, index, hashes[index], proof[:-1])
            others = [other for other in range(size) if other != index]
            assert not any(tlog.includes(root, size, other, hashes[index], proof) for other in others)


@given(st.integers(1, 700), st.data())
def test_a_proof_of_another_root_or_size_proves_nothing(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    hashes = leaves(size)
    proof, root = tlog.inclusion(hashes, index), tlog.root_of(hashes)
    assert tlog.includes(root, size, index, hashes[index], proof)
    flipped = bytearray(b"".join(proof) or root)
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1
    if proof:
        changed = [bytes(flipped[at : at + 32]) for at in range(0, len(flipped), 32)]
        assert not tlog.includes(root, size, index, hashes[index], changed)
    else:
        assert not tlog.includes(bytes(flipped), size, index, hashes[index], proof)
    assert not tlog.includes(root, size, size, hashes[index], proof)
    assert not tlog.includes(root, size, -1, hashes[index], proof)


@pytest.mark.parametrize(("before", "after"), [(3, 7), (255, 256), (256, 300), (300, 600)])
def test_a_log_that_grows_changes_no_tile(before: int, after: int) -> None:
    old, new = tlog.tiles(entries(before)), tlog.tiles(entries(after))
    assert {path: new[path] for path in old.keys() & new.keys()} == {
        path: old[path] for path in old.keys() & new.keys()
    }
    for path in old.keys() - new.keys():
        whole, partial, width = path.partition(".p/")
        assert partial and 0 < int(width) < 256
        longer = [data for other, data in new.items() if other.partition(".p/")[0] == whole]
        assert len(longer) == 1 and longer[0].startswith(old[path])


def test_tiles_have_the_paths_of_the_specification() -> None:
    assert set(tlog.tiles(entries(600))) == {
        *("tile/entries/000", "tile/entries/001", "tile/entries/002.p/88"),
        *("tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"),
    }
    assert tlog.bundle_paths(1234067 * 256 + 1)[-1] == "tile/entries/x001/x234/067.p/1"


@pytest.mark.parametrize("cut", [b"", b"\x00", b"\x00\x05ab", b"\x00\x01a\x00\x01b\x00\x01c"])
def test_a_bundle_with_other_than_its_entries_is_refused(cut: bytes) -> None:
    with pytest.raises(EvidenceError, match=r"tile/entries/000\.p/2"):
        tlog.entries_of({"tile/entries/000.p/2": cut}, 2)


def test_a_checkpoint_and_a_proof_round_trip() -> None:
    state = Checkpoint(KEY.name, 5, tlog.root_of(leaves(5)))
    assert Checkpoint.read(note(state.text), KEY) == state
    proof = Proof(3, tlog.inclusion(leaves(5), 3), note(state.text))
    assert Proof.decode(proof.encode()) == proof
    assert proof.check(entries(5)[3], KEY) == state
    with pytest.raises(EvidenceError, match="does not lead"):
        proof.check(entries(5)[2], KEY)


def test_a_cosignature_of_a_witness_is_ignored() -> None:
    state = Checkpoint(KEY.name, 1, tlog.root_of(leaves(1)))
    witness = NoteKey("witness.example", bytes(31) + b"\x09")
    assert Checkpoint.read(note(state.text) + witness.line(bytes(72)).encode(), KEY) == state


def test_a_changed_byte_of_a_signed_checkpoint_is_refused() -> None:
    good = note(Checkpoint(KEY.name, 5, tlog.root_of(leaves(5))).text)
    for place in range(len(good)):
        data = bytearray(good)
        data[place] ^= 0x01
        with pytest.raises(EvidenceError):
            Checkpoint.read(bytes(data), KEY)


@pytest.mark.parametrize(
    "text",
    [
        "other.example\n1\nAAAA\n",
        f"{KEY.name}\n01\n{'A' * 43}=\n",
        f"{KEY.name}\n-1\n{'A' * 43}=\n",
        f"{KEY.name}\n1\nAAAA\n",
        f"{KEY.name}\n1\n{'A' * 43}=\nmore\n",
        f"{KEY.name}\n{(1 << 20) + 1}\n{'A' * 43}=\n",
        f"{KEY.name}\n1\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_of_this_log_is_refused(text: str) -> None:
    with pytest.raises(EvidenceError, match=r"checkpoint|base64|root"):
        Checkpoint.read(note(text), KEY)


GOOD = note(f"{KEY.name}\n0\n{'A' * 43}=\n").decode()


@pytest.mark.parametrize(
    "bad",
    [
        "",
        GOOD[:-1],
        GOOD.replace("\n\n", "\n"),
        GOOD.replace("\n\n", "\n\t\n\n"),
        GOOD + GOOD.splitlines()[-1] + "\n",
        GOOD.replace("— ", "- "),
        GOOD + "— x y\n",
        GOOD.partition("\n\n")[0] + "\n\n" + NoteKey("w", bytes(32)).line(bytes(64)),
        GOOD + NoteKey("w", bytes(32)).line(bytes(64)) * 100,
        "x" * (1 << 17),
    ],
)
def test_a_malformed_note_is_refused(bad: str) -> None:
    with pytest.raises(EvidenceError):
        tlog.signed_text(bad.encode(), KEY)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "name",
        KEY.text.replace("log", "lag"),
        KEY.text[:-4],
        KEY.text.replace("+A", "+B", 1),
        "a b" + KEY.text,
        NoteKey("x", bytes(32)).text.replace("+A", "+E"),
    ],
)
def test_a_malformed_key_is_refused(bad: str) -> None:
    with pytest.raises(EvidenceError):
        NoteKey.decode(bad)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("index 0", "index 00"),
        ("index 0", "index -1"),
        ("index 0\n", ""),
        ("\n\n", "\nAAAA\n\n"),
        ("\n\n", "\n" + f"{'A' * 43}=\n" * 70 + "\n"),
        ("\n\n", "\n"),
    ],
)
def test_a_malformed_proof_is_refused(old: str, new: str) -> None:
    text = Proof(0, (), b"x\ny\n").encode().decode()
    assert Proof.decode(text.encode()).hashes == ()
    with pytest.raises(EvidenceError):
        Proof.decode(text.replace(old, new, 1).encode())


@pytest.mark.parametrize(("at", "good"), [(MAX_TIME, True), (MAX_TIME + 1, False), (2**63 - 1, False)])
def test_a_cosignature_is_of_a_time_that_can_be_shown(at: int, good: bool) -> None:
    text = Checkpoint(ORIGIN, 1, tlog.root_of([tlog.leaf_hash(b"x")])).text
    signature = at.to_bytes(8) + signer("w1").sign(tlog.cosigned_text(at, text))
    assert key("w1").verifies(signature, text) is good
