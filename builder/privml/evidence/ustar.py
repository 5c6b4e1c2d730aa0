"""An uncompressed ustar archive in one form: mode 0644, owner 0, time 0, no owner names, two zero blocks at the end.

The same members in the same order always give the same bytes, so a reader can refuse every other encoding. Nothing is
unpacked to a disk: members are bytes by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from privml.base.errors import EvidenceError

_BLOCK = 512


def encode(members: Iterable[tuple[str, bytes]]) -> bytes:
    """The archive of ``members``, in their order; names have at most 100 ASCII characters."""
    return b"".join(_header(name, len(data)) + _padded(data) for name, data in members) + bytes(2 * _BLOCK)


def begins_with(head: bytes, name: str) -> bool:
    """True if ``head`` begins like an archive whose first member is ``name``."""
    return head[: len(name) + 1] == name.encode() + b"\0" and head[257:262] == b"ustar"


def members(data: bytes, what: str) -> dict[str, bytes]:
    """The members by name, in order; ``EvidenceError`` for one that is cut off or there twice.

    Headers are not checked: a reader compares ``data`` with what ``encode`` makes of the members that it knows.
    """
    found: dict[str, bytes] = {}
    at = 0
    while at + _BLOCK <= len(data) and data[at : at + _BLOCK] != bytes(_BLOCK):
        header = data[at : at + _BLOCK]
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        try:
            size = int(header[124:135], 8)
        except ValueError:
            raise EvidenceError(f"{what}: a header at byte {at} has no size") from None
        at += _BLOCK
        if size < 0 or at + size > len(data) or name in found:
            raise EvidenceError(f"{what}: `{name[:80]}` is truncated or duplicated")
        found[name] = data[at : at + size]
        at += -(-size // _BLOCK) * _BLOCK
    return found


def _header(name: str, size: int) -> bytes:
    def octal(value: int, width: int) -> bytes:
        return f"{value:0{width - 1}o}".encode() + b"\0"

    fields = name.encode("ascii").ljust(100, b"\0") + octal(0o644, 8) + octal(0, 8) * 2 + octal(size, 12)
    head = (fields + octal(0, 12) + b" " * 8 + b"0" + bytes(100) + b"ustar\x0000").ljust(_BLOCK, b"\0")
    return head[:148] + f"{sum(head):06o}".encode() + b"\0 " + head[156:]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
