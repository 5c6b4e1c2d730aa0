"""Option ROMs: which images are drivers, and UEFI compression with streams written bit by bit."""

import struct

import pytest

from privml.base.errors import MeasurementError
from privml.events.types import EV_EFI_BOOT_SERVICES_DRIVER, EV_EFI_RUNTIME_SERVICES_DRIVER
from privml.measure import lzh, optionrom, pe


def stream(*fields: tuple[int, int]) -> bytes:
    """Bits, given as (value, width), most significant first."""
    text = "".join(f"{value:0{width}b}" for value, width in fields if width)
    return int(text.ljust(-(-len(text) // 8) * 8, "0") or "0", 2).to_bytes(-(-len(text) // 8), "big")


def packed(size: int, *fields: tuple[int, int]) -> bytes:
    body = stream(*fields)
    return struct.pack("<II", len(body), size) + body


ONE_POSITION = ((0, 4), (0, 4))


def literals(text: bytes) -> list[tuple[int, int]]:
    """A block of literals: 256 codes of eight bits (their lengths are stored as 10 less 2)."""
    head = [(len(text), 16), (0, 5), (10, 5), (256, 9), *ONE_POSITION]
    return head + [(byte, 8) for byte in text]


def copies(count: int, length: int, position: int, *more: tuple[int, int]) -> list[tuple[int, int]]:
    """A block of ``count`` copies of ``length`` bytes; ``position`` is the one code of positions."""
    return [(count, 16), (0, 5), (0, 5), (0, 9), (length + 253, 9), (0, 4), (position, 4), *more]


def stored(data: bytes) -> bytes:
    blocks = [field for at in range(0, len(data), 65535) for field in literals(data[at : at + 65535])]
    return packed(len(data), *blocks)


def test_literal_bytes_are_copied() -> None:
    assert lzh.decompress(stored(bytes(range(256)))) == bytes(range(256))
    assert lzh.decompress(stored(b"ab" * 40000)) == b"ab" * 40000
    assert lzh.decompress(packed(0)) == b""


def test_copies_may_overlap_themselves() -> None:
    assert lzh.decompress(packed(10, *literals(b"ab"), *copies(1, 8, 1))) == b"ab" * 5
    # Position code 2 takes one more bit: a distance of 3 or 4.
    assert lzh.decompress(packed(8, *literals(b"abcde"), *copies(1, 3, 2, (1, 1)))) == b"abcdebcd"
    assert lzh.decompress(packed(8, *literals(b"abcde"), *copies(1, 3, 2, (0, 1)))) == b"abcdecde"


def test_codes_of_different_lengths() -> None:
    """`a` is 0, `b` is 10, `c` is 11; runs of zeros of both kinds stand between the lengths."""
    lengths = [
        (5, 5),  # five codes of code lengths:
        (2, 3), (2, 3), (2, 3), (0, 2),  # 0, 1, 2: two bits each, no gap; 3: three bits; 4: three bits
        (3, 3), (3, 3),
    ]  # fmt: skip
    zero, run, long_run, one, two = (0, 2), (1, 2), (2, 2), (6, 3), (7, 3)
    symbols = [
        (120, 9),
        long_run, (97 - 20 - 18, 9), run, (15, 4),  # 97 zeros: (59 + 20) + (15 + 3)
        one, two, two,
        long_run, (0, 9),  # 20 zeros behind `c`
    ]  # fmt: skip
    text = [(0, 1), (2, 2), (3, 2), (0, 1)]
    assert zero == (0, 2)
    assert lzh.decompress(packed(4, (4, 16), *lengths, *symbols, *ONE_POSITION, *text)) == b"abca"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0", "bytes 0 to 4"),
        (struct.pack("<II", 9, 1) + b"x", "bytes 8 to 17"),
        (struct.pack("<II", 0, 1 << 31), "expected at most"),
        (packed(1, (0, 16)), "empty block"),
        (packed(9, *literals(b"a"), *copies(1, 8, 5, (0, 4))), "a copy from"),
        (packed(1, (1, 16), (0, 5), (19, 5)), "symbol 19"),
        (packed(1, (1, 16), (0, 5), (0, 5), (0, 9), (511, 9)), "symbol 511"),
        (packed(1, (1, 16), (2, 5), (1, 3), (2, 3)), "not complete"),
        (packed(1, (1, 16), (1, 5), (7, 3), (0xFFFF, 16)), "bits long"),
        (packed(99999, *literals(b"a")), "ends in the middle|empty block"),
    ],
)  # fmt: skip
def test_malformed_streams_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        lzh.decompress(data)


def driver(text: bytes = b"driver") -> bytes:
    """A PE32+ image without sections; what follows its headers is hashed too."""
    head = bytearray(0x200)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 0x3C, 0x40)
    head[0x40:0x44] = b"PE\0\0"
    struct.pack_into("<H", head, 0x54, 240)
    struct.pack_into("<H", head, 0x58, 0x20B)
    struct.pack_into("<I", head, 0x58 + 60, len(head))
    struct.pack_into("<I", head, 0x58 + 108, 16)
    return bytes(head) + text


def image(
    body: bytes, *, code: int = 3, last: bool = True, subsystem: int = 11, machine: int = 0x8664, how: int = 0
) -> bytes:
    size = -(-(0x40 + len(body)) // 512)
    head = struct.pack("<HHIHHH8xHH2x", 0xAA55, size, 0x0EF1, subsystem, machine, how, 0x40, 0x1C)
    data = struct.pack("<4sHHHHB3sHHBB", b"PCIR", 0x1AF4, 0x1000, 0, 28, 3, b"\0\0\2", size, 0, code, last << 7)
    return ((head + data).ljust(0x40, b"\0") + body).ljust(size * 512, b"\0")


def test_compressed_and_plain_drivers_are_read() -> None:
    plain = driver(bytes(range(256)))
    padded = plain.ljust(-(-(0x40 + len(plain)) // 512) * 512 - 0x40, b"\0")
    assert optionrom.drivers(image(plain)) == (
        optionrom.Driver(EV_EFI_BOOT_SERVICES_DRIVER, pe.authenticode(padded)),
    )
    bios = image(b"bios", code=0, last=False)
    rom = bios + image(stored(plain), how=1, subsystem=12) + b"\xff" * 999
    assert optionrom.drivers(rom) == (optionrom.Driver(EV_EFI_RUNTIME_SERVICES_DRIVER, pe.authenticode(plain)),)
    assert optionrom.drivers(image(plain, machine=0xAA64)) == ()
    assert optionrom.drivers(image(b"bios", code=0)) == ()


@pytest.mark.parametrize(
    ("rom", "words"),
    [
        (b"", "bytes 0 to 2"),
        (b"MZ" + bytes(600), "no 55 aa"),
        (image(b"x")[:0x1C] + b"RICP" + bytes(600), "PCIR"),
        (image(b"x")[:0x2C] + b"\0\0" + image(b"x")[0x2E:], "empty"),
        (image(driver(), last=False), "bytes 1024 to 1026"),
        (image(b"x")[:0x2E], "bytes 48 to 49"),
        (image(b"x", code=0, last=False) * 40, "more than 32"),
        (image(driver(), subsystem=10), "subsystem 10"),
        (image(driver(), how=2), "compression 2"),
        (image(b"x")[:4] + bytes(4) + image(b"x")[8:], "signature"),
        (image(b"not PE"), "MZ"),
    ],
)
def test_malformed_roms_are_refused(rom: bytes, words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        optionrom.drivers(rom)
