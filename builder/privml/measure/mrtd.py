"""MRTD: the TDX module's record of the pages that the VMM adds before the TD runs.

One running SHA-384: for each added page ``MEM.PAGE.ADD`` and its address, for each measured 256-byte chunk
``MR.EXTEND``, its address and its contents. Source: Intel TDX module 1.5 src/vmm_dispatcher/api_calls
(tdh_mem_page_add.c, tdh_mr_extend.c); google/gce-tcb-verifier tdx/measurement.go.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from privml.measure.digest import piece
from privml.measure.tdvf import ATTRIBUTE_EXTEND, ATTRIBUTE_PAGE_AUG, PAGE, FirmwareSection, sections

PageOrder = Literal["single", "two"]

_ADD = b"MEM.PAGE.ADD".ljust(16, b"\0")
_EXTEND = b"MR.EXTEND".ljust(16, b"\0")
_CHUNK = 256


def mrtd(firmware: bytes, order: PageOrder = "single") -> bytes:
    """The 48-byte MRTD of a TD started with the unified ``firmware`` file.

    ``order`` is the VMM's: ``single`` adds and extends page by page (mainline KVM and QEMU), ``two`` adds all pages
    of a section and then extends them (Canonical's 8.2 and qemu-tdx trees). ``MeasurementError`` as ``sections``.
    """
    hasher = hashlib.sha384()
    for section in sections(firmware):
        if section.attributes & ATTRIBUTE_PAGE_AUG:
            continue
        pages = range(section.gpa, section.gpa + section.memory_size, PAGE)
        measured = bool(section.attributes & ATTRIBUTE_EXTEND)
        if order == "single":
            for gpa in pages:
                hasher.update(_record(_ADD, gpa))
                if measured:
                    _extend(hasher, firmware, section, gpa)
        else:
            for gpa in pages:
                hasher.update(_record(_ADD, gpa))
            for gpa in pages if measured else ():
                _extend(hasher, firmware, section, gpa)
    return hasher.digest()


def _extend(hasher: hashlib._Hash, firmware: bytes, section: FirmwareSection, gpa: int) -> None:
    page = piece(firmware, section.offset + gpa - section.gpa, PAGE, f"firmware section {section.type_name}")
    for start in range(0, PAGE, _CHUNK):
        hasher.update(_record(_EXTEND, gpa + start))
        hasher.update(page[start : start + _CHUNK])


def _record(tag: bytes, gpa: int) -> bytes:
    return tag + gpa.to_bytes(8, "little") + bytes(104)
