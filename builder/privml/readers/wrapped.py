"""Files as people attach them: compressed, dumped as text, or in a container that another tool opens.

Compression and text dumps are taken off here, within bounds. A container is named, with the command that opens it.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

MAX_UNPACKED = 256 << 20
"""Largest content that is unpacked in memory."""
_MAX_DUMP = 64 << 20


@dataclass(frozen=True)
class Container:
    """A format that is not read: what to call it, its first bytes (at ``offset``), and the command that opens it."""

    name: str
    magic: bytes
    command: str
    offset: int = 0

    def matches(self, head: bytes) -> bool:
        """True when ``head`` is the beginning of such a file."""
        return head[self.offset : self.offset + len(self.magic)] == self.magic


_RAW = "`qemu-img convert -O raw {} disk.raw` makes a raw image of it"
CONTAINERS: tuple[Container, ...] = (
    Container("qcow2 disk image", b"QFI\xfb", _RAW),
    Container("VMDK disk image", b"KDMV", _RAW),
    Container("VMDK disk descriptor", b"# Disk DescriptorFile", _RAW),
    Container("VHDX disk image", b"vhdxfile", _RAW),
    Container("VHD disk image", b"conectix", _RAW),
    Container("VDI disk image", b"\x7f\x10\xda\xbe", _RAW, 64),
    Container("Android sparse image", b"\x3a\xff\x26\xed", "`simg2img {} disk.raw` makes a raw image of it"),
    Container("zstd-compressed file", b"\x28\xb5\x2f\xfd", "`zstd -d {}` unpacks it"),
    Container("lz4-compressed file", b"\x04\x22\x4d\x18", "`lz4 -d {}` unpacks it"),
    Container("lzop-compressed file", b"\x89LZO\0\r\n\x1a\n", "`lzop -d {}` unpacks it"),
    Container("zip archive", b"PK\x03\x04", "`unzip {}` unpacks it"),
    Container("7-Zip archive", b"7z\xbc\xaf\x27\x1c", "`7z x {}` unpacks it"),
    Container("tar archive", b"ustar", "`tar -xf {}` unpacks it", 257),
    Container("Debian package", b"!<arch>\ndebian-binary", "`dpkg-deb -x {} DIRECTORY` unpacks it"),
    Container("RPM package", b"\xed\xab\xee\xdb", "`rpm2cpio {} | cpio -id` unpacks it"),
    Container("ISO 9660 image", b"CD001", "`7z x {}` unpacks it; its EFI image is in a boot catalogue", 0x8001),
    Container("squashfs file system", b"hsqs", "`unsquashfs {}` unpacks it"),
    Container("cpio archive (an initrd)", b"07070", "its SHA-384 is the digest of the kernel's initrd event"),
    Container(
        "ELF file", b"\x7fELF", "firmware starts PE images; the bzImage or UKI made of this one can be measured"
    ),
    Container("PEM certificate chain", b"-----BEGIN CERTIFICATE-----", "`verify` reads the one inside a quote"),
    Container(
        "DER file (a certificate, revocation list or signature)", b"\x30\x82", "`verify` reads those of a quote"
    ),
    Container("PDF file", b"%PDF-", "it is a document, not evidence"),
)
"""Formats that are named, and not read."""


# Text that other tools print of a log or of evidence.
_TEXTS: tuple[tuple[re.Pattern[bytes], Container], ...] = (
    (
        re.compile(rb"---\s*\nversion: "),
        Container(
            "text of `tpm2_eventlog`",
            b"",
            "the log itself is /sys/kernel/security/tpm0/binary_bios_measurements",
        ),
    ),
    (
        re.compile(rb"\d{1,2} [0-9a-f]{40,128} ima"),
        Container(
            "list of IMA's run-time measurements",
            b"",
            "it explains PCR 10; a TD's boot is in /sys/firmware/acpi/tables/data/CCEL",
        ),
    ),
    (
        re.compile(rb"=+ ?TDX? Event Log"),
        Container("text of `tdeventlog`", b"", "the log itself is /sys/firmware/acpi/tables/data/CCEL"),
    ),
)


def text_form(head: bytes) -> Container | None:
    """The tool whose printed text ``head`` begins; None for other content."""
    return next((one for pattern, one in _TEXTS if pattern.match(head.lstrip())), None)


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True)
class Compression:
    """A compression that is taken off: its name, first bytes and decompressor, and the command that does the same."""

    name: str
    magic: bytes
    stream: Callable[[], _Stream]
    command: str


COMPRESSIONS: tuple[Compression, ...] = (
    Compression("gzip", b"\x1f\x8b\x08", lambda: zlib.decompressobj(31), "gzip -d"),
    Compression("xz", b"\xfd7zXZ\0", lzma.LZMADecompressor, "xz -d"),
    Compression("bzip2", b"BZh", bz2.BZ2Decompressor, "bzip2 -d"),
)


def container(head: bytes) -> Container | None:
    """The container that ``head`` is the beginning of; None for none of them."""
    return next((one for one in CONTAINERS if one.matches(head)), None)


def compression(head: bytes) -> Compression | None:
    """The compression that ``head`` is the beginning of; None for none of them."""
    return next((one for one in COMPRESSIONS if head.startswith(one.magic)), None)


def unpack(data: bytes, how: Compression) -> bytes | None:
    """The content of a compressed file; None when it is damaged, cut off, or larger than `MAX_UNPACKED`."""
    found: list[bytes] = []
    size = 0
    while data:
        stream = how.stream()
        try:
            piece = stream.decompress(data, MAX_UNPACKED - size + 1)
        except (zlib.error, lzma.LZMAError, OSError, EOFError):
            return b"".join(found) if found else None  # padding behind the last member
        size += len(piece)
        if size > MAX_UNPACKED or not stream.eof:
            return None
        found.append(piece)
        data = stream.unused_data.lstrip(b"\0")
    return b"".join(found)


# --- text that stands for bytes -------------------------------------------------------------------------------------

_PEM = re.compile(rb"\A\s*-----BEGIN ([A-Z0-9 ]{1,40})-----\s([A-Za-z0-9+/=\s]+)-----END \1-----\s*\Z")
_TOKEN = re.compile(rb"\A\s*eyJ[A-Za-z0-9_-]+\.(eyJ[A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*\s*\Z")


def armoured(text: bytes) -> tuple[str, bytes] | None:
    """What a PEM block or the claims of a JSON Web Token hold, and what that was; None for other text."""
    block, token = _PEM.match(text), _TOKEN.match(text)
    try:
        if block is not None:
            return f"PEM ({block[1].decode()})", base64.b64decode(b"".join(block[2].split()), validate=True)
        if token is not None:
            claims = base64.urlsafe_b64decode(token[1] + b"=" * (-len(token[1]) % 4))
            return "a JSON Web Token, whose signature was not checked", claims
    except binascii.Error:
        return None
    return None


# --- dumps ----------------------------------------------------------------------------------------------------------

# Offset, then bytes in groups (`hexdump -C`, `xxd`, `od -A x -t x1`, plain `hexdump`), then perhaps the same as text.
_DUMP_LINE = re.compile(rb"\s*([0-9A-Fa-f]{4,16})(:?)(?:[ \t](.*))?")
_GROUP = re.compile(rb"(?:[0-9A-Fa-f]{2}){1,16}")
_ARRAY = re.compile(rb"[\s\[{(]*(?:0x[0-9A-Fa-f]{1,2}\s*,?\s*){16,}[\])};\s]*")
_SHORTEST_DUMP = 16
_XXD_BASE = 16
_BASES = (_XXD_BASE, 8, 10)  # `od` counts in octal unless it is asked for another base


def dumped(data: bytes) -> bytes | None:
    """The bytes that a text dump shows; None when ``data`` is none, or when lines of it are missing."""
    if len(data) > _MAX_DUMP or not data.strip():
        return None
    if _ARRAY.fullmatch(data):
        return bytes(int(one, 16) for one in re.findall(rb"0x([0-9A-Fa-f]{1,2})", data))
    lines = data.strip().splitlines()
    for base in _BASES:
        found = _rows(lines, base)
        if found is not None and len(found) >= _SHORTEST_DUMP:
            return found
    return None


def _rows(lines: list[bytes], base: int) -> bytes | None:
    """The bytes of a dump whose offsets are numbers of ``base``; None when they do not follow each other."""
    found, last, repeating = bytearray(), b"", False
    for line in lines:
        if line.strip() == b"*":
            repeating = True
            continue
        match = _DUMP_LINE.fullmatch(line)
        row = _row(match[3] or b"", colon=bool(match[2])) if match is not None else None
        if match is None or row is None or (match[2] and base != _XXD_BASE):
            return None
        try:
            offset = int(match[1], base)
        except ValueError:
            return None
        if repeating and last and len(found) < offset <= _MAX_DUMP:
            found += (last * ((offset - len(found)) // len(last) + 1))[: offset - len(found)]
        repeating = False
        if offset != len(found):
            return None
        last = row
        found += row
    return bytes(found)


def _row(rest: bytes, *, colon: bool) -> bytes | None:
    """The bytes of one line behind its offset; None when it has something else than hexadecimal there."""
    # xxd: two spaces before its text. hexdump -C and od -t x1z: the text is between bars or angle brackets.
    column = rest.strip().partition(b"  ")[0] if colon else rest.partition(b"|")[0].partition(b">")[0]
    groups = column.split()
    if not all(_GROUP.fullmatch(group) for group in groups):
        return None
    row = [bytes.fromhex(group.decode()) for group in groups]
    if not colon and groups and all(len(group) == 4 for group in groups):
        row = [pair[::-1] for pair in row]  # plain `hexdump` shows little-endian words
    return b"".join(row)
