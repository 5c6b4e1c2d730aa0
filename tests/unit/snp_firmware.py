"""A small firmware file with the tables of OVMF's AmdSev build."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence

FOOTER, RESET, HASHES, METADATA = (
    uuid.UUID(text).bytes_le
    for text in (
        "96b582de-1fb2-45f7-baea-a366c55a082d",
        "00f771de-1a7e-4fcb-890e-68c77e2fb44e",
        "7255371f-3a3b-4b04-927b-1da6efa8d454",
        "dc886566-984a-4798-a75e-5585a7bf67cc",
    )
)
# As in OVMF.amdsev.fd of Debian forky (2026.08+ds-2), with a size-0 entry more.
SECTIONS = (
    (0x800000, 0x9000, 1),
    (0x80A000, 0x3000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4),
    (0x811000, 0x1F000, 1),
    (0, 0, 1),
    (0x810000, 0x1000, 0x10),
)
RESET_EIP = 0x80B004
AT = 0x1000  # of the metadata


def firmware(
    sections: Sequence[tuple[int, int, int]] = SECTIONS,
    *,
    hashes: int | None = 0x810C00,
    reset: int | None = RESET_EIP,
    size: int = 0x4000,
    metadata: bytes | None = None,
    at: int = AT,
) -> bytes:
    """A firmware file of ``size`` bytes; ``metadata`` replaces the whole block of sections, at byte ``at``."""
    body = bytearray((number * 7 + 3) % 251 for number in range(size))
    block = metadata
    if block is None:
        rows = b"".join(struct.pack("<III", *row) for row in sections)
        block = b"ASEV" + struct.pack("<III", 16 + len(rows), 1, len(sections)) + rows
    body[at : at + len(block)] = block
    parts = [(METADATA, struct.pack("<I", size - at))]
    parts += [(HASHES, struct.pack("<II", hashes, 0x400))] if hashes is not None else []
    parts += [(RESET, struct.pack("<I", reset))] if reset is not None else []
    entries = b"".join(data + struct.pack("<H", len(data) + 18) + guid for guid, data in parts)
    entries += struct.pack("<H", len(entries) + 18) + FOOTER
    body[size - 32 - len(entries) : size - 32] = entries
    return bytes(body)
