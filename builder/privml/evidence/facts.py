"""What a document says, worked out and compared with itself. No policy: nothing here is accepted or refused.

A document that cannot be read is an ``EvidenceError``. A boot log that cannot be read is not: it is untrusted and
only explains, so it is a fact of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.events import agent, tcg
from privml.events.agent import AgentEvent
from privml.events.logged import LoggedEvent, is_tpm_log, logged
from privml.events.registers import RTMR0, RTMR1, RTMR2
from privml.events.replay import replay_digests
from privml.events.tcg import LogEntry
from privml.evidence import merkle, report_data
from privml.evidence.claims import Claims
from privml.evidence.document import Document
from privml.evidence.sections import Devices, Header, Keys
from privml.evidence.tees import kind_of

LOGGED = (RTMR0, RTMR1, RTMR2)
"""The registers that firmware, stub and kernel extend and log; RTMR3 has the agent's own log."""


@dataclass(frozen=True)
class BootLog:
    """The firmware's log. ``kind`` is ``ccel``, ``tpm``, ``absent`` or ``malformed`` (then ``error`` says why).

    ``matches`` holds the registers (out of `LOGGED`) whose replay equals the claim; events of others are hearsay.
    """

    kind: str
    events: tuple[LoggedEvent, ...] = ()
    matches: frozenset[str] = frozenset()
    error: str = ""

    def of(self, register: str) -> tuple[LoggedEvent, ...]:
        """The events of one register, in order."""
        return tuple(event for event in self.events if event.register == register)


@dataclass(frozen=True)
class Facts:
    """Everything a verdict is made from, except the signature.

    ``report_data`` is what the sections and the nonce give (64 bytes), to compare with ``claims.report_data``;
    ``agent_rtmr3`` is what the agent's log replays to (48 bytes); ``nonce`` is the one the document claims.
    """

    claims: Claims
    nonce: bytes
    header: Header
    keys: Keys
    devices: Devices
    report_data: bytes
    agent_events: tuple[AgentEvent, ...]
    agent_rtmr3: bytes
    boot_log: BootLog


def collect(document: Document) -> Facts:
    """Work out the facts of ``document``; ``EvidenceError`` when a part other than the boot log is malformed."""
    header = Header.decode(document.header)
    claims = kind_of(header.tee).claims(document.evidence, document.certificates)
    return Facts(
        claims=claims,
        nonce=document.nonce,
        header=header,
        keys=Keys.decode(document.keys),
        devices=Devices.decode(document.devices),
        report_data=report_data.compute(
            header=document.header,
            root=merkle.root(document.nonce, document.path),
            keys=document.keys,
            devices=document.devices,
            eventlog=document.eventlog,
        ),
        agent_events=agent.parse_log(document.eventlog),
        agent_rtmr3=agent.replay_log(document.eventlog),
        boot_log=read_boot_log(document.bootlog, claims.registers),
    )


def read_boot_log(data: bytes, registers: Mapping[str, bytes]) -> BootLog:
    """Read a CCEL or TPM log and say which of ``registers`` it replays to. Never raises for bad data.

    The PCRs of a TPM's log stand for registers as `events.registers` maps them. A log that may be either is tried
    both ways.
    """
    if not data:
        return BootLog("absent")
    try:
        entries = tcg.parse_log(data)
        if is_tpm_log(entries):
            return _read(entries, registers, tpm=True)
        as_ccel = _read(entries, registers, tpm=False)
        as_tpm = _read(entries, registers, tpm=True)
    except EvidenceError as error:
        return BootLog("malformed", error=error.message)
    return as_tpm if len(as_tpm.matches) > len(as_ccel.matches) else as_ccel


def _read(entries: list[LogEntry], registers: Mapping[str, bytes], *, tpm: bool) -> BootLog:
    events = logged(entries, tpm=tpm)
    matches = frozenset(
        register
        for register in LOGGED
        if register in registers
        and replay_digests(event.digest for event in events if event.register == register) == registers[register]
    )
    return BootLog("tpm" if tpm else "ccel", events, matches)
