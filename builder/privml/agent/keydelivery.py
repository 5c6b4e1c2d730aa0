"""The server's side of key release: documents of a guest that waits for volume keys, and the releases for it.

Both paths are answered during stage `keys` only. The boot process answers one question at a time (`agent.keystage`),
checks everything itself, and alone can open what is sealed in a release. The server keeps strangers from occupying
it: at most one list, one quote and one release are outstanding, and it passes on only a release that a broker of the
measured configuration signed, and none that was refused before.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from privml.agent import wire
from privml.agent.answers import READING, Answer, Asked, Denied, expect_method, json_answer
from privml.agent.attestation import Attestation, Documents
from privml.agent.attestorclient import QUOTE_TIMEOUT, parts_of
from privml.agent.layout import Layout
from privml.agent.volumekeys import ALREADY, CODES, signed_release
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
"""Seconds between two releases that the boot process checks, and for which its list of keys is kept."""
BUSY_RETRY, EARLY_RETRY, CLOSED_RETRY = 1, 5, 60
"""Seconds after which to ask again: while another release is checked, before the stage, and after it."""
MAX_REFUSED = 256
"""Signed releases that are remembered because the boot process refused them: it always would."""
_WHAT = "boot process"
# For every question: one may wait for a quote that another caller asked for. One that is given up is not answered
# sooner, and what it does is not seen.
_TIMEOUT = QUOTE_TIMEOUT + 60.0


class KeyDelivery:
    """The answers at `PATHS`. Thread-safe; one release is passed on at a time, and at most one a second."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        attestation: Attestation,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encrypted = bool(config.encrypted)
        self._brokers = {broker.ed25519: broker for broker in config.brokers}
        self._socket = layout.release_socket
        self._attestation = attestation
        self._documents = Documents(self._quote)
        self._clock = clock
        self._verifying = threading.Lock()
        self._turn = threading.Lock()
        self._last = float("-inf")
        self._passed_on = 0
        self._refused: dict[bytes, tuple[int, str, str]] = {}
        self._asking = threading.Lock()
        # When it was given, how many releases had been passed on when it was asked for, and the answer.
        self._listed = (float("-inf"), 0, b"")

    def answer(self, asked: Asked, document: Callable[[Asked, Callable[[str], bytes]], Answer]) -> Answer:
        """The answer to a request at one of `PATHS`; ``document`` limits how many are made for an address."""
        if not self._encrypted:
            raise Denied(404, "no-keys", "no volume of this image is encrypted, so it waits for no key")
        expect_method(asked.method, ("POST",) if asked.path == RELEASE else READING, asked.path)
        self._must_wait_for_keys()
        if asked.path == RELEASE:
            return self._release(asked)
        asked.read(0)
        if asked.query:
            return document(asked, self._documents.document)
        return json_answer(200, self._wanted())

    def _wanted(self) -> bytes:
        """The list of the keys that are missing. It is kept for a moment, but not beyond a release."""
        if not self._asking.acquire(timeout=INTERVAL):
            raise Denied(503, "busy", "the boot process is busy", BUSY_RETRY)
        try:
            given, passed_on, answer = self._listed
            if passed_on != self._passed_on or self._clock() - given >= INTERVAL:
                passed_on = self._passed_on
                answer = canonical(self._ask({"op": "wanted"})) + b"\n"
                self._listed = self._clock(), passed_on, answer
            return answer
        finally:
            self._asking.release()

    def _release(self, asked: Asked) -> Answer:
        body = asked.read(MAX_RELEASE)
        name = self._verified(body)
        if not self._turn.acquire(blocking=False):
            raise Denied(503, "busy", "another release is being checked", BUSY_RETRY)
        try:
            if self._clock() - self._last < INTERVAL:
                raise Denied(429, "too-soon", f"one release is checked every {INTERVAL:g} s", BUSY_RETRY)
            with contextlib.ExitStack() as share:
                share.enter_context(asked.share())
                answer = json_answer(200, self._bring(body, name))
                return replace(answer, close=share.pop_all().close)
        finally:
            self._turn.release()

    def _verified(self, body: bytes) -> bytes:
        """A name of the release in ``body``, if a measured broker signed it and it was not refused before."""
        try:
            with self._verifying:
                release, _ = signed_release(body, self._brokers)
        except RefusedRequest as refused:
            raise _denied(refused) from refused
        name = hashlib.sha256(release.encode()).digest()
        if (before := self._refused.get(name)) is not None:
            raise Denied(*before)
        return name

    def _bring(self, body: bytes, name: bytes) -> bytes:
        """The boot process's answer to a release, by whoever has the turn."""
        try:
            found = self._ask({"op": "release", "release": b64(body)})
        except Denied as denied:
            if denied.code in CODES:
                self._refused[name] = denied.status, denied.code, denied.message
                while len(self._refused) > MAX_REFUSED:
                    del self._refused[next(iter(self._refused))]
            raise
        finally:
            self._passed_on += 1
        return canonical(found) + b"\n"

    def _quote(self, root: bytes) -> Mapping[str, Any]:
        return parts_of(self._passed({"op": "quote", "root": root.hex()}))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._passed(request)
        except RefusedRequest as refused:
            raise _denied(refused) from refused
        except PrivmlError as error:
            self._must_wait_for_keys()  # the stage may have ended meanwhile
            raise Denied(503, "unavailable", "the boot process does not answer", BUSY_RETRY) from error

    def _passed(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = wire.ask(self._socket, request, timeout=_TIMEOUT, what=_WHAT)
        if request["op"] == "release":
            self._last = self._clock()
        return wire.result_of(answer, _WHAT)

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


def _denied(refused: RefusedRequest) -> Denied:
    if refused.code not in CODES:
        return Denied(503, refused.code, refused.message, BUSY_RETRY)
    return Denied(409 if refused.code == ALREADY else 400, refused.code, refused.message)
