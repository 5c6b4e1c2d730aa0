"""Derive the facts of a document and check its consistency, without any policy.

A malformed document is an ``EvidenceError``. A malformed boot log is only a fact, because the log is untrusted and
used only for explanations.
"""

from __future__ import annotations

import functools
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
from privml.evidence.document import DeviceEvidence, Document
from privml.evidence.nvidia import report
from privml.evidence.nvidia.report import DeviceClaims
from privml.evidence.sections import Devices, Header, Keys
from privml.evidence.tees import kind_of

LOGGED = (RTMR0, RTMR1, RTMR2)
"""The registers extended and logged by firmware, stub and kernel; RTMR3 has the agent's log."""


@dataclass(frozen=True)
class BootLog:
    """The firmware's log. ``kind`` is ``ccel``, ``tpm``, ``absent`` or ``malformed`` (then ``error`` says why).

    ``matches`` has the registers (of `LOGGED`) whose replay equals the claim; other events are not confirmed.
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
    """The input of a verdict, except the signature.

    ``report_data`` is computed from sections and nonce (64 bytes), to compare with ``claims.report_data``;
    ``agent_rtmr3`` is the replay of the agent's log (48 bytes); ``nonce`` is the one in the document.
    ``device_nonce`` (32 bytes) is the one that each device's report must have; ``device_claims`` are what the reports
    of ``device_evidence`` say.
    """

    claims: Claims
    nonce: bytes
    header: Header
    keys: Keys
    devices: Devices
    report_data: bytes
    agent_events: tuple[AgentEvent, ...]
    agent_rtmr3: bytes
    bootlog: bytes
    device_nonce: bytes = b""
    device_evidence: tuple[DeviceEvidence, ...] = ()
    device_claims: tuple[DeviceClaims, ...] = ()

    @functools.cached_property
    def boot_log(self) -> BootLog:
        """The firmware's log, read when a refusal is explained; nothing else depends on it."""
        return read_boot_log(self.bootlog, self.claims.registers)


def collect(document: Document) -> Facts:
    """Derive the facts of ``document``; ``EvidenceError`` if a part other than the boot log is malformed."""
    header = Header.decode(document.header)
    claims = kind_of(header.tee).claims(document.evidence, document.certificates)
    root = merkle.root(document.nonce, document.path)
    agent_events = agent.parse_log(document.eventlog)
    return Facts(
        claims=claims,
        nonce=document.nonce,
        header=header,
        keys=Keys.decode(document.keys),
        devices=Devices.decode(document.devices),
        report_data=report_data.compute(
            header=document.header,
            root=root,
            keys=document.keys,
            devices=document.devices,
            eventlog=document.eventlog,
        ),
        agent_events=agent_events,
        agent_rtmr3=agent.replay(agent_events),
        bootlog=document.bootlog,
        device_nonce=report_data.device_nonce(root=root, keys=document.keys),
        device_evidence=document.device_evidence,
        device_claims=tuple(report.read(device.kind, device.report) for device in document.device_evidence),
    )


def read_boot_log(data: bytes, registers: Mapping[str, bytes]) -> BootLog:
    """Read a CCEL or TPM log and find which of ``registers`` it replays to. Never raises for malformed data.

    PCRs of a TPM log are mapped by `events.registers`. An ambiguous log is tried both ways.
    """
    if not data:
        return BootLog("absent")
    try:
        entries = tcg.parse_log(data)
        if is_tpm_log(entries):
            return _read(entries, registers, tpm=True)
        as_ccel = _read(entries, registers, tpm=False)
        if as_ccel.matches == set(LOGGED) & registers.keys():
            return as_ccel
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
