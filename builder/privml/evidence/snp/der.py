"""Read DER strictly: one encoding of each value, nothing left over.

Only what the certificates of AMD's chips need. Libraries cannot read those: their serial number is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.errors import EvidenceError

INTEGER, BIT_STRING, OCTET_STRING, OID, IA5 = 0x02, 0x03, 0x04, 0x06, 0x16
UTC_TIME, GENERAL_TIME = 0x17, 0x18
SEQUENCE = 0x30


def context(number: int) -> int:
    """The tag of an explicit ``[number]``."""
    return 0xA0 + number


@dataclass
class Der:
    """The values in ``data``, read in order; ``EvidenceError`` naming ``what`` for anything else than expected."""

    data: bytes
    what: str
    _at: int = 0

    def take(self, tag: int) -> bytes:
        """The content of the next value, which has this tag."""
        found, content, _ = self._next()
        if found != tag:
            raise EvidenceError(f"{self.what}: DER tag 0x{found:02x}, expected 0x{tag:02x}")
        return content

    def whole(self, tag: int) -> bytes:
        """The next value with its tag and length."""
        found, _, whole = self._next()
        if found != tag:
            raise EvidenceError(f"{self.what}: DER tag 0x{found:02x}, expected 0x{tag:02x}")
        return whole

    def enter(self, tag: int) -> Der:
        """A reader of the next value's content."""
        return Der(self.take(tag), self.what)

    def integer(self) -> int:
        """The next value, a non-negative integer."""
        content = self.take(INTEGER)
        if not content or content[0] & 0x80 or (len(content) > 1 and content[0] == 0 and not content[1] & 0x80):
            raise EvidenceError(f"{self.what}: an integer that is negative or not in its shortest form")
        return int.from_bytes(content)

    def more(self) -> bool:
        """True while values are left."""
        return self._at < len(self.data)

    def end(self) -> None:
        """Refuse what is left."""
        if self.more():
            raise EvidenceError(f"{self.what}: {len(self.data) - self._at} bytes after the last DER value")

    def _next(self) -> tuple[int, bytes, bytes]:
        start = self._at
        head = self.data[start : start + 2]
        if len(head) < 2:
            raise EvidenceError(f"{self.what}: DER ends in the middle of a value")
        tag, length, at = head[0], head[1], start + 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(self.data[at : at + size])
            if not 1 <= size <= 3 or length < 0x80 or length >> 8 * (size - 1) == 0:
                raise EvidenceError(f"{self.what}: a DER length that is not in its shortest form")
            at += size
        if at + length > len(self.data):
            raise EvidenceError(f"{self.what}: DER ends in the middle of a value")
        self._at = at + length
        return tag, self.data[at : self._at], self.data[start : self._at]
