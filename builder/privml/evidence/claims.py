"""Records common to all TEEs: the claims of evidence, and the result of checking its signature.

``evidence/tdx/`` creates them from quotes, ``evidence/snp/`` from reports; `evidence.tees` selects the TEE's reader;
`verify` judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Claims:
    """The claims of a quote or report. They hold only if its signature is valid, which is recorded separately.

    ``registers`` holds every register of the TEE by name (`events.registers`), ``report_data`` the guest's 64 bytes,
    ``fields`` the other values by the TEE's own names (``td-attributes``, ``xfam``, ...). ``evidence_sha256`` (hex)
    is over the signed bytes and what follows them, without padding.
    """

    tee: str
    registers: Mapping[str, bytes]
    report_data: bytes
    fields: Mapping[str, bytes]
    evidence_sha256: str


@dataclass(frozen=True)
class Validity:
    """From when to when (Unix seconds) one part of the collateral is valid; ``name`` says which."""

    name: str
    issued: int
    expires: int


@dataclass(frozen=True, kw_only=True)
class SignatureFacts:
    """A signature and certificate chain that are valid at ``time`` (Unix seconds by the caller's clock).

    ``evidence_sha256`` (hex) says of which evidence, as in `Claims`. ``root_sha256`` (hex) is the digest of the root
    certificate's DER on which the chain ends. ``claims_simulated``: a certificate in the evidence says SIMULATED.
    Each TEE adds what its own chain proves.
    """

    evidence_sha256: str
    root_sha256: str
    time: int
    claims_simulated: bool = False


@dataclass(frozen=True)
class SignatureFailure:
    """A signature that could not be verified.

    ``code`` is the verdict's refusal code, ``reason`` says what was found and ``expected`` what was wanted.
    ``claims_simulated``: a certificate in the evidence says SIMULATED.
    """

    code: str
    reason: str
    expected: str
    claims_simulated: bool = False


Checked = SignatureFacts | SignatureFailure
"""The result of checking one signature."""
