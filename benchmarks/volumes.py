"""Encryption of a volume over AES-256-XTS alone, with the same library and sectors on one core.

    python -m benchmarks.volumes

Runs of both take turns. Reading and writing the files are in the first. One long call of AES would be several times
faster: most of the time goes to beginning a sector, once for each 4096 bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measured import figure, seconds
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from privml.events.crypt import KEY_SIZE, SECTOR_SIZE
from privml.image.encryption import encrypt

Figure = Callable[[str, list[float], float, str], None]

SIZE = 256 << 20
ROUNDS = 7


def run(show: Figure) -> None:
    """Print the ratio, and the rate of the whole encryption."""
    key, data = os.urandom(KEY_SIZE), os.urandom(SIZE)
    ratios, rates = [], []
    with tempfile.TemporaryDirectory(prefix="privml-bench.") as name:
        plain, made = Path(name) / "plain", Path(name) / "made"
        plain.write_bytes(data)
        for _ in range(ROUNDS):
            alone = seconds(lambda: _alone(key, data))
            whole = seconds(lambda: encrypt(plain, 0, SIZE, made, key))
            made.unlink()
            ratios.append(whole / alone)
            rates.append(whole * 1e3 / (SIZE >> 20))
    show("volume-encryption-over-xts", ratios, 1.25, "ratio")
    show("volume-encryption", rates, 5, "ms/MiB")


def _alone(key: bytes, data: bytes) -> None:
    aes, view, out = AES(key), memoryview(data), bytearray(SECTOR_SIZE + 15)
    for at in range(0, len(data), SECTOR_SIZE):
        encryptor = Cipher(aes, XTS((at // SECTOR_SIZE).to_bytes(16, "little"))).encryptor()
        encryptor.update_into(view[at : at + SECTOR_SIZE], out)


if __name__ == "__main__":
    run(figure)
