"""Format a verdict as text."""

from __future__ import annotations

from privml.base.errors import printable
from privml.verify.anchor import is_demonstration
from privml.verify.check import CODES
from privml.verify.verdict import Outcome, Verdict

_HEADLINES = {
    Outcome.ACCEPTED: "ACCEPTED",
    Outcome.ACCEPTED_SIMULATED: "ACCEPTED-SIMULATED (no hardware vouches for this)",
    Outcome.REFUSED: "REFUSED",
}


def headline(verdict: Verdict) -> str:
    """The outcome in capitals, with the limits of an acceptance and what the policy relaxed."""
    relaxations = "" if verdict.outcome is Outcome.REFUSED else verdict.relaxations
    return f"{_outcome(verdict)}{relaxations}"


def _outcome(verdict: Verdict) -> str:
    if verdict.outcome is Outcome.ACCEPTED_SIMULATED and is_demonstration(verdict.anchor):
        return "ACCEPTED-SIMULATED (only a demonstration)"  # a note says whether the hardware is genuine
    return _HEADLINES[verdict.outcome]


def render(verdict: Verdict, about: str = "") -> str:
    """Lines of text, each ending with a newline; the first has the outcome, the image and the anchor, the second the
    registers that nothing predicts, if there are any, the next the image's models and the data of its services.

    ``about`` ends the first line: whose nonce and which time, where they are not the caller's own and now.

    Found values come from the untrusted machine (a stage, a reason of the QVL) and are reduced to one printable line.
    """
    variant = f" ({verdict.variant})" if verdict.variant else ""
    lines = [f"{headline(verdict)}: {verdict.name}{variant}, against {verdict.anchor}{verdict.bound}{about}"]
    if verdict.learnt:
        names = ", ".join(register.upper() for register in verdict.learnt)
        lines.append(f"  learnt: {names}, copied from captures of machines; no rule predicts the value")
    lines += [f"  model: {model}" for model in verdict.models]
    lines += [f"  data: {data}" for data in verdict.data]
    if verdict.shape:
        lines.append(f"  shape: {verdict.shape}")
    for refusal in verdict.refusals:
        lines.append(f"  {refusal.code}: {CODES[refusal.code]}")
        lines.append(f"    got      {refusal.got}")
        lines.append(f"    expected {refusal.expected}")
        lines.extend(f"    {line}" for line in refusal.where.splitlines())
    for each in verdict.relaxed:
        lines.append(f"  relaxed: {each.code}: got {each.got}, the default policy expects {each.expected}")
    lines.extend(f"  note: {note}" for note in verdict.notes)
    return "\n".join(printable(line) for line in lines) + "\n"
