"""Linux interface of an SNP guest: reports and the host's certificates from configfs-tsm. It has no register.

Source of the table of certificates: AMD's GHCB specification (56421), SNP Extended Guest Request. The host writes it.
"""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from privml.base.errors import EvidenceError
from privml.events.replay import NoRegister
from privml.evidence import tsm
from privml.evidence.quotefault import QuoteFault
from privml.evidence.snp.collateral import CERTIFICATES
from privml.evidence.snp.report import SIZE
from privml.evidence.tsm import KernelFiles

PROVIDER = b"sev_guest"
MAX_CERTIFICATE = 16 * 1024
_ROW = 24
_MAX_ROWS = 32
_PLACES = (
    ("63da758d-e664-4564-adc5-f4b93be8accd", "a8074bc2-a25a-483e-aae6-39c045a0b8a1"),  # VCEK or VLEK
    ("4ab7b379-bbac-4fe4-a02f-05aef327c782",),  # the issuer
    ("c0b406a4-a803-4952-9743-3fb6014cd0ae",),  # the root
)
"""The places of a chain, and the kinds of certificates in the table that can be there."""


class SnpTee(NoRegister):
    """An AMD SEV-SNP guest on Linux >= 6.7.

    The agent's stages are in no register: only the report data covers its log. So an attestor that is started again
    cannot show what its predecessor extended.
    """

    name = "snp"
    kind = "snp"

    def __init__(
        self,
        *,
        reports: Path = tsm.REPORTS,
        files: KernelFiles | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reports = tsm.Reports(PROVIDER, SIZE - 1, extra=True, reports=reports, files=files, sleep=sleep)
        self._certificates: tuple[bytes, ...] = ()

    def absent(self) -> QuoteFault | None:
        """Why this is not an SNP guest; None if the kernel says that it is one. Only a verified report proves it."""
        return self._reports.absent()

    def quote(self, report_data: bytes) -> bytes:
        """A report over ``report_data`` (64 bytes)."""
        answer = self._reports.request(report_data)
        try:
            self._certificates = chain_in(answer.extra)
        except EvidenceError:
            self._certificates = ()  # the caller can get them elsewhere
        return answer.quote

    def boot_log(self) -> bytes:
        """Empty: nothing is measured after the launch."""
        return b""

    def collateral(self) -> dict[str, str] | None:
        """The certificates that the host gave with the last report; None if it gave none."""
        if not self._certificates:
            return None
        return {CERTIFICATES: "".join(map(ssl.DER_cert_to_PEM_cert, self._certificates))}


def chain_in(table: bytes) -> tuple[bytes, ...]:
    """The key's certificate, its issuer's and the root's (DER) in the host's table, as far as they are there.

    Empty without the first; ``EvidenceError`` for a malformed table.
    """
    found: dict[str, bytes] = {}
    for number in range(_MAX_ROWS if table else 0):
        row = table[number * _ROW : (number + 1) * _ROW]
        if len(row) < _ROW:
            raise EvidenceError("certificate table: it has no end")
        if not any(row):
            break
        start, size = (int.from_bytes(row[at : at + 4], "little") for at in (16, 20))
        if start + size > len(table) or size > MAX_CERTIFICATE:
            raise EvidenceError(f"certificate table: row {number} is outside the table or too large")
        found[str(uuid.UUID(bytes_le=row[:16]))] = table[start : start + size]
    chain = []
    for kinds in _PLACES:
        given = [found[kind] for kind in kinds if found.get(kind)]
        if len(given) != 1:
            break
        chain += given
    return tuple(chain)
