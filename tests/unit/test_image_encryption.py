"""The encryption of a volume is the one that dm-crypt undoes, whatever the volume's size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from privml.base.errors import BuildError
from privml.events.crypt import LAST_SECTOR
from privml.image import encryption
from privml.image.encryption import encrypt

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/channel/dm-crypt-xts.json").read_bytes())
KEY = bytes.fromhex(VECTOR["key"])
SECTOR = 4096


def blocks(count: int) -> bytes:
    return b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() * 128 for n in range(count))


def test_the_ciphertext_is_the_one_that_linux_decrypted(tmp_path: Path) -> None:
    plain = blocks(512)
    assert hashlib.sha256(plain).hexdigest() == VECTOR["plaintext_sha256"]
    (tmp_path / "plain").write_bytes(bytes(SECTOR) + plain + b"behind")
    encrypt(tmp_path / "plain", SECTOR, len(plain), tmp_path / "made", KEY)
    made = (tmp_path / "made").read_bytes()[:-SECTOR]
    assert hashlib.sha256(made).hexdigest() == VECTOR["large_sectors"]["ciphertext_sha256"]


def test_pieces_of_any_number_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "PIECE", 2 * SECTOR)
    for count in (1, 2, 3, 4, 5, 9):
        plain = blocks(count)
        (tmp_path / "plain").write_bytes(plain)
        encrypt(tmp_path / "plain", 0, len(plain), tmp_path / f"made{count}", KEY)
        made = (tmp_path / f"made{count}").read_bytes()
        plain += LAST_SECTOR
        assert len(made) == len(plain)
        for n in range(count + 1):
            inverse = Cipher(AES(KEY), XTS(n.to_bytes(16, "little"))).decryptor()
            assert inverse.update(made[n * SECTOR : (n + 1) * SECTOR]) == plain[n * SECTOR : (n + 1) * SECTOR]


@pytest.mark.parametrize(
    ("start", "size"), [(0, 0), (0, SECTOR - 1), (1, SECTOR), (0, 3 * SECTOR), (SECTOR, 2 * SECTOR)]
)
def test_what_is_not_whole_sectors_of_the_file_is_refused(tmp_path: Path, start: int, size: int) -> None:
    (tmp_path / "plain").write_bytes(bytes(2 * SECTOR))
    with pytest.raises(BuildError):
        encrypt(tmp_path / "plain", start, size, tmp_path / "made", KEY)
    assert not (tmp_path / "made").exists()


def test_an_unusable_key_and_a_file_that_exists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(bytes(SECTOR))
    for key in (KEY[:32], KEY[:32] * 2):
        with pytest.raises(ValueError, match="volume key"):
            encrypt(tmp_path / "plain", 0, SECTOR, tmp_path / "made", key)
    (tmp_path / "made").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        encrypt(tmp_path / "plain", 0, SECTOR, tmp_path / "made", KEY)
    assert (tmp_path / "made").read_bytes() == b"kept"
