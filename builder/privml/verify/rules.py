"""What checks and TEEs are made of: a check with the refusals that it may give, and one record of rules a TEE.

A check's codes and their meanings stand beside the function that uses them; `verify.check.CODES` is the union.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from privml.evidence.claims import Checked, Claims
from privml.verify.verdict import Refusal

Subject = TypeVar("Subject")
TeePolicy = TypeVar("TeePolicy")


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One group of conditions: every refusal code it may give with its meaning, and the function that looks."""

    codes: Mapping[str, str]
    find: Callable[[Subject], Iterator[Refusal]]

    def __call__(self, subject: Subject) -> Iterator[Refusal]:
        """The refusals found; ``ValueError`` for a code that the check does not declare."""
        for refusal in self.find(subject):
            if refusal.code not in self.codes:
                raise ValueError(f"refusal code `{refusal.code}` is not one of this check's: {', '.join(self.codes)}")
            yield refusal


def refuses(codes: Mapping[str, str]) -> Callable[[Callable[[Subject], Iterator[Refusal]]], Check[Subject]]:
    """Make a function a `Check` with these codes and meanings."""

    def made(find: Callable[[Subject], Iterator[Refusal]]) -> Check[Subject]:
        return Check(codes, find)

    return made


@dataclass(frozen=True)
class TeeCase(Generic[TeePolicy]):
    """What a TEE's own checks look at: the claims, the result of checking their signature, that TEE's policy."""

    claims: Claims
    signature: Checked
    policy: TeePolicy


@dataclass(frozen=True)
class TeeRules(Generic[TeePolicy]):
    """Everything that is judged differently for one TEE.

    ``vendor`` owns the ``genuine_roots`` (hex SHA-256 of DER). ``registers`` says what it means that a register
    differs; the register's name is the code. ``unlogged`` says why a register has no log that could explain it.
    ``signature`` refuses evidence whose signature is not shown to be good, ``checks`` look at all else. ``notes`` are
    lines that any verdict has.
    """

    vendor: str
    genuine_roots: frozenset[str]
    registers: Mapping[str, str]
    unlogged: Mapping[str, str]
    signature: Check[TeeCase[TeePolicy]]
    checks: tuple[Check[TeeCase[TeePolicy]], ...]
    notes: Callable[[TeeCase[TeePolicy]], Iterator[str]]


def any_of(values: Iterable[str]) -> str:
    """Accepted values in words: ``a or b``."""
    return " or ".join(sorted(values))
