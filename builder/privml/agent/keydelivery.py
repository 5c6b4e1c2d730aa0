"""The server's side of key release: documents of a guest that waits for volume keys, and the releases for it.

Both paths are answered during stage `keys` only. The server passes on what it gets: the boot process checks it
(`agent.keystage`), and what is sealed in a release can be opened by that process alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from privml.agent import wire
from privml.agent.answers import Answer, Asked, Denied, json_answer
from privml.agent.attestation import QUOTE_TIMEOUT, Attestation, Documents
from privml.agent.attestorclient import parts_of
from privml.agent.layout import Layout
from privml.agent.volumekeys import ALREADY, CODES
from privml.agent.wire import RefusedRequest
from privml.base.errors import PrivmlError
from privml.base.strictjson import b64, canonical
from privml.channel.release import MAX_RELEASE
from privml.events.configuration import Config
from privml.events.stages import KEY_RELEASE, STAGE_OF

REQUEST = "/.well-known/privml-key-request"
RELEASE = "/.well-known/privml-key-release"
PATHS = (REQUEST, RELEASE)
INTERVAL = 1.0
"""Seconds between two releases that are checked."""
BUSY_RETRY, EARLY_RETRY, CLOSED_RETRY = 1, 5, 60
"""Seconds after which to ask again: while another release is checked, before the stage, and after it."""
_WHAT = "boot process"
_TIMEOUT = 30.0


class KeyDelivery:
    """The answers at `PATHS`. Thread-safe; one release is checked at a time, and at most one a second."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        attestation: Attestation,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encrypted = bool(config.encrypted)
        self._socket = layout.release_socket
        self._attestation = attestation
        self._documents = Documents(self._quote)
        self._clock = clock
        self._turn = threading.Lock()
        self._last = float("-inf")

    def answer(self, asked: Asked, document: Callable[[Asked, Callable[[str], bytes]], Answer]) -> Answer:
        """The answer to a request at one of `PATHS`; ``document`` limits how many are made for an address."""
        if not self._encrypted:
            raise Denied(404, "no-keys", "this image has no encrypted model, so it waits for no key")
        methods = ("POST",) if asked.path == RELEASE else ("GET", "HEAD")
        if asked.method not in methods:
            raise Denied(405, "method", f"{asked.path} expects {methods[0]}")
        self._must_wait_for_keys()
        if asked.path == RELEASE:
            return self._release(asked)
        asked.read(0)
        if asked.query:
            return document(asked, self._documents.document)
        return json_answer(200, canonical(self._ask({"op": "wanted"})) + b"\n")

    def _release(self, asked: Asked) -> Answer:
        body = asked.read(MAX_RELEASE)
        if not self._turn.acquire(blocking=False):
            raise Denied(503, "busy", "another release is being checked", BUSY_RETRY)
        try:
            now = self._clock()
            if now - self._last < INTERVAL:
                raise Denied(429, "too-soon", f"one release is checked every {INTERVAL:g} s", BUSY_RETRY)
            self._last = now
            return json_answer(200, canonical(self._ask({"op": "release", "release": b64(body)})) + b"\n")
        finally:
            self._turn.release()

    def _quote(self, root: bytes) -> Mapping[str, Any]:
        return parts_of(self._passed({"op": "quote", "root": root.hex()}, QUOTE_TIMEOUT))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._passed(request, _TIMEOUT)
        except RefusedRequest as refused:
            if refused.code not in CODES:
                raise Denied(503, refused.code, refused.message, BUSY_RETRY) from refused
            raise Denied(409 if refused.code == ALREADY else 400, refused.code, refused.message) from refused
        except PrivmlError as error:
            self._must_wait_for_keys()  # the stage may have ended meanwhile
            raise Denied(503, "unavailable", "the boot process does not answer", BUSY_RETRY) from error

    def _passed(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        return wire.result_of(wire.ask(self._socket, request, timeout=timeout, what=_WHAT), _WHAT)

    def _must_wait_for_keys(self) -> None:
        """`Denied` unless the boot is at the stage of key release."""
        table = self._attestation.table()
        name = STAGE_OF[KEY_RELEASE]
        status = next((row.status for row in table.rows if row.name == name), "pending")
        if table.parked is not None:
            text = f"this boot failed in stage {table.parked.name}; it takes no keys"
            raise Denied(503, "keys-closed", text, CLOSED_RETRY)
        if status == "pending":
            raise Denied(503, "keys-not-yet", f"this machine has not reached stage {name}", EARLY_RETRY)
        if status != "running":
            raise Denied(503, "keys-closed", f"stage {name} has ended: this boot has its keys", CLOSED_RETRY)
