"""The extends of a boot log: which register each record of it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from privml.events.registers import MrIndex
from privml.events.replay import register_extended
from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.types import EV_NO_ACTION

_LAST_MAPPED_PCR = 15


@dataclass(frozen=True)
class LoggedEvent:
    """One extend of ``register`` as a boot log records it; ``number`` is its record's, from 1; ``tpm``: the log is a
    TPM's; ``bank`` is the algorithm whose digest is looked at.

    A replay that matches a quote proves the digests, not the data, which is only what the log says.
    """

    register: str
    entry: LogEntry
    number: int
    tpm: bool = False
    bank: int = ALG_SHA384

    @property
    def type(self) -> int:
        """TCG event type."""
        return self.entry.type

    @property
    def digest(self) -> bytes:
        """The bytes that were extended: 48 of a TD's bank, SHA-384."""
        return self.entry.sha384 if self.bank == ALG_SHA384 else self.entry.digests[self.bank]


def is_tpm_log(entries: Iterable[LogEntry]) -> bool:
    """True when the indices can only be PCR numbers: one above 4, or an extend of PCR 0 (MRTD has none).

    The banks do not tell: a TD's firmware may declare two, and a TPM may have one.
    """
    return any(entry.index > max(MrIndex) or (entry.index == 0 and entry.type != EV_NO_ACTION) for entry in entries)


def logged(entries: Iterable[LogEntry], *, tpm: bool, bank: int = ALG_SHA384) -> tuple[LoggedEvent, ...]:
    """The extends of RTMR0..3 in the log's order; ``tpm`` says that indices are PCR numbers.

    EV_NO_ACTION extends nothing; PCR 0 and those above 15 stand for no RTMR. ``EvidenceError`` as `replay.replay`.
    """
    found = []
    for number, entry in enumerate(entries, 1):
        if tpm and entry.index > _LAST_MAPPED_PCR:
            continue
        register = register_extended(entry, tpm=tpm)
        if register is not None:
            found.append(LoggedEvent(register, entry, number, tpm, bank))
    return tuple(found)
