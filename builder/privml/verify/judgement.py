"""A verdict with what it proved: the guest's keys exist as an object only in a judgement that is not a refusal.

Whoever sends a prompt needs `AttestedKeys`, so nothing can be sent to a guest that was not judged and accepted.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass

from privml.evidence.facts import Facts
from privml.evidence.sections import KEY_SIZES, TLS_KEY, Keys
from privml.verify.verdict import Outcome, Verdict

_JUDGED = object()


@dataclass(frozen=True)
class AttestedKeys:
    """The public keys of an accepted guest. Only `Judgement.keys` makes them; anything else is a ``TypeError``."""

    _keys: Keys
    judged: InitVar[object] = None

    def __post_init__(self, judged: object) -> None:
        if judged is not _JUDGED:
            raise TypeError("AttestedKeys come from the judgement of a document: use Judgement.keys")

    def find(self, use: str, alg: str) -> bytes | None:
        """The key of one use and algorithm, or None; of a pair that `evidence.sections` does not know always None."""
        return self._keys.find(use, alg) if (use, alg) in KEY_SIZES else None

    @property
    def tls_spki_sha256(self) -> bytes:
        """SHA-256 (32 bytes) of the public key that the guest's TLS connections must have."""
        key = self.find(*TLS_KEY)
        assert key is not None  # `verify.check.binding` refuses a document without one
        return key


@dataclass(frozen=True)
class Judgement:
    """What `verify.check.verify` answers: the verdict, and the facts that it was made from."""

    verdict: Verdict
    facts: Facts

    @property
    def keys(self) -> AttestedKeys | None:
        """The keys that the verdict proved; None when it is a refusal."""
        if self.verdict.outcome is Outcome.REFUSED:
            return None
        return AttestedKeys(self.facts.keys, _JUDGED)
