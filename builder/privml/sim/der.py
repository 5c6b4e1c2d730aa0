"""Write DER: the parts of simulated certificates that no library writes."""

from __future__ import annotations


def tlv(tag: int, *content: bytes) -> bytes:
    """A value with its tag and length."""
    joined = b"".join(content)
    size = len(joined)
    if size < 0x80:
        return bytes([tag, size]) + joined
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + joined


def integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = bytes([first * 40 + second])
    for arc in rest:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        content += bytes(reversed(digits))
    return tlv(0x06, content)


def sequence(*content: bytes) -> bytes:
    """A SEQUENCE of values."""
    return tlv(0x30, *content)


def entry(dotted: str, value: bytes) -> bytes:
    """A SEQUENCE of an OBJECT IDENTIFIER and a value."""
    return sequence(oid(dotted), value)
