"""The file of a volume's key: only its owner can read it, and nothing shows the key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from privml.base.errors import EvidenceError, InputsError
from privml.base.strictjson import b64, canonical, loads
from privml.events.crypt import check_value
from privml.output import volumekey
from privml.output.volumekey import VolumeKey

SECRET = bytes(range(64))
KEY = VolumeKey("model/small", 3, SECRET)


def written(folder: Path, mode: int = 0o600, data: bytes | None = None) -> Path:
    path = folder / "small.key"
    path.write_bytes(KEY.encode() if data is None else data)
    path.chmod(mode)
    return path


def test_a_key_file_round_trips_and_has_mode_0600_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "small.key"
    before = os.umask(0)
    try:
        KEY.write(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert volumekey.read(path) == KEY
    assert loads(path.read_bytes()) == {
        "format": "privml-volume-key/v1", "resource": "model/small", "generation": 3, "key": b64(SECRET),
    }  # fmt: skip
    with pytest.raises(FileExistsError):
        KEY.write(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InputsError, match=f"has mode {mode:04o}.*expected 0600"):
        volumekey.read(written(tmp_path, mode))
    assert volumekey.read(written(tmp_path, 0o400)) == KEY


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputsError, match="is not a regular file"):
            volumekey.read(place)
    with pytest.raises(InputsError, match="cannot be read: no such file"):
        volumekey.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "privml-volume-key/v2"}, "format"),
        ({"resource": "Model"}, "resource"),
        ({"generation": 0}, "generation"),
        ({"generation": 2**31}, "generation"),
        ({"key": b64(SECRET[:63])}, "63 bytes, expected 64"),
        ({"key": b64(SECRET + b"x")}, "key"),
        ({"key": b64(SECRET[:32] * 2)}, "both halves are equal"),
        ({"more": 1}, "more"),
        ({"key": None}, "key"),
    ],
)
def test_a_changed_field_is_refused_by_name_and_without_the_key(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    data = canonical({**loads(KEY.encode()), **change})
    with pytest.raises(InputsError, match=f"not the file of a volume's key: .*{words}") as caught:
        volumekey.read(written(tmp_path, data=data))
    assert b64(SECRET)[:12] not in str(caught.value)


def test_no_text_of_a_key_shows_it() -> None:
    shown = f"{KEY} {KEY!r} {KEY.crypt('owner')!r} {[KEY]}"
    assert "model/small" in shown
    assert not any(form in shown for form in (SECRET.hex(), b64(SECRET), repr(SECRET)[2:20]))


def test_the_encryption_has_the_check_value_of_resource_generation_and_key() -> None:
    crypt = KEY.crypt("owner")
    assert (crypt.broker, crypt.resource, crypt.generation) == ("owner", "model/small", 3)
    assert crypt.check == check_value("model/small", 3, SECRET) == KEY.check
    assert crypt.is_key(SECRET) and not crypt.is_key(SECRET[::-1])


def test_several_keys_go_through_a_pipe() -> None:
    other = VolumeKey("data", 1, SECRET[::-1])
    assert volumekey.decode_all(volumekey.encode_all((KEY, other))) == (KEY, other)
    assert volumekey.decode_all(volumekey.encode_all(())) == ()
    for data in (b"{}", b"[1]", b'[{"format":"privml-volume-key/v1"}]', b""):
        with pytest.raises(EvidenceError):
            volumekey.decode_all(data)
