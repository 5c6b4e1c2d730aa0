"""An honest simulated SNP guest: prediction, document, facts, signature. Tests bend one thing at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import attestation_samples as samples

from privml.events import agent
from privml.events.agent import AgentEvent
from privml.events.event import Event, Evidence
from privml.events.registers import LAUNCH
from privml.events.stages import SERVE, STAGE_OF
from privml.evidence import merkle, report_data, sections
from privml.evidence.document import Document, listed
from privml.evidence.sections import Keys
from privml.evidence.snp import signature
from privml.evidence.snp.claims import ReportFacts
from privml.evidence.snp.tcb import GENOA
from privml.sim import snpreport as sim
from privml.statement.launch import BOUND, Accepted, MeasuredLaunch, SnpMachine
from privml.verify.anchor import Built, Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy
from privml.verify.snp import SnpPolicy
from privml.verify.snptcb import TcbFloor

DIGEST = hashlib.sha384(b"launch digest").digest()
ROOT = sim.root_der()
FLOOR = TcbFloor("Genoa", bl=10, snp=23, ucode=84)
WANTED = SnpPolicy(min_tcb=frozenset({FLOOR}), allow_unmeasured_acpi=True)
POLICY = Policy(snp=WANTED)
SIMULATED = dataclasses.replace(POLICY, allow_simulated=ROOT)


def launch(vcpus: int = 2, boot: str = BOUND, digest: bytes = DIGEST) -> MeasuredLaunch:
    steps = (
        Event(LAUNCH, 1, hashlib.sha384(b"firmware").digest(), "the firmware", Evidence.SOURCE, gpa=0xFFC00000),
        Event(LAUNCH, 2, digest, f"vCPU {vcpus - 1}", Evidence.SOURCE, gpa=0xFFFFFFFFF000, count=1),
    )
    machine = SnpMachine(vcpus, "qemu", 0xA10F10, 1, boot)
    return MeasuredLaunch("snp", "qemu-11-q35-snp", machine, {LAUNCH: Accepted((digest,), Evidence.SOURCE)}, steps)


PREDICATE = dataclasses.replace(
    samples.PREDICATE, launches=(*samples.PREDICATE.launches, launch(), launch(4, digest=bytes(48)))
)
EXPECTED = Expected(PREDICATE, Built("out/demo-cpu"))


def document(
    changes: Mapping[int, bytes] | None = None,
    *,
    nonce: bytes = samples.NONCE,
    keys: Keys | None = None,
    agent_events: Sequence[AgentEvent] = samples.AGENT_EVENTS,
    purpose: str = SERVE,
) -> Document:
    """A document whose report really signs what it carries; ``changes`` are bytes of the report by offset."""
    tree = merkle.build([nonce, bytes(32)])
    parts = {
        "header": sections.Header("production", "snp", purpose, STAGE_OF[purpose]).encode(),
        "keys": (keys or samples.tls_keys(samples.SPKI)).encode(),
        "devices": listed(()).encode(),
        "eventlog": agent.encode_log(agent_events),
    }
    data = report_data.compute(root=tree.root, **parts)
    return Document(
        nonce=nonce,
        path=tree.paths[0],
        bootlog=b"",
        evidence=sim.make_report(DIGEST, data, changes),
        certificates=sim.certificates(),
        collateral={"snp": sim.collateral()},
        **parts,
    )


def signature_of(made: Document) -> ReportFacts:
    assert made.collateral is not None
    checked = signature.check(
        made.evidence, made.certificates, made.collateral["snp"], now=samples.NOW, simulated_root=ROOT
    )
    assert isinstance(checked, ReportFacts), checked
    return checked


def genuine(found: ReportFacts) -> ReportFacts:
    """``found`` as if AMD's root and a fresh revocation list had vouched for them."""
    assert found.revocation is not None
    fresh = dataclasses.replace(found.revocation, issued=samples.NOW - 24 * 60 * 60)
    return dataclasses.replace(found, root_sha256=GENOA.root_sha256, claims_simulated=False, revocation=fresh)


def judge(made: Document | None = None, **changes: Any) -> Judgement:
    """The judgement of a document (the honest one) as if it were genuine."""
    made = document() if made is None else made
    checked = changes["signature"] if "signature" in changes else genuine(signature_of(made))
    return samples.judge(made, **{"signature": checked, "expected": EXPECTED, "policy": POLICY, **changes})
