"""Decide whether prompts may be sent upstream, from the last judgement, its age and the attested keys.

It fails closed: without a judgement, or after a refusal, nothing is sent. An accepted judgement stays in force while
the next one is made, because the guest's key is still the attested one; it ends at its maximum age, when the upstream
has another key, or with a refusal (ADR 0056). One verification runs at a time, and no caller waits for that of
another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from privml.base.errors import EvidenceError, HostError, PrivmlError, Refused
from privml.client import attested
from privml.client.connection import Endpoint, endpoint
from privml.verify.judgement import AttestedKeys, Judgement
from privml.verify.verdict import Refusal, Verdict

log = logging.getLogger("privml")

Check = Callable[[bytes, bytes, bytes], Judgement]
"""(document, nonce, SHA-256 of the connection's key) -> judgement; may raise ``PrivmlError``."""

INTERVAL = 300.0
MAX_AGE = 600.0
_RETRY = 2.0


@dataclass(frozen=True)
class Decision:
    """A decision of the gate, from a judgement or the ``error`` that prevented one.

    ``made`` is the gate's time at which the verification began, so that no age is underestimated.
    """

    made: float
    judgement: Judgement | None = None
    error: PrivmlError | None = None

    @property
    def keys(self) -> AttestedKeys | None:
        """The keys that prompts may be sent to; None if sending is refused."""
        return None if self.judgement is None else self.judgement.keys

    @property
    def each(self) -> tuple[Decision, ...]:
        """The decisions about single guests that this one consists of."""
        return (self,)

    @property
    def open(self) -> bool:
        """True if prompts may be sent to ``keys``."""
        return self.keys is not None

    @property
    def unavailable(self) -> bool:
        """True if there is no judgement because no document was obtained: neither accepted nor refused."""
        return self.error is not None and not isinstance(self.error, EvidenceError | Refused)

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
        return f"{said}, against {self.verdict.anchor}{self.verdict.bound}" + (f": {reasons}" if reasons else "")

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every reason of the verdict."""
        return () if self.verdict is None else self.verdict.refusals


class Gate:
    """Verifies ``upstream`` on demand. Thread-safe; no caller waits for another caller's verification.

    The gate is open if ``check`` accepts; only its policy decides whether a simulation is acceptable. A judgement
    older than ``interval`` seconds is renewed, and one older than ``max_age`` is not used.
    """

    def __init__(
        self,
        upstream: str,
        check: Check,
        *,
        interval: float = INTERVAL,
        max_age: float = MAX_AGE,
        timeout: float = attested.TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstream: Endpoint = endpoint(upstream)
        self.interval = min(interval, max_age)
        self._check = check
        self._max_age = max_age
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()  # of the fields below; never held while verifying
        self._good: Decision | None = None
        self._newest: Decision | None = None
        self._ended = float("-inf")
        self._verifying = False
        self._watchers: list[Callable[[Decision], None]] = []

    @property
    def last(self) -> Decision | None:
        """The decision in force: the accepted one if it is not too old, else the newest, or None."""
        with self._lock:
            return self._in_force()

    def age(self, decision: Decision) -> float:
        """Seconds since the verification of ``decision`` began."""
        return self._clock() - decision.made

    def decide(self, *, fresh: bool = False, not_keys: AttestedKeys | None = None) -> Decision:
        """The decision in force. Verifies first if there is none that can be used, or ``fresh`` is requested.

        If a verification is already running and no accepted judgement can be used, the decision is ``unavailable``.
        ``not_keys`` are keys that the upstream no longer has, so that a judgement of them is not used again.
        """
        if not_keys is not None:
            self.forget(not_keys)
        return self._at_once(fresh=fresh, begin=True) or self._verify()

    def at_once(self) -> Decision | None:
        """What `decide` returns, or None if the caller would have to wait for a verification. Never waits."""
        return self._at_once(fresh=False, begin=False)

    def renew(self) -> None:
        """Verify in the background, unless that is being done or was done a moment ago."""
        with self._lock:
            if self._verifying or (self._in_force() is not None and not self._rested()):
                return
            self._verifying = True
        self._in_background()

    def forget(self, keys: AttestedKeys) -> None:
        """The upstream no longer has ``keys``: a judgement of them is not used again."""
        with self._lock:
            if self._good is not None and self._good.keys == keys:
                self._good = None

    def watch(self, settled: Callable[[Decision], None]) -> None:
        """Call ``settled`` with the decision in force after each verification, in the thread that verified."""
        self._watchers.append(settled)

    def _at_once(self, *, fresh: bool, begin: bool) -> Decision | None:
        """None if the caller is to verify; ``begin`` says that it will."""
        with self._lock:
            found, now = self._in_force(), self._clock()
            if self._verifying:
                return found or Decision(now, error=HostError(f"{self.upstream.url} is being verified; ask again"))
            recent = found is not None and (not self._rested() or (found.open and now - found.made < self.interval))
            if found is not None and recent and not fresh:
                return found
            background = found is not None and found.open and not fresh
            self._verifying = background or begin
        if not background:
            return None
        self._in_background()
        return found

    def _rested(self) -> bool:
        return self._clock() - self._ended >= min(_RETRY, self.interval)

    def _in_background(self) -> None:
        threading.Thread(target=self._renew, name="privml-verify", daemon=True).start()

    def _in_force(self) -> Decision | None:
        good, newest = self._good, self._newest
        if good is not None and self._clock() - good.made < self._max_age:
            return good
        # An open decision that is not in force any more is too old, or of other keys.
        return None if newest is None or newest.open else newest

    def _renew(self) -> None:
        try:
            self._verify()
        except Exception:
            log.exception("%s: cannot be verified", self.upstream.url)

    def _verify(self) -> Decision:
        decision: Decision | None = None
        try:
            decision = self._judge()
        finally:
            with self._lock:
                self._verifying = False
                self._ended = self._clock()
                before, self._newest = self._newest, decision
                # After an unexpected error (None) and a refusal, no accepted judgement remains.
                if decision is None or decision.open or not decision.unavailable:
                    self._good = decision if decision is not None and decision.open else None
                found = self._in_force()
            settled = found or Decision(self._ended, error=HostError(f"{self.upstream.url} is not verified"))
            for watcher in self._watchers:
                watcher(settled)
        if before is None or before.message != decision.message:
            kept = " (the last accepted judgement stays in force)" if found is not decision and found else ""
            level = logging.INFO if decision.open else logging.WARNING
            log.log(level, "%s: %s%s", self.upstream.url, decision.message, kept)
        late = HostError(f"{self.upstream.url}: verification took longer than a judgement may be old")
        return found or Decision(self._ended, error=late)

    def _judge(self) -> Decision:
        began = self._clock()
        nonce = attested.new_nonce()
        try:
            fetched = attested.fetch(self.upstream.url, nonce, self._timeout)
            judgement = self._check(fetched.document, nonce, fetched.tls_spki_sha256)
        except PrivmlError as error:
            return Decision(began, error=error)
        return Decision(began, judgement)
