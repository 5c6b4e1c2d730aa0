"""Stage `keys` of a boot: wait until brokers released the key of every encrypted volume.

The boot process listens on a socket for the server, which takes documents out to couriers and releases in. The socket
exists only during the stage. A release that is refused changes nothing, and there is no time limit: whoever does not
release a key keeps the machine from becoming ready, and no clock of the guest is to be trusted.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any

from privml.agent import wire
from privml.agent.attestorclient import parts_of
from privml.agent.layout import Layout
from privml.agent.volumekeys import VolumeKeys, Wanted
from privml.base.strictjson import Fields
from privml.channel.release import MAX_RELEASE
from privml.evidence.report_data import compute


class KeyStage:
    """The stage's socket. ``quote`` gives document parts for `key-release` as JSON (`AttestorLink.release_quote`)."""

    def __init__(self, layout: Layout, keys: VolumeKeys, quote: Callable[[bytes], dict[str, Any]]) -> None:
        self._layout = layout
        self._keys = keys
        self._quote = quote

    def run(self, check: Callable[[], None], interval: float, waits: Callable[[str], None]) -> None:
        """Serve one caller at a time until no key is missing; then the socket is gone.

        ``check`` is called every ``interval`` seconds, and its error ends the stage. ``waits`` is called with what is
        missing, at the start and after each release.
        """
        layout = self._layout
        listener = wire.listen(layout.release_socket, mode=0o660, group=layout.server_id)
        try:
            due = time.monotonic() + interval
            shown: tuple[Wanted, ...] = ()
            while missing := self._keys.missing:
                if missing != shown:
                    shown = missing
                    waits("; ".join(map(str, missing)))
                if _has_caller(listener, max(0.0, due - time.monotonic())):
                    connection, _ = listener.accept()
                    wire.converse(connection, (layout.root_id, layout.server_id), self._answer)
                if time.monotonic() >= due:
                    check()
                    due = time.monotonic() + interval
        finally:
            layout.release_socket.unlink(missing_ok=True)
            listener.close()

    def _answer(self, value: object) -> dict[str, Any]:
        request = Fields(value, "request")
        op = request.text("op", one_of=("wanted", "quote", "release"))
        root = request.hexadecimal("root", 32) if op == "quote" else b""
        body = request.base64("release", limit=MAX_RELEASE) if op == "release" else b""
        request.end()
        if op == "wanted":
            return {"wanted": [wanted.to_dict() for wanted in self._keys.missing]}
        if op == "quote":
            return self._quoted(root)
        return self._released(body)

    def _quoted(self, root: bytes) -> dict[str, Any]:
        found = self._quote(root)
        parts = parts_of(found)
        covered = {name: parts[name] for name in ("header", "keys", "devices", "eventlog")}
        self._keys.quoted(compute(root=root, **covered))
        return found

    def _released(self, body: bytes) -> dict[str, Any]:
        released = self._keys.accept(body)
        names = [{"resource": each.crypt.resource, "generation": each.crypt.generation} for each in released]
        missing = [
            {"broker": each.broker.name, "resource": each.crypt.resource, "generation": each.crypt.generation}
            for each in self._keys.missing
        ]
        return {"released": names, "missing": missing}


def _has_caller(listener: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
