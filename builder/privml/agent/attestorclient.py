"""Client of the attestor's sockets, for the other processes of the agent."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from privml.agent import wire
from privml.agent.layout import Layout
from privml.agent.wire import RefusedRequest
from privml.base.errors import HostError
from privml.base.strictjson import Fields, b64
from privml.events.agent import AgentEvent
from privml.evidence.document import device_evidence

_TIMEOUT = 10.0
_DRIVE_TIMEOUT = 60.0
QUOTE_TIMEOUT = 180.0
"""Seconds for which the boot process waits for a quote."""


class AttestorClient:
    """Client of the attestor's sockets, for the other processes of the agent."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def platform(self) -> tuple[str, str]:
        """Name of the TEE, and why there is none; ``HostError`` until the attestor is listening."""
        answer = Fields(self._drive({"op": "platform"}), "platform")
        found = answer.text("tee"), answer.text("why", limit=1000)
        answer.end()
        return found

    def keys(self, section: bytes) -> None:
        """Send the keys section (once)."""
        self._drive({"op": "keys", "keys": b64(section)})

    def stage(self, name: str) -> None:
        """Go to the next stage of the table; once the last stage is complete the stage socket is removed."""
        self._drive({"op": "stage", "stage": name})

    def extend(self, event: AgentEvent) -> None:
        """Extend one event of the current stage."""
        self._drive({"op": "extend", "name": event.name, "payload": b64(event.payload)})

    def watch(self) -> int:
        """Suspend quotes, and return a pidfd of the attestor, readable once it has exited."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            try:
                connection.connect(str(self._layout.control_socket))
                found = os.pidfd_open(wire.peer(connection)[0])
            except OSError as error:
                raise HostError(f"attestor: {error.strerror or error}") from error
            try:
                # Its answer comes after the pidfd was made: the number was not another process's by then.
                wire.send(connection, {"op": "suspend"})
                _answer_of(wire.receive(connection, limit=wire.MAX_REQUEST, timeout=_TIMEOUT))
            except BaseException:
                os.close(found)
                raise
            return found

    def suspend(self) -> None:
        """Suspend quotes."""
        self._ask(self._layout.control_socket, {"op": "suspend"}, timeout=_TIMEOUT)

    def resume(self) -> None:
        """Let quotes be given again; ``RefusedRequest`` if the machine has failed."""
        # It waits for a quote that is being made.
        self._ask(self._layout.control_socket, {"op": "resume"}, timeout=QUOTE_TIMEOUT)

    def quote(self, root: bytes, *, timeout: float) -> dict[str, Any]:
        """Document parts over ``root`` for `serve`; raises ``RefusedRequest`` with the attestor's code."""
        return parts_of(self._ask(self._layout.quote_socket, {"op": "quote", "root": root.hex()}, timeout=timeout))

    def release_quote(self, root: bytes) -> dict[str, Any]:
        """Document parts over ``root`` for `key-release`, as JSON (`parts_of`)."""
        return self._ask(
            self._layout.stage_socket, {"op": "release_quote", "root": root.hex()}, timeout=QUOTE_TIMEOUT
        )

    def _drive(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._ask(self._layout.stage_socket, request, timeout=_DRIVE_TIMEOUT)

    def _ask(self, path: Path, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        return _answer_of(wire.ask(path, request, timeout=timeout))


def _answer_of(value: object) -> dict[str, Any]:
    """What the attestor answered; ``RefusedRequest`` if it refused."""
    try:
        return wire.result_of(value, "attestor")
    except RefusedRequest as refused:
        raise RefusedRequest(refused.code, f"attestor: {refused.message}") from refused


def parts_of(value: object) -> dict[str, Any]:
    """The parts of a document in the attestor's answer to a question for a quote."""
    fields = Fields(value, "quote")
    names = ("header", "keys", "devices", "eventlog", "bootlog", "evidence")
    parts: dict[str, Any] = {name: fields.base64(name) for name in names}
    parts["device_evidence"] = device_evidence(fields)
    parts["collateral"] = fields.take("collateral")
    fields.end()
    return parts
