"""The page with the hashes of kernel, initrd and command line, by which the firmware checks what it starts.

Source: QEMU target/i386/sev.c (build_kernel_loader_hashes), edk2 OvmfPkg/Library/BlobVerifierLibSevHashes.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass

from privml.measure.snp.pages import PAGE

_TABLE = uuid.UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
_CMDLINE = uuid.UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD = uuid.UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL = uuid.UUID("4de79437-abd2-427f-b835-d5b172d2045b")
_ENTRY = 50  # GUID, u16 length and SHA-256
_LENGTH = 18 + 3 * _ENTRY
_NO_INITRD, _NO_CMDLINE = (hashlib.sha256(data).digest() for data in (b"", b"\0"))
SIZE = 176
"""Bytes of the table with its padding."""


@dataclass(frozen=True)
class KernelHashes:
    """SHA-256 (32 bytes each) of what `-kernel`, `-initrd` and `-append` give.

    QEMU hashes a UKI as `-kernel` whole and unchanged, no initrd as no bytes, and the command line with a zero byte.
    """

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    @classmethod
    def of_uki(cls, sha256: bytes) -> KernelHashes:
        """A UKI with this SHA-256, without initrd and command line."""
        return cls(sha256, _NO_INITRD, _NO_CMDLINE)

    def __str__(self) -> str:
        """``kernel 63b8.., no initrd, no command line``, with whole digests."""
        parts = [f"kernel {self.kernel.hex()}"]
        for name, digest, none in (("initrd", self.initrd, _NO_INITRD), ("command line", self.cmdline, _NO_CMDLINE)):
            parts.append(f"no {name}" if digest == none else f"{name} {digest.hex()}")
        return ", ".join(parts)

    def table(self) -> bytes:
        """The table, padded to `SIZE`; the firmware takes the entries in this order."""
        found = _TABLE.bytes_le + struct.pack("<H", _LENGTH)
        for guid, digest in ((_CMDLINE, self.cmdline), (_INITRD, self.initrd), (_KERNEL, self.kernel)):
            if len(digest) != 32:
                raise ValueError("a SHA-256 has 32 bytes")
            found += guid.bytes_le + struct.pack("<H", _ENTRY) + digest
        return found.ljust(SIZE, b"\0")

    def page(self, gpa: int) -> bytes:
        """The page of the table at ``gpa``, with zeros around it."""
        offset = gpa % PAGE
        if offset + SIZE > PAGE:
            raise ValueError(f"a table at 0x{gpa:x} would cross the end of its page")
        return (bytes(offset) + self.table()).ljust(PAGE, b"\0")
