"""What checking a quote's signature gives beyond the neutral facts. A plain record, no library.

`evidence.tdx.signature` makes it; `verify.tdx` judges it.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.evidence.claims import SignatureFacts


@dataclass(frozen=True, kw_only=True)
class QuoteFacts(SignatureFacts):
    """A quote whose signature and chain are good.

    ``tcb_status`` is Intel's word (``UpToDate``, ``OutOfDate``, ...), merged over platform, module and quoting
    enclave; ``tcb_evaluation_number`` the lower one of TCB info and QE identity. ``fmspc`` (6 bytes), ``ppid`` (16
    bytes) and ``platform_instance_id`` (16 bytes or None) identify the machine. ``collateral_issued`` (the newest
    part) and ``collateral_expires`` (the first part to expire) are Unix seconds.
    """

    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_number: int
    fmspc: bytes
    ppid: bytes
    platform_instance_id: bytes | None
    collateral_issued: int
    collateral_expires: int
