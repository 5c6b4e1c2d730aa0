"""Synthetic volumes: a valid GPT with two partitions and a verity superblock."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

SALT = bytes(range(32))


def gpt(parts: list[tuple[str, int, int]], *, table: int = 2, count: int = 128, size: int = 128) -> bytes:
    """A disk that starts with a GPT; ``parts`` are (name, first sector, last sector)."""
    header = struct.pack(
        "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 0, 34, 0, bytes(16), table, count, size, 0
    )
    guids = [hashlib.sha256(name.encode()).digest()[:16] for name, *_ in parts]
    entries = b"".join(
        struct.pack("<16s16sQQQ72s", b"K" * 16, guid, first, last, 0, name.encode("utf-16-le"))
        for guid, (name, first, last) in zip(guids, parts, strict=True)
    )
    return resealed((bytes(512) + header).ljust(512 * table, b"\0") + entries.ljust(count * 128, b"\0"))


def resealed(disk: bytes) -> bytes:
    """The disk with correct checksums of header and entries."""
    at, count, size = struct.unpack_from("<QII", disk, 512 + 72)
    entries = zlib.crc32(disk[at * 512 : at * 512 + count * size])
    header = disk[512:528] + bytes(4) + disk[532:600] + entries.to_bytes(4, "little")
    return disk[:512] + header[:16] + zlib.crc32(header).to_bytes(4, "little") + header[20:] + disk[604:]


def reseal(path: Path) -> None:
    """Correct the checksums in the table of a changed disk."""
    path.write_bytes(resealed(path.read_bytes()))


def superblock(
    *,
    magic: bytes = b"verity\0\0",
    version: int = 1,
    kind: int = 1,
    algorithm: bytes = b"sha256",
    data: int = 4096,
    hashes: int = 4096,
    blocks: int = 2,
    length: int = 32,
) -> bytes:
    return struct.pack(
        "<8sII16s32sIIQH6x256s", magic, version, kind, bytes(16), algorithm, data, hashes, blocks, length, SALT
    )


def volume(label: str, block: bytes | None = None, *, data: int = 2) -> bytes:
    """Data of two blocks (``data`` by the superblock) at sector 40, its hash tree at sector 56."""
    head = gpt([(label, 40, 55), (f"{label}-verity", 56, 63)])
    return (head.ljust(56 * 512, b"\0") + (superblock(blocks=data) if block is None else block)).ljust(
        64 * 512, b"\0"
    )
