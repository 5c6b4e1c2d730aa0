"""What checking a quote's signature gives: facts, or the reason why there are none. Plain records, no library.

`evidence.signature` makes them; `verify` judges them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QuoteFacts:
    """A quote whose signature and chain are good at ``time`` (Unix seconds).

    ``quote_sha256`` (hex) says which one: it is over the quote without its padding.
    ``root_sha256`` (hex) is the digest of the root certificate's DER on which the chain ends. ``tcb_status`` is
    Intel's word (``UpToDate``, ``OutOfDate``, ...), merged over platform, module and quoting enclave;
    ``tcb_evaluation_number`` the lower one of TCB info and QE identity. ``fmspc`` (6 bytes), ``ppid`` (16 bytes) and
    ``platform_instance_id`` (16 bytes or None) identify the machine. ``collateral_issued`` (the newest part) and
    ``collateral_expires`` (the first part to expire) are Unix seconds. ``claims_simulated``: a certificate in the
    quote says SIMULATED.
    """

    quote_sha256: str
    root_sha256: str
    time: int
    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_number: int
    fmspc: bytes
    ppid: bytes
    platform_instance_id: bytes | None
    collateral_issued: int
    collateral_expires: int
    claims_simulated: bool = False


@dataclass(frozen=True)
class SignatureFailure:
    """A signature that could not be shown to be good.

    ``code`` is the verdict's refusal code, ``reason`` says what was found and ``expected`` what was wanted.
    ``claims_simulated``: a certificate in the quote says SIMULATED.
    """

    reason: str
    claims_simulated: bool = False
    code: str = "quote-signature"
    expected: str = "a quote that the QVL verifies"
