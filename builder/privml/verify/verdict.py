"""Verdicts: accepted, accepted-simulated or refused, with every reason by name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from privml.base.errors import EXIT_ACCEPTED_SIMULATED, Refused
from privml.verify.anchor import Anchor, ExpectedData, ExpectedModel, Published


class Outcome(StrEnum):
    """The three possible outcomes."""

    ACCEPTED = "accepted"
    ACCEPTED_SIMULATED = "accepted-simulated"
    REFUSED = "refused"


class Binding(StrEnum):
    """The attested key that a verdict is about.

    With the first two, that key ties the document to the machine that requests go to, and a refusal of that check has
    the same name. With a receipt's or a release key, no connection was judged.
    """

    TLS_KEY = "tls-key"
    CHANNEL_KEY = "channel-key"
    RECEIPT_KEY = "receipt-key"
    RELEASE_KEY = "release-key"


_BOUND = {
    Binding.TLS_KEY: "",
    Binding.CHANNEL_KEY: ", for its channel key only: nothing may travel outside the channel",
    Binding.RECEIPT_KEY: "",
    Binding.RELEASE_KEY: ", for its release key only: nothing but a sealed volume key may be sent",
}


@dataclass(frozen=True)
class Refusal:
    """One reason: ``code`` (a key of `verify.check.CODES`), found and expected values; ``where`` names the
    events, if known.
    """

    code: str
    got: str
    expected: str
    where: str = ""

    def to_dict(self) -> dict[str, str]:
        """A JSON object."""
        return {"code": self.code, "got": self.got, "expected": self.expected, "where": self.where}


@dataclass(frozen=True)
class Verdict:
    """The verdict on one document.

    ``shape`` is the label of the closest shape, which it was compared with. ``relaxed`` has the refusals that the
    default policy would have given and that a policy file accepts. ``models`` and ``data`` are those of the expected
    image. ``learnt`` are the registers whose expected value was copied from captures of machines. ``binding`` says
    which key the verdict is about.
    """

    outcome: Outcome
    name: str
    variant: str
    anchor: Anchor
    shape: str
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    relaxed: tuple[Refusal, ...] = ()
    models: tuple[ExpectedModel, ...] = ()
    learnt: tuple[str, ...] = ()
    binding: Binding = Binding.TLS_KEY
    data: tuple[ExpectedData, ...] = ()

    @property
    def bound(self) -> str:
        """The part of a first line that says what may be sent; empty where it is all on the judged connection."""
        return _BOUND[self.binding]

    @property
    def accepted(self) -> bool:
        """True only for genuine hardware, never for a simulation."""
        return self.outcome is Outcome.ACCEPTED

    @property
    def relaxations(self) -> str:
        """What the policy relaxed, as part of a line: ``, relaxed: tcb-status OutOfDate``; empty if nothing."""
        said = "; ".join(f"{each.code} {each.got}" for each in self.relaxed)
        return f", relaxed: {said}" if said else ""

    @property
    def exit_code(self) -> int:
        """0, 8 or 10 (`base.errors`)."""
        codes = {
            Outcome.ACCEPTED: 0,
            Outcome.ACCEPTED_SIMULATED: EXIT_ACCEPTED_SIMULATED,
            Outcome.REFUSED: Refused.exit_code,
        }
        return codes[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "outcome": self.outcome.value,
            "name": self.name,
            "variant": self.variant,
            "anchor": str(self.anchor),
            "models": [vars(model) for model in self.models],
            "data": [vars(data) for data in self.data],
            "published": self.anchor.to_dict() if isinstance(self.anchor, Published) else None,
            "shape": self.shape,
            "learnt": list(self.learnt),
            "binding": self.binding.value,
            "refusals": [refusal.to_dict() for refusal in self.refusals],
            "relaxed": [refusal.to_dict() for refusal in self.relaxed],
            "notes": list(self.notes),
        }
