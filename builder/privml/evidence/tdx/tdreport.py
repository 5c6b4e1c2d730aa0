"""TDREPORT: the TDX module's report before a quoting enclave signs it. It proves nothing outside its machine.

Layout: Intel TDX module 1.5 ABI, TDREPORT_STRUCT: REPORTMACSTRUCT (256 bytes), TEE_TCB_INFO (239), 17 reserved,
TDINFO_STRUCT (512). The first has SHA-384 digests of the other two, which are checked to reject other data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from privml.base.errors import EvidenceError

SIZE = 1024
_TYPE_TDX = 0x81
_TCB_INFO = slice(256, 495)
_TD_INFO = slice(512, 1024)


@dataclass(frozen=True)
class TdReport:
    """Measurements have 48 bytes, ``td_attributes`` and ``xfam`` 8, ``report_data`` 64; ``rtmrs`` are RTMR0..3."""

    report_data: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]


def parse(data: bytes) -> TdReport:
    """Read a TDREPORT; ``EvidenceError`` for a wrong size, type or digest."""
    if len(data) != SIZE:
        raise EvidenceError(f"TDREPORT: {len(data)} bytes, expected {SIZE}")
    if data[0] != _TYPE_TDX:
        raise EvidenceError(f"TDREPORT: type {data[0]:#x}, expected {_TYPE_TDX:#x} (TDX)")
    for name, where, at in (("TEE_TCB_INFO", _TCB_INFO, 32), ("TDINFO", _TD_INFO, 80)):
        if hashlib.sha384(data[where]).digest() != data[at : at + 48]:
            raise EvidenceError(f"TDREPORT: the digest of its {name} does not match: not a report of a TDX module")
    info = data[_TD_INFO]
    rtmr0, rtmr1, rtmr2, rtmr3 = (info[at : at + 48] for at in range(208, 400, 48))
    return TdReport(
        report_data=data[128:192],
        td_attributes=info[:8],
        xfam=info[8:16],
        mr_td=info[16:64],
        mr_config_id=info[64:112],
        mr_owner=info[112:160],
        mr_owner_config=info[160:208],
        rtmrs=(rtmr0, rtmr1, rtmr2, rtmr3),
    )
