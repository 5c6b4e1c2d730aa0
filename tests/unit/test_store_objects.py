"""The content-addressed store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from privml.base.errors import HostError, InputsError
from privml.store.objects import Store, default_root


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_bytes_and_files_are_stored_by_digest(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = store.add_bytes(b"one")
    assert digest == digest_of(b"one")
    assert store.path(digest) == tmp_path / "s" / "objects" / "sha256" / digest[:2] / digest[2:]
    (tmp_path / "file").write_bytes(b"two" * 1000)
    second = store.add_file(tmp_path / "file", expect=digest_of(b"two" * 1000))
    assert store.read(second) == b"two" * 1000
    assert list(store.digests()) == sorted([digest, second])
    assert store.size() == (2, 3003)
    assert store.path(digest).stat().st_mode & 0o777 == 0o444
    with store.open(digest) as file:
        assert file.read() == b"one"


def test_unexpected_bytes_are_not_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    (tmp_path / "file").write_bytes(b"two")
    for add in (
        lambda: store.add_bytes(b"two", expect="0" * 64),
        lambda: store.add_file(tmp_path / "file", expect="0" * 64),
    ):
        with pytest.raises(InputsError, match="expected 0000"):
            add()
    assert [path for path in (tmp_path / "s").rglob("*") if path.is_file()] == []


def test_a_damaged_object_is_named_and_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = store.add_bytes(b"one")
    place = store.path(digest)
    place.chmod(0o644)
    place.write_bytes(b"oen")
    assert store.path(digest) == place
    with pytest.raises(InputsError, match=f"sha256:{digest} is damaged"):
        store.read(digest)
    assert not store.has(digest)
    with pytest.raises(InputsError, match="is not in the store"):
        store.path(digest)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_digests_are_names(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ValueError, match="is not a SHA-256"):
        Store(tmp_path).has(digest)


def test_the_store_s_location_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("PRIVML_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "privml-build" / "store"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "privml-build" / "store"


def test_an_unwritable_store_is_a_host_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError, match="cannot be written"):
        Store(tmp_path / "file" / "s").add_bytes(b"one")
