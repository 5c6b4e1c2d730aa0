"""Whether prompts may go upstream now: the last verdict, its age, and the key they must go to.

Fail closed: no verdict, an old verdict that cannot be renewed, and any answer but an accepted one all mean no.
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
from privml.verify.verdict import CODES, Outcome, Refusal, Verdict

log = logging.getLogger("privml")

Check = Callable[[bytes, bytes, bytes], Verdict]
"""(document, nonce, SHA-256 of the connection's key) -> verdict; may raise ``PrivmlError``."""

INTERVAL = 300.0
_RETRY = 2.0


@dataclass(frozen=True)
class Decision:
    """One answer of the gate. Open only with a ``key`` (32 bytes); else ``verdict`` or ``error`` says why not."""

    made: float
    key: bytes | None = None
    verdict: Verdict | None = None
    error: PrivmlError | None = None

    @property
    def open(self) -> bool:
        """True when prompts may go to ``key``."""
        return self.key is not None

    @property
    def message(self) -> str:
        """One sentence for the log and for the client."""
        if self.error is not None:
            return self.error.message
        assert self.verdict is not None
        if self.open:
            return f"{self.verdict.outcome.value}: {self.verdict.name}, against {self.verdict.anchor}"
        reasons = ", ".join(dict.fromkeys(refusal.code for refusal in self.refusals))
        return f"refused: {self.verdict.name}, against {self.verdict.anchor}: {reasons}"

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every reason, also the gate's own."""
        if self.verdict is None or self.open:
            return ()
        if self.verdict.outcome is Outcome.ACCEPTED_SIMULATED:
            return (Refusal("simulated", CODES["simulated"], "genuine hardware"),)
        return self.verdict.refusals


class Gate:
    """Verifies ``upstream`` when asked and the last answer is older than ``interval`` seconds. Thread-safe.

    ``allow_simulated`` lets accepted-simulated pass; only a caller who named a simulated root may set it.
    """

    def __init__(
        self,
        upstream: str,
        check: Check,
        *,
        interval: float = INTERVAL,
        allow_simulated: bool = False,
        timeout: float = attested.TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstream: Endpoint = endpoint(upstream)
        self._check = check
        self._interval = interval
        self._allow_simulated = allow_simulated
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Decision | None = None

    @property
    def last(self) -> Decision | None:
        """The newest decision, however old."""
        return self._last

    def decide(self, *, fresh: bool = False, not_key: bytes | None = None) -> Decision:
        """The decision that holds now, verifying first when there is none, it is old, or ``fresh`` is asked for.

        ``not_key`` names a key that the upstream no longer has: a decision for it does not hold any more.
        """
        with self._lock:
            last = self._last
            if last is not None and not fresh and (not_key is None or last.key != not_key):
                lifetime = self._interval if last.open else min(_RETRY, self._interval)
                if self._clock() - last.made < lifetime:
                    return last
            self._last = None  # should verification end in an unforeseen error, nothing old is left to rely on
            self._last = decision = self._verify()
            if last is None or last.message != decision.message:
                level = logging.INFO if decision.open else logging.WARNING
                log.log(level, "%s: %s", self.upstream.url, decision.message)
            return decision

    def connect(self, decision: Decision, *, timeout: float) -> AttestedConnection:
        """An open connection to the attested key; ``Refused`` when the upstream has another key now."""
        if decision.key is None:
            raise Refused(decision.message)
        connection = AttestedConnection(self.upstream, spki_sha256=decision.key, timeout=timeout)
        connection.connect()
        return connection

    def _verify(self) -> Decision:
        nonce = attested.new_nonce()
        try:
            fetched = attested.fetch(self.upstream.url, nonce, self._timeout)
            verdict = self._check(fetched.document, nonce, fetched.tls_spki_sha256)
        except PrivmlError as error:
            return Decision(self._clock(), error=error)
        accepted = verdict.accepted or (verdict.outcome is Outcome.ACCEPTED_SIMULATED and self._allow_simulated)
        return Decision(self._clock(), key=fetched.tls_spki_sha256 if accepted else None, verdict=verdict)
