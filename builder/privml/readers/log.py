"""A boot log: a TD's CC event log or a TPM's, with its digest banks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from privml.base.errors import EvidenceError
from privml.events import tcg
from privml.events.event import Event
from privml.events.logged import LoggedEvent, is_tpm_log, logged
from privml.events.registers import RTMR2, RTMRS
from privml.events.replay import replay_digests
from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.types import EV_NO_ACTION, type_name
from privml.events.wording import as_event, explain_event

NOTHING_IN_RTMR2 = (
    "rtmr2 is zero: nothing measured the kernel's command line and initrd (Linux before 6.9 does not in a TD, nor "
    "does a boot loader without the CC protocol), so neither is attested"
)


@dataclass(frozen=True)
class Record:
    """One record of a log without SHA-384: ``index`` is a PCR number, or an MrIndex."""

    index: int
    type: int
    bank: int
    digest: bytes
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "index": self.index,
            "type": self.type,
            "bank": tcg.bank_name(self.bank),
            "digest": self.digest.hex(),
            "note": self.note,
        }

    def text(self) -> str:
        """One line for a person."""
        return f"{type_name(self.type)}  {self.digest.hex()[:16]}..  {self.note}"


@dataclass(frozen=True)
class Log:
    """A boot log: its entries, whether their indices are PCRs, and the registers that it covers."""

    entries: tuple[LogEntry, ...]
    tpm: bool
    covers: tuple[str, ...] = RTMRS

    @cached_property
    def banks(self) -> tuple[int, ...]:
        """The algorithms that every record has a digest of, the strongest first."""
        shared = set(self.entries[0].digests if self.entries else (ALG_SHA384,))
        for entry in self.entries:
            shared &= set(entry.digests)
        known = [algorithm for algorithm in tcg.ALGORITHMS if algorithm in shared]
        return (*known, *sorted(shared - set(known)))

    @property
    def bank_names(self) -> str:
        """``SHA-384, SHA-256``."""
        return ", ".join(tcg.bank_name(algorithm) for algorithm in self.banks)

    @property
    def replays(self) -> bool:
        """True when the log has the digests that RTMRs are extended with: SHA-384."""
        return ALG_SHA384 in self.banks

    def in_bank(self, bank: int) -> tuple[LoggedEvent, ...]:
        """The extends with their digests of one bank, in the log's order."""
        return logged(self.entries, tpm=self.tpm, bank=bank)

    @cached_property
    def logged(self) -> tuple[LoggedEvent, ...]:
        """The extends with their strongest digests, in the log's order."""
        return self.in_bank(tcg.strongest(self.banks))

    def events(self) -> tuple[Event, ...]:
        """The extends as events, in the log's order; none when the log has no SHA-384 digests."""
        return tuple(as_event(one) for one in self.logged) if self.replays else ()

    def records(self) -> tuple[Record, ...]:
        """Every record that extends a PCR, for a log without SHA-384 digests (which has no ``events``)."""
        if self.replays:
            return ()
        return tuple(
            Record(entry.index, entry.type, entry.bank, entry.digest, explain_event(entry))
            for entry in self.entries
            if entry.type != EV_NO_ACTION
        )

    def registers(self) -> dict[str, bytes]:
        """The covered registers as the log replays; none when the log has no SHA-384 digests."""
        if not self.replays:
            return {}
        return {
            register: replay_digests(event.digest for event in self.logged if event.register == register)
            for register in self.covers
        }

    def notes(self) -> tuple[str, ...]:
        """Remarks on the log."""
        if not self.replays:
            why = "no register of a TD can be computed from it: RTMRs are extended with SHA-384 digests"
            return (f"{why}, and this log has {self.bank_names} only",)
        found = ["a log is not authenticated: `explain LOG --against QUOTE` checks it"]
        if self.tpm:
            found.append("PCR 0 stands for MRTD, which a TD's firmware does not extend")
        if RTMR2 in self.covers and not any(event.register == RTMR2 for event in self.logged):
            found.append(NOTHING_IN_RTMR2)
        return tuple(found)


def read(data: bytes) -> Log:
    """Parse a CCEL or TPM log; which of the two it is follows from its indices. ``EvidenceError`` when malformed."""
    if tcg.is_sha1_log(data[: 1 << 17]):
        return Log(tuple(tcg.parse_sha1_log(data)), tpm=True)
    entries = tuple(tcg.parse_log(data))
    if entries and not any(entry.digests for entry in entries):
        raise EvidenceError("event log: no record has a digest")
    return Log(entries, is_tpm_log(entries))
