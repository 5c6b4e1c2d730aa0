"""What this machine says about itself: its stages, whether it is ready, and attestation documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from privml.agent.answers import Denied
from privml.agent.attestorclient import AttestorClient
from privml.agent.batch import Busy, QuoteBatch
from privml.agent.layout import Layout
from privml.agent.wire import RefusedRequest
from privml.base.errors import EvidenceError, PrivmlError
from privml.base.strictjson import unhex
from privml.events import stagetable
from privml.events.stages import STAGES
from privml.events.stagetable import MAX_DETAIL, Row, StageTable
from privml.evidence.quotefault import FAULTS, QuoteFault

QUOTE_TIMEOUT = 120.0
_NO_TABLE = StageTable(False, ())
QUOTE_RETRY = 3
"""Seconds after which to ask again when there is no quote."""


class Documents:
    """Attestation documents over callers' nonces, of the parts that ``quote`` gives. Thread-safe."""

    def __init__(self, quote: Callable[[bytes], Mapping[str, Any]]) -> None:
        self._quotes = QuoteBatch(quote)

    def document(self, query: str) -> bytes:
        """The attestation document over the caller's nonce; `Denied` when there is none."""
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=4)
        except ValueError:
            pairs = []
        if [name for name, _ in pairs] != ["nonce"]:
            raise Denied(400, "nonce", "expected exactly `?nonce=` and 64 lower-case hex digits")
        try:
            nonce = unhex(pairs[0][1], 32, what="nonce")
        except EvidenceError as error:
            raise Denied(400, "nonce", error.message) from error
        try:
            return self._quotes.document(nonce, timeout=QUOTE_TIMEOUT).encode()
        except RefusedRequest as refused:
            raise Denied(503, refused.code, refused.message, QUOTE_RETRY) from refused
        except Busy as busy:
            raise Denied(503, "busy", busy.message, QUOTE_RETRY) from busy
        except PrivmlError as error:
            text = "attestation: the attestor does not answer"
            raise Denied(503, "unavailable", text, QUOTE_RETRY) from error


class Attestation:
    """The stage table as last written by the boot process, and quotes by the attestor. Thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._stages_file = layout.stages
        self._attestor = AttestorClient(layout)
        self.documents = Documents(self._quote)
        self._fault: QuoteFault | None = None
        # The version of the file that was read last. It is replaced as a whole, so a new one has another inode.
        self._seen: tuple[object, StageTable] = (None, _NO_TABLE)

    def stages(self) -> tuple[bool, bytes]:
        """Readiness and the stage table, as last written by the boot process.

        While the last quote failed, the stage of the TEE is a warning that says why.
        """
        table = self.table()
        fault = self._fault
        rows = tuple(row if fault is None or row.name != STAGES[0].name else _noted(row, fault) for row in table.rows)
        return table.ready, replace(table, rows=rows).encode()

    def table(self) -> StageTable:
        """The stage table as last written by the boot process; empty before, or if it cannot be read."""
        try:
            found = self._stages_file.stat()
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            seen, table = self._seen
            if version != seen:
                table = stagetable.decode(self._stages_file.read_bytes())
                self._seen = version, table
        except (OSError, EvidenceError):
            return _NO_TABLE
        return table

    def _quote(self, root: bytes) -> Mapping[str, Any]:
        """Get a quote over ``root`` from the attestor, and note why if there is none."""
        try:
            parts = self._attestor.quote(root, timeout=QUOTE_TIMEOUT)
        except RefusedRequest as refused:
            # Another refusal says nothing of the platform: what it last failed with stays.
            self._fault = FAULTS.get(refused.code, self._fault)
            raise
        self._fault = None
        return parts


def _noted(row: Row, fault: QuoteFault) -> Row:
    """The row of the TEE, with why there was no quote."""
    return replace(row, status="warning", detail=f"{row.detail}; no quote: {fault}"[:MAX_DETAIL])
