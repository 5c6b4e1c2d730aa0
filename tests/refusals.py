"""The table of refusal codes in docs/VERIFYING.md, made from the checks. Renew it: ``python -m tests.refusals``."""

from __future__ import annotations

import re
from pathlib import Path

from privml.verify import policyfield
from privml.verify.advice import ADVICE
from privml.verify.check import CODES
from privml.verify.policy import Policy

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "VERIFYING.md"
HEAD = "| code | what it means | what to do | policy field |\n|---|---|---|---|\n"
_TABLE = re.compile(r"^\| code \|.*?(?=^\n|\Z)", re.MULTILINE | re.DOTALL)


def table() -> str:
    """The whole table, one row for each code, in the order of the checks."""
    every = list(policyfield.every(Policy))
    fields = {code: [name for name, made in every if code in made.relaxes | made.sets] for code in CODES}
    return HEAD + "".join(
        f"| `{code}` | {meaning} | {ADVICE[code]} | {', '.join(f'`{name}`' for name in fields[code])} |\n"
        for code, meaning in CODES.items()
    )


def renewed(text: str) -> str:
    """``text`` with the table of today's codes."""
    return _TABLE.sub(lambda _: table(), text, count=1)


if __name__ == "__main__":
    GUIDE.write_text(renewed(GUIDE.read_text()))
