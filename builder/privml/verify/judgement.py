"""A verdict with the attested keys, which are available only if the verdict is not a refusal.

Sending a prompt requires `AttestedKeys`, so nothing can be sent to a guest that was not judged and accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field

from privml.base.errors import Refused
from privml.events.agent import AgentEvent
from privml.evidence.claims import Checked
from privml.evidence.facts import Facts
from privml.evidence.sections import CHANNEL_KEY, KEY_SIZES, RELEASE_KEYS, TLS_KEY, Keys
from privml.statement.launch import MeasuredLaunch
from privml.verify.anchor import Expected
from privml.verify.verdict import Binding, Outcome, Verdict

_JUDGED = object()


@dataclass(frozen=True)
class AttestedKeys:
    """The public keys of an accepted guest. Only `Judgement.keys` creates them; other calls raise ``TypeError``.

    ``binding`` is what the verdict rests on. With the channel key, no TLS key is found here: whoever ends TLS is not
    the guest, so nothing may be sent but what is sealed. With the release key, only release keys are found: the
    document came by a courier, from a guest that is not ready.
    """

    _keys: Keys
    binding: Binding = Binding.TLS_KEY
    judged: InitVar[object] = None

    def __post_init__(self, judged: object) -> None:
        if judged is not _JUDGED:
            raise TypeError("AttestedKeys come from the judgement of a document: use Judgement.keys")

    def find(self, use: str, alg: str) -> bytes | None:
        """The key for a use and algorithm; None if there is none or `evidence.sections` does not know the pair."""
        if (use, alg) == TLS_KEY and self.binding is not Binding.TLS_KEY:
            return None
        if self.binding is Binding.RELEASE_KEY and (use, alg) not in RELEASE_KEYS:
            return None
        return self._keys.find(use, alg) if (use, alg) in KEY_SIZES else None

    @property
    def section_sha256(self) -> bytes:
        """SHA-256 (32 bytes) of the keys section: the name of this boot of this guest."""
        return self._keys.sha256

    @property
    def tls_spki_sha256(self) -> bytes:
        """SHA-256 (32 bytes) of the public key that the guest's TLS connections must have.

        ``Refused`` where the verdict rests on another key.
        """
        key = self.find(*TLS_KEY)
        if key is None:  # else `verify.check.binding` refused a document without one
            code = self.binding.value
            name = code.replace("-", " ")
            raise Refused(f"{code}: the verdict rests on the {name}, expected one on the TLS key of this connection")
        return key

    @property
    def channel_key(self) -> bytes | None:
        """The Ed25519 key (32 bytes) that signs the keys of the sealed channel; None if the guest has no channel."""
        return self.find(*CHANNEL_KEY)


@dataclass(frozen=True)
class Judgement:
    """Result of `verify.check.verify`: the verdict, the facts it is based on, and what they were compared with.

    ``launch`` is the predicted one, None if there is none for this TEE. ``accepted`` has the accepted values of its
    registers, and ``agent_events`` the expected ones, both for the policy's purpose. ``vouched`` is True if a
    signature under an accepted root covers the registers' values; without it anybody could have written them.
    ``signature`` is the result of checking the evidence, ``expected`` the image that it was compared with.
    """

    verdict: Verdict
    facts: Facts
    launch: MeasuredLaunch | None = None
    accepted: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    agent_events: tuple[AgentEvent, ...] = ()
    vouched: bool = False
    signature: Checked | None = None
    expected: Expected | None = None

    @property
    def keys(self) -> AttestedKeys | None:
        """The attested keys; None if the verdict is a refusal."""
        if self.verdict.outcome is Outcome.REFUSED:
            return None
        return AttestedKeys(self.facts.keys, self.verdict.binding, _JUDGED)
