"""PE images: the section table, and the Authenticode digest exactly as edk2 computes it.

Source: edk2 OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c (SecurityPkg's Tcg2Dxe has the same code); Microsoft PE format.
It differs from other tools in two ways: no padding to 8 bytes, and bytes after the last section are hashed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from privml.base.errors import MeasurementError
from privml.measure.digest import piece, unsigned

_MAX_SECTIONS = 96
MACHINE_X64 = 0x8664
_MACHINES = {
    MACHINE_X64: "x86-64",
    0x014C: "ia32 (i386, 32-bit)",
    0xAA64: "aarch64 (ARM64)",
    0x01C0: "arm (32-bit)",
    0x01C2: "arm (32-bit)",
    0x01C4: "arm (32-bit)",
    0x0200: "ia64 (Itanium)",
    0x0EBC: "EFI byte code",
    0x5032: "riscv32",
    0x5064: "riscv64",
    0x5128: "riscv128",
    0x6232: "loongarch32",
    0x6264: "loongarch64",
}
_MAGIC_PE32_PLUS = 0x20B
_MAGIC_PE32 = 0x10B


@dataclass(frozen=True)
class Section:
    """One section header: ``raw_*`` say where its bytes are in the file, ``virtual_*`` where they go in memory."""

    name: str
    virtual_size: int
    virtual_address: int
    raw_size: int
    raw_offset: int


@dataclass(frozen=True)
class Headers:
    """What the digest and the sections need of a PE file's headers; offsets are bytes from the start of the file.

    ``machine`` is the COFF machine. Firmware of a TD is x86-64, and its loader refuses images of other machines.
    """

    machine: int
    checksum_offset: int
    directories: int
    security_entry_offset: int
    security_size: int
    size_of_headers: int
    major_image_version: int
    sections: tuple[Section, ...]


def headers(image: bytes) -> Headers:
    """Read the headers of a PE32 or PE32+ image; ``MeasurementError`` when it is not one."""
    if image[:2] != b"MZ":
        raise MeasurementError("not a PE image: it does not begin with `MZ`")
    start = unsigned(image, 0x3C, 4, "PE header offset")
    if piece(image, start, 4, "PE signature") != b"PE\0\0":
        raise MeasurementError("not a PE image: there is no `PE` signature where the DOS header points")
    count = unsigned(image, start + 6, 2, "PE section count")
    if count > _MAX_SECTIONS:
        raise MeasurementError(f"PE image has {count} sections, expected at most {_MAX_SECTIONS}")
    optional = start + 24
    optional_size = unsigned(image, start + 20, 2, "PE optional header size")
    magic = unsigned(image, optional, 2, "PE optional header")
    if magic not in (_MAGIC_PE32, _MAGIC_PE32_PLUS):
        raise MeasurementError(f"PE optional header has magic 0x{magic:04x}, expected 0x010b or 0x020b")
    wide = 16 if magic == _MAGIC_PE32_PLUS else 0
    directories = unsigned(image, optional + 92 + wide, 4, "PE data directories")
    security = optional + 96 + wide + 4 * 8
    table = optional + optional_size
    return Headers(
        machine=unsigned(image, start + 4, 2, "PE machine"),
        checksum_offset=optional + 64,
        directories=directories,
        security_entry_offset=security,
        security_size=unsigned(image, security + 4, 4, "PE security directory") if directories > 4 else 0,
        size_of_headers=unsigned(image, optional + 60, 4, "PE header size"),
        major_image_version=unsigned(image, optional + 44, 2, "PE image version"),
        sections=tuple(_section(image, table + 40 * number) for number in range(count)),
    )


def machine_name(machine: int) -> str:
    """A COFF machine's name, or its number when the name is not known."""
    return _MACHINES.get(machine, f"machine 0x{machine:04x}")


def _section(image: bytes, offset: int) -> Section:
    row = piece(image, offset, 40, "PE section header")
    name = row[:8].rstrip(b"\0").decode("latin-1")
    values = [int.from_bytes(row[at : at + 4], "little") for at in (8, 12, 16, 20)]
    return Section(name, *values)


def authenticode(image: bytes, algorithm: Literal["sha256", "sha384"] = "sha384") -> bytes:
    """The digest that firmware extends when it loads ``image``: edk2's order, gaps and tail.

    ``MeasurementError`` for a file that is not a PE image or is shorter than its headers say.
    """
    head = headers(image)
    hasher = hashlib.new(algorithm)
    after_checksum = head.checksum_offset + 4
    hasher.update(piece(image, 0, head.checksum_offset, "PE headers"))
    if head.directories <= 4:
        hasher.update(_between(image, after_checksum, head.size_of_headers))
    else:
        hasher.update(_between(image, after_checksum, head.security_entry_offset))
        hasher.update(_between(image, head.security_entry_offset + 8, head.size_of_headers))
    total = head.size_of_headers
    for section in sorted(head.sections, key=lambda one: one.raw_offset):
        if section.raw_size:
            hasher.update(piece(image, section.raw_offset, section.raw_size, f"PE section {section.name}"))
            total += section.raw_size
    if len(image) < total + head.security_size:
        raise MeasurementError(f"PE image has {len(image)} bytes, its headers promise {total + head.security_size}")
    hasher.update(image[total : len(image) - head.security_size])
    return hasher.digest()


# DigestInfo of SHA-256, as DER writes it: AlgorithmIdentifier with NULL, then the 32 bytes.
_INDIRECT_DATA = bytes.fromhex("060a2b060104018237020104")
_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


def signed_digest(image: bytes) -> bytes | None:
    """The SHA-256 that the image's signature covers (SpcIndirectDataContent); None for an unsigned image.

    It is what the signer's tool computed, so it shows whether ``authenticode`` computes the same; whose signature it
    is, and whether it is good, is not looked at. ``MeasurementError`` when the certificate table is not in the file.
    """
    head = headers(image)
    if head.directories <= 4 or not head.security_size:
        return None
    offset = unsigned(image, head.security_entry_offset, 4, "PE security directory")
    table = piece(image, offset, head.security_size, "PE certificate table")
    start = table.find(_SHA256, max(table.find(_INDIRECT_DATA), 0))
    if _INDIRECT_DATA not in table or start < 0:
        return None
    start += len(_SHA256)
    return table[start : start + 32] if start + 32 <= len(table) else None


def _between(image: bytes, start: int, end: int) -> bytes:
    return piece(image, start, end - start, "PE headers")


def in_memory(image: bytes, section: Section) -> bytes:
    """The section's bytes as the loader lays them out: VirtualSize bytes, cut or padded with zeros.

    ``MeasurementError`` when the file lacks them or the padding would exceed the file's own size.
    """
    if section.virtual_size > section.raw_size + len(image):
        raise MeasurementError(f"PE section {section.name}: VirtualSize {section.virtual_size} is not plausible")
    raw = piece(image, section.raw_offset, min(section.raw_size, section.virtual_size), f"PE section {section.name}")
    return raw if len(raw) == section.virtual_size else raw + bytes(section.virtual_size - len(raw))
