"""A verdict with the attested keys, which are available only if the verdict is not a refusal.

Sending a prompt requires `AttestedKeys`, so nothing can be sent to a guest that was not judged and accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field

from privml.events.agent import AgentEvent
from privml.evidence.facts import Facts
from privml.evidence.sections import KEY_SIZES, TLS_KEY, Keys
from privml.statement.launch import MeasuredLaunch
from privml.verify.verdict import Outcome, Verdict

_JUDGED = object()


@dataclass(frozen=True)
class AttestedKeys:
    """The public keys of an accepted guest. Only `Judgement.keys` creates them; other calls raise ``TypeError``."""

    _keys: Keys
    judged: InitVar[object] = None

    def __post_init__(self, judged: object) -> None:
        if judged is not _JUDGED:
            raise TypeError("AttestedKeys come from the judgement of a document: use Judgement.keys")

    def find(self, use: str, alg: str) -> bytes | None:
        """The key for a use and algorithm; None if there is none or `evidence.sections` does not know the pair."""
        return self._keys.find(use, alg) if (use, alg) in KEY_SIZES else None

    @property
    def tls_spki_sha256(self) -> bytes:
        """SHA-256 (32 bytes) of the public key that the guest's TLS connections must have."""
        key = self.find(*TLS_KEY)
        assert key is not None  # `verify.check.binding` refuses a document without one
        return key


@dataclass(frozen=True)
class Judgement:
    """Result of `verify.check.verify`: the verdict, the facts it is based on, and what they were compared with.

    ``launch`` is the predicted one, None if there is none for this TEE. ``accepted`` has the accepted values of its
    registers, and ``agent_events`` the expected ones, both for the policy's purpose.
    """

    verdict: Verdict
    facts: Facts
    launch: MeasuredLaunch | None = None
    accepted: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    agent_events: tuple[AgentEvent, ...] = ()

    @property
    def keys(self) -> AttestedKeys | None:
        """The attested keys; None if the verdict is a refusal."""
        if self.verdict.outcome is Outcome.REFUSED:
            return None
        return AttestedKeys(self.facts.keys, _JUDGED)
