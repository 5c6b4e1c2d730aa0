"""Callers' tokens on the caller's side: which guest gets which, and the clock of a guest that tokens are made for."""

from __future__ import annotations

import http.client
import logging
import ssl
import stat
from dataclasses import replace
from pathlib import Path
from typing import cast

from privml.base.errors import EvidenceError, HostError, Refused, UsageError, printable
from privml.base.files import read_start
from privml.channel import usage
from privml.channel.token import CLOCK_PATH, MAX_TEXT, Clock, guest_of, read_clock
from privml.channel.usage import Usage, read_usage
from privml.client.connection import GuestConnection, check_pin, endpoint, reason
from privml.client.gate import Decision
from privml.client.ways import Asked, Judged
from privml.evidence.sections import RECEIPT_KEY
from privml.verify.judgement import AttestedKeys

log = logging.getLogger("privml")

MAX_TOKENS = 64
_TIMEOUT = 30.0


class GuestTokens:
    """The tokens in a file, one a line, each shown only to the judged guest that it names. Used on one event loop.

    The file is read again when it changes, so whoever renews short-lived tokens replaces it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: dict[bytes, str] = {}
        self._turn = 0
        self._read()

    def present(self, asked: Asked, judged: Judged) -> tuple[Asked, Judged]:
        """The request with the token of a judged guest, and that guest alone; both as they are without a token.

        Of several guests that could answer, those that there are tokens for get requests in turn.
        """
        try:
            self._read()
        except (HostError, UsageError) as error:
            log.warning("%s; the tokens read before stay in use", error.message)
        found = [(one, token) for one in judged.decision.each if (token := self._of(one)) is not None]
        if not found:
            return asked, judged
        self._turn += len(found) > 1
        decision, token = found[self._turn % len(found)]
        return asked.adding((b"authorization", f"Bearer {token}".encode())), replace(judged, decision=decision)

    def _of(self, decision: Decision) -> str | None:
        keys = decision.keys
        return None if keys is None else self._tokens.get(keys.section_sha256)

    def _read(self) -> None:
        try:
            status = self._path.stat()
        except OSError as error:
            raise HostError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        seen = status.st_mtime_ns, status.st_ino, status.st_mode
        if seen == self._seen:
            return
        self._seen = seen
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise UsageError(f"{self._path}: others may read these tokens: got mode {mode:o}, expected 600")
        lines = read_start(self._path, MAX_TOKENS * (MAX_TEXT + 1)).decode("ascii", "replace").split()
        if not 1 <= len(lines) <= MAX_TOKENS:
            raise UsageError(f"{self._path}: {len(lines)} tokens, expected 1 to {MAX_TOKENS}, one a line")
        try:
            self._tokens = {guest_of(line): line for line in lines}
        except EvidenceError as error:
            raise UsageError(f"{self._path}: {error.message}", hint="`token issue` makes tokens") from error


def clock_of(url: str, keys: AttestedKeys) -> Clock:
    """The clock of the guest with the attested ``keys`` at ``url``; ``UsageError`` if it takes no tokens."""
    data = _get(url, keys, CLOCK_PATH, MAX_TEXT)
    return read_clock(data, receipt_key=_receipt_key(url, keys), keys_sha256=keys.section_sha256)


def usage_of(url: str, keys: AttestedKeys, token: str, since: int) -> Usage:
    """The usage lines of that guest from number ``since`` on; ``token`` is the issuer's own, for reading them."""
    data = _get(url, keys, f"{usage.PATH}?since={since}", usage.MAX_RECORD, token)
    found = read_usage(data, receipt_key=_receipt_key(url, keys), keys_sha256=keys.section_sha256)
    if found.next < since:
        raise Refused(
            f"{url}: usage ends at line {found.next}, expected {since} or more: the guest's server was started again",
            hint="ask from 0 on",
        )
    if found.lines and found.lines[0].seq != max(since, found.first):
        raise Refused(f"{url}: usage begins with line {found.lines[0].seq}, expected {max(since, found.first)}")
    return found


def _receipt_key(url: str, keys: AttestedKeys) -> bytes:
    found = keys.find(*RECEIPT_KEY)
    if found is None:
        raise UsageError(f"{url}: the guest has no receipt key, so it takes no tokens")
    return found


def _get(url: str, keys: AttestedKeys, path: str, limit: int, token: str | None = None) -> bytes:
    """The body of a 200 from the guest that has ``keys``; nothing is sent to another."""
    connection = GuestConnection(endpoint(url), timeout=_TIMEOUT)
    try:
        connection.connect()
        check_pin(cast(ssl.SSLSocket, connection.sock), keys)
        status, data = connection.get(path, limit, {} if token is None else {"Authorization": f"Bearer {token}"})
    except (OSError, http.client.HTTPException) as error:
        raise HostError(f"{url}: {printable(reason(error))[:300]}") from error
    finally:
        connection.close()
    if status == 404:
        raise UsageError(f"{url}: the guest takes no tokens", hint="its recipe needs `agent: {callers: tokens}`")
    if status == 401:
        raise UsageError(f"{url}: the guest takes no token of this key", hint="`agent.issuer` has the public part")
    if status != 200:
        raise Refused(f"{url}: got status {status} for {path.partition('?')[0]}, expected 200")
    return data
