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
_REST = bytes(104)  # of a record of 128 bytes, behind its tag and address
_CHUNK = 256


def mrtd(firmware: bytes, order: PageOrder = "single") -> bytes:
    """The 48-byte MRTD of a TD started with the unified ``firmware`` file.

    ``order`` is the VMM's: ``single`` adds and extends page by page (mainline KVM and QEMU), ``two`` adds all pages
    of a section and then extends them (Canonical's 8.2 and qemu-tdx trees). ``MeasurementError`` as ``sections``.
    """
    return both(firmware)[order]


def both(firmware: bytes) -> dict[PageOrder, bytes]:
    """``mrtd`` in both orders: they hash the same records, which are made once."""
    single, two = hashlib.sha384(), hashlib.sha384()
    for section in sections(firmware):
        if section.attributes & ATTRIBUTE_PAGE_AUG:
            continue
        extends: list[bytes] = []
        for gpa in range(section.gpa, section.gpa + section.memory_size, PAGE):
            added = _ADD + gpa.to_bytes(8, "little") + _REST
            single.update(added)
            two.update(added)
            if section.attributes & ATTRIBUTE_EXTEND:
                extends.append(_extends(firmware, section, gpa))
                single.update(extends[-1])
        two.update(b"".join(extends))
    return {"single": single.digest(), "two": two.digest()}


def _extends(firmware: bytes, section: FirmwareSection, gpa: int) -> bytes:
    """The records of one measured page, each with its chunk."""
    page = piece(firmware, section.offset + gpa - section.gpa, PAGE, f"firmware section {section.type_name}")
    return b"".join(
        part
        for start in range(0, PAGE, _CHUNK)
        for part in (_EXTEND, (gpa + start).to_bytes(8, "little"), _REST, page[start : start + _CHUNK])
    )
