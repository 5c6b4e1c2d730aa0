"""Decide whether prompts may be sent upstream, from the last judgement, its age and the attested keys.

It fails closed: without a verdict, with an expired one that cannot be renewed, or with a refusal, nothing is sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from privml.base.errors import PrivmlError, Refused
from privml.client import attested
from privml.client.connection import AttestedConnection, Endpoint, endpoint
from privml.verify.judgement import AttestedKeys, Judgement
from privml.verify.verdict import Refusal, Verdict

log = logging.getLogger("privml")

Check = Callable[[bytes, bytes, bytes], Judgement]
"""(document, nonce, SHA-256 of the connection's key) -> judgement; may raise ``PrivmlError``."""

INTERVAL = 300.0
_RETRY = 2.0


@dataclass(frozen=True)
class Decision:
    """A decision of the gate, from a judgement or the ``error`` that prevented one."""

    made: float
    judgement: Judgement | None = None
    error: PrivmlError | None = None

    @property
    def keys(self) -> AttestedKeys | None:
        """The keys that prompts may be sent to; None if sending is refused."""
        return None if self.judgement is None else self.judgement.keys

    @property
    def open(self) -> bool:
        """True if prompts may be sent to ``keys``."""
        return self.keys is not None

    @property
    def verdict(self) -> Verdict | None:
        """The judgement's verdict, if there is one."""
        return None if self.judgement is None else self.judgement.verdict

    @property
    def message(self) -> str:
        """One sentence for the log and for the client."""
        if self.error is not None:
            return self.error.message
        assert self.verdict is not None
        word = f"{self.verdict.outcome.value}{self.verdict.relaxations}" if self.open else "refused"
        said = f"{word}: {self.verdict.name}"
        reasons = ", ".join(dict.fromkeys(refusal.code for refusal in self.refusals))
        return f"{said}, against {self.verdict.anchor}" + (f": {reasons}" if reasons else "")

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every reason of the verdict."""
        return () if self.verdict is None else self.verdict.refusals


class Gate:
    """Verifies ``upstream`` on demand if the last decision is older than ``interval`` seconds. Thread-safe.

    The gate is open if ``check`` accepts; only its policy decides whether a simulation is acceptable.
    """

    def __init__(
        self,
        upstream: str,
        check: Check,
        *,
        interval: float = INTERVAL,
        timeout: float = attested.TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstream: Endpoint = endpoint(upstream)
        self._check = check
        self._interval = interval
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Decision | None = None

    @property
    def last(self) -> Decision | None:
        """The newest decision, however old."""
        return self._last

    def decide(self, *, fresh: bool = False, not_keys: AttestedKeys | None = None) -> Decision:
        """The current decision; verifies first if there is none, it has expired, or ``fresh`` is requested.

        ``not_keys`` are keys that the upstream no longer has, so that a decision for them is invalid.
        """
        with self._lock:
            last = self._last
            if last is not None and not fresh and (not_keys is None or last.keys != not_keys):
                lifetime = self._interval if last.open else min(_RETRY, self._interval)
                if self._clock() - last.made < lifetime:
                    return last
            self._last = None  # after an unexpected error in verification, no old decision remains
            self._last = decision = self._verify()
            if last is None or last.message != decision.message:
                level = logging.INFO if decision.open else logging.WARNING
                log.log(level, "%s: %s", self.upstream.url, decision.message)
            return decision

    def connect(self, decision: Decision, *, timeout: float) -> AttestedConnection:
        """An open connection to the attested guest; ``Refused`` if the upstream has a different key now."""
        keys = decision.keys
        if keys is None:
            raise Refused(decision.message)
        connection = AttestedConnection(self.upstream, keys, timeout=timeout)
        connection.connect()
        return connection

    def _verify(self) -> Decision:
        nonce = attested.new_nonce()
        try:
            fetched = attested.fetch(self.upstream.url, nonce, self._timeout)
            judgement = self._check(fetched.document, nonce, fetched.tls_spki_sha256)
        except PrivmlError as error:
            return Decision(self._clock(), error=error)
        return Decision(self._clock(), judgement)
