"""Replay events to register values: RTMR = SHA-384(RTMR || digest), starting at 48 zero bytes.

Source: Intel TDX module 1.5 ABI, TDG.MR.RTMR.EXTEND (docs/measurement.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from privml.base.errors import EvidenceError
from privml.events.event import Event
from privml.events.registers import DIGEST_SIZE, MRTD, RTMRS, ZERO, register_of_index, register_of_pcr
from privml.events.tcg import LogEntry
from privml.events.types import EV_NO_ACTION


def extend(value: bytes, digest: bytes) -> bytes:
    """One extend of a 48-byte register value by a 48-byte digest; ``EvidenceError`` for other lengths."""
    if len(value) != DIGEST_SIZE or len(digest) != DIGEST_SIZE:
        raise EvidenceError(
            f"extend of {len(value)} bytes by {len(digest)}, expected {DIGEST_SIZE} and {DIGEST_SIZE}"
        )
    return hashlib.sha384(value + digest).digest()


def replay_digests(digests: Iterable[bytes]) -> bytes:
    """The value of one register after ``digests``, in order."""
    value = ZERO
    for digest in digests:
        value = extend(value, digest)
    return value


class NoRegister:
    """A platform without a register that the agent could extend: this process tracks the value that it would have.

    It is a base of the agent's platforms (`agent.tee.Tee`). The value ends with the process.
    """

    has_register = False
    _value = ZERO

    def extend(self, digest: bytes) -> None:
        """Track one extend by a 48-byte digest; ``EvidenceError`` for another length."""
        self._value = extend(self._value, digest)

    def rtmr3(self) -> bytes:
        """The value that the register would have (48 bytes)."""
        return self._value


def _replay(pairs: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    values = dict.fromkeys(RTMRS, ZERO)
    for register, digest in pairs:
        values[register] = extend(values[register], digest)
    return values


def replay_events(events: Iterable[Event]) -> dict[str, bytes]:
    """RTMR0..3 after ``events`` in order; ``EvidenceError`` for an event of MRTD, which cannot be extended."""
    pairs = [(event.register, event.digest) for event in events]
    if any(register == MRTD for register, _ in pairs):
        raise EvidenceError("an event extends MRTD: it is fixed before the guest runs")
    return _replay(pairs)


def replay(entries: Iterable[LogEntry]) -> dict[str, bytes]:
    """RTMR0..3 after a CC event log (``index`` is an MrIndex); EV_NO_ACTION extends nothing.

    ``EvidenceError`` for an index above 4, for another event of MRTD, or for a log without SHA-384.
    """
    return _replay(pair for entry in entries if (pair := extended(entry, tpm=False)) is not None)


def replay_tpm_as_rtmrs(entries: Iterable[LogEntry]) -> dict[str, bytes]:
    """RTMR0..3 as a TD would have them had its firmware logged this TPM log (SHA-384 bank, PCR map).

    PCR 0 (firmware version and volumes, which MRTD covers in a TD) and EV_NO_ACTION are skipped. ``EvidenceError``
    for a PCR above 15 or a log without a SHA-384 bank.
    """
    return _replay(pair for entry in entries if (pair := extended(entry, tpm=True)) is not None)


def extended(entry: LogEntry, *, tpm: bool) -> tuple[str, bytes] | None:
    """The register that ``entry`` extends and its SHA-384 digest; None for an entry that extends no RTMR.

    ``tpm`` says whether ``entry.index`` is a PCR number (True) or an MrIndex (False).
    ``EvidenceError`` as ``replay``.
    """
    register = register_extended(entry, tpm=tpm)
    return None if register is None else (register, entry.sha384)


def register_extended(entry: LogEntry, *, tpm: bool) -> str | None:
    """The register that ``entry`` extends, in whatever bank; None for an entry that extends no RTMR.

    ``tpm`` and ``EvidenceError`` as ``extended``.
    """
    if entry.type == EV_NO_ACTION:
        return None
    register = register_of_pcr(entry.index) if tpm else register_of_index(entry.index)
    if register == MRTD:
        if tpm:
            return None
        raise EvidenceError("event log: an event extends MRTD: it is fixed before the guest runs")
    return register
