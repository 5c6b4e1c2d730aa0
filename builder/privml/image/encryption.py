"""Encrypt a volume's filesystem with AES-256-XTS, as dm-crypt decrypts it with ``iv_large_sectors``.

Every sector of 4096 bytes has its index as the tweak, 16 bytes little-endian. The same key and plaintext give the
same ciphertext, so builds with one key are equal. There is no header; one sector of known plaintext is added at the
end, by which the guest notices another numbering of the sectors (`events.crypt.LAST_SECTOR`).
"""

from __future__ import annotations

import mmap
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from privml.base.errors import BuildError
from privml.base.steps import progress
from privml.events.crypt import KEY_SIZE, LAST_SECTOR, SECTOR_SIZE, check_key

PIECE = 1 << 20
"""Bytes that are encrypted at a time; a few pieces are in memory."""
_SPARE = 15  # `update_into` wants room for one more block
_MEBI = 1 << 20


def encrypt(source: Path, start: int, size: int, target: Path, key: bytes) -> None:
    """Encrypt ``size`` bytes at ``start`` of ``source``, followed by the last sector, into the new file ``target``.

    ``ValueError`` for an unusable key, ``BuildError`` if the bytes are not whole sectors inside the file.
    """
    check_key(key)
    if size <= 0 or size % SECTOR_SIZE or start % mmap.ALLOCATIONGRANULARITY:
        raise BuildError(f"{source.name}: {size} bytes at {start} are not whole sectors of {SECTOR_SIZE} bytes")
    if start + size > source.stat().st_size:
        raise BuildError(f"{source.name}: ends before the {size} bytes at {start}")
    buffers = [bytearray(PIECE + _SPARE) for _ in range(2)]
    written: list[Future[object]] = []
    # A thread writes a piece while the next one is encrypted.
    with (
        source.open("rb") as plain,
        mmap.mmap(plain.fileno(), size, prot=mmap.PROT_READ, offset=start) as view,
        memoryview(view) as data,
        target.open("xb") as file,
        ThreadPoolExecutor(1) as writer,
    ):
        cipher = _Sectors(key)
        for number, at in enumerate(range(0, size, PIECE)):
            piece = data[at : at + PIECE]
            buffer = buffers[number % len(buffers)]
            if number >= len(buffers):
                written[number - len(buffers)].result()
            cipher.encrypt(piece, buffer, at // SECTOR_SIZE)
            written.append(writer.submit(file.write, memoryview(buffer)[: len(piece)]))
            progress(f"encrypted {(at + len(piece)) // _MEBI} of {size // _MEBI} MiB")
            piece.release()
        for future in written:
            future.result()
        cipher.encrypt(memoryview(LAST_SECTOR), buffers[0], size // SECTOR_SIZE)
        file.write(memoryview(buffers[0])[:SECTOR_SIZE])
    if (wrote := target.stat().st_size) != size + SECTOR_SIZE:
        raise BuildError(f"{target.name}: wrote {wrote} bytes, expected {size + SECTOR_SIZE}")
    progress(f"encrypted {size // _MEBI} MiB", final=True)


class _Sectors:
    """AES-256-XTS over whole sectors."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_SIZE
        self._aes = AES(key)

    def encrypt(self, data: memoryview, buffer: bytearray, first: int) -> None:
        """Encrypt ``data``, which starts at sector ``first``, to the start of ``buffer``."""
        aes, room = self._aes, memoryview(buffer)
        for at in range(0, len(data), SECTOR_SIZE):
            tweak = XTS((first + at // SECTOR_SIZE).to_bytes(16, "little"))
            encryptor = Cipher(aes, tweak).encryptor()
            encryptor.update_into(data[at : at + SECTOR_SIZE], room[at : at + SECTOR_SIZE + _SPARE])
