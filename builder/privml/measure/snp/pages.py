"""The chain of pages that the platform's security processor measures when a guest is launched.

Each page that the VMM adds changes the launch digest to SHA-384 of a PAGE_INFO record: the digest before, the digest
of the page's contents (zero for pages without contents), its type and its guest-physical address. Source: AMD SEV-SNP
Firmware ABI Specification (56860), 8.17.2, PAGE_INFO.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from privml.base.errors import MeasurementError
from privml.events.registers import ZERO
from privml.measure.digest import sha384

PAGE = 4096
_SIZE = 0x70
# Type, IMI bit, permissions of VMPL 3 to 1, reserved; KVM sets none of the permissions.
_REST = struct.Struct("<HBBBBBBQ")


class PageType(IntEnum):
    """PAGE_INFO.PAGE_TYPE."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


def extend(before: bytes, kind: PageType, gpa: int, contents: bytes = ZERO) -> bytes:
    """The launch digest (48 bytes) after one page; ``contents`` is the SHA-384 of the page, if its type has any."""
    return sha384(before + contents + _REST.pack(_SIZE, kind, 0, 0, 0, 0, 0, gpa))


def extend_data(before: bytes, gpa: int, data: bytes) -> bytes:
    """The launch digest after the pages of ``data``, which start at ``gpa``."""
    _must_be_pages(gpa, len(data))
    for offset in range(0, len(data), PAGE):
        before = extend(before, PageType.NORMAL, gpa + offset, sha384(data[offset : offset + PAGE]))
    return before


def extend_empty(before: bytes, kind: PageType, gpa: int, size: int) -> bytes:
    """The launch digest after ``size`` bytes of pages of a type without contents."""
    _must_be_pages(gpa, size)
    for offset in range(0, size, PAGE):
        before = extend(before, kind, gpa + offset)
    return before


def _must_be_pages(gpa: int, size: int) -> None:
    if gpa % PAGE or size % PAGE:
        raise MeasurementError(f"launch digest: 0x{size:x} bytes at 0x{gpa:x} are no whole pages")
