"""A small EFI program that says a word on the serial port, in place of programs that a host starts."""

from __future__ import annotations

import struct

_CODE_AT, _FILE_AT, _SIZE = 0x1000, 0x200, 0x1000
_SAY = "66ba f803 ee"  # mov dx, 0x3f8; out dx, al
_RESET = "66ba f90c b00e ee f4 ebfd"  # mov dx, 0xcf9; mov al, 0xe; out dx, al; hlt; jmp to hlt
_RETURN = "31c0 c3"  # xor eax, eax; ret


def program(word: str, *, returns: bool = False) -> bytes:
    """An x86-64 EFI program that writes ``word`` and a newline to COM1, then resets the machine or ``returns``."""
    code = b"".join(b"\xb0" + bytes([byte]) + bytes.fromhex(_SAY) for byte in f"{word}\n".encode())
    code += bytes.fromhex(_RETURN if returns else _RESET)
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, _SIZE - _FILE_AT, 0, 0, _CODE_AT, _CODE_AT)
    optional += struct.pack("<QIIHHHHHHIIIIHHQQQQII", 0x140000000, 0x1000, 0x200, *[0] * 6, 0,
                            _CODE_AT + 0x1000, _FILE_AT, 0, 10, 0x100, *[0] * 4, 0, 16)  # fmt: skip
    section = struct.pack(
        "<8sIIIIIIHHI", b".text", 0x1000, _CODE_AT, _SIZE - _FILE_AT, _FILE_AT, 0, 0, 0, 0, 0x60000020
    )
    header = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0" + coff + optional.ljust(240, b"\0") + section
    return (header.ljust(_FILE_AT, b"\0") + code).ljust(_SIZE, b"\0")


def option_rom(image: bytes) -> bytes:
    """A PCI expansion ROM with ``image``, uncompressed (UEFI 2.10 section 14.4.2, PCI Firmware 3.3 section 5.1.2)."""
    at = 0x40
    size = -(-(at + len(image)) // 512)
    header = struct.pack("<HHIHHH8xHH", 0xAA55, size, 0x0EF1, 0x0B, 0x8664, 0, at, 0x1C)
    data = bytes(2) + struct.pack("<4sHHHHBBBBHHBBH", b"PCIR", 0x1AF4, 0x1041, 0, 24, 3, 0, 0, 2, size, 0, 3, 0x80, 0)
    return ((header + data).ljust(at, b"\0") + image).ljust(size * 512, b"\0")
