"""What this machine says about itself: its stages, whether it is ready, and attestation documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from privml.agent.answers import Denied
from privml.agent.attestor import AttestorClient, RefusedRequest
from privml.agent.batch import Busy, QuoteBatch
from privml.agent.layout import Layout
from privml.base.errors import EvidenceError, PrivmlError
from privml.base.strictjson import canonical, loads, unhex
from privml.events.stages import SERVE, STAGES
from privml.evidence.quotefault import FAULTS, QuoteFault

QUOTE_TIMEOUT = 120.0


class Attestation:
    """The stage table as last written by the boot process, and quotes by the attestor. Thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._stages_file = layout.stages
        self._attestor = AttestorClient(layout)
        self._quotes = QuoteBatch(self._quote)
        self._fault: QuoteFault | None = None

    def stages(self) -> tuple[bool, bytes]:
        """Readiness and the stage table, as last written by the boot process.

        While the last quote failed, the stage of the TEE is a warning that says why.
        """
        try:
            data = self._stages_file.read_bytes()
            value = loads(data, what="stages")
        except (OSError, EvidenceError):
            return False, b'{"format":"privml-stages/v1","ready":false,"stages":[]}\n'
        fault = self._fault
        if fault is not None:
            for row in value["stages"]:
                if row["name"] == STAGES[0].name:
                    row |= {"status": "warning", "detail": f"{row['detail']}; no quote: {fault}"}
            data = canonical(value) + b"\n"
        return isinstance(value, dict) and value.get("ready") is True, data

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
            raise Denied(503, refused.code, refused.message) from refused
        except Busy as busy:
            raise Denied(503, "busy", busy.message) from busy
        except PrivmlError as error:
            raise Denied(503, "unavailable", "attestation: the attestor does not answer") from error

    def _quote(self, root: bytes) -> Mapping[str, Any]:
        """Get a quote over ``root`` from the attestor, and note why if there is none."""
        try:
            parts = self._attestor.quote(root, SERVE, timeout=QUOTE_TIMEOUT)
        except RefusedRequest as refused:
            self._fault = FAULTS.get(refused.code)
            raise
        self._fault = None
        return parts
