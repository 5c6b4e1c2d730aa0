"""A verdict in words, for a person at a terminal."""

from __future__ import annotations

from privml.base.errors import printable
from privml.verify.check import CODES
from privml.verify.verdict import Outcome, Verdict

_HEADLINES = {
    Outcome.ACCEPTED: "ACCEPTED",
    Outcome.ACCEPTED_SIMULATED: "ACCEPTED-SIMULATED (no hardware vouches for this)",
    Outcome.REFUSED: "REFUSED",
}


def render(verdict: Verdict) -> str:
    """Lines of text, ended by a newline; the first says the outcome, what was judged and on whose word.

    What was found is the refused machine's word (a stage, a reason of the QVL): it cannot add or repaint a line.
    """
    lines = [f"{_HEADLINES[verdict.outcome]}: {verdict.name} ({verdict.variant}), against {verdict.anchor}"]
    if verdict.shape:
        lines.append(f"  shape: {verdict.shape}")
    for refusal in verdict.refusals:
        lines.append(f"  {refusal.code}: {CODES[refusal.code]}")
        lines.append(f"    got      {refusal.got}")
        lines.append(f"    expected {refusal.expected}")
        lines.extend(f"    {line}" for line in refusal.where.splitlines())
    lines.extend(f"  note: {note}" for note in verdict.notes)
    return "\n".join(printable(line) for line in lines) + "\n"
