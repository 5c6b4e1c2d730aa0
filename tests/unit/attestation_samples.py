"""An honest simulated guest: prediction, boot log, document, facts, signature. Tests bend one thing at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from privml.events import agent, tcg, types
from privml.events.agent import AgentEvent
from privml.events.event import Event, Evidence
from privml.events.registers import MRTD, RTMR0, RTMR1, RTMR2, RTMR3, RTMRS, TDX_REGISTERS, index_of_register
from privml.events.replay import replay_digests
from privml.events.stages import SERVE, STAGE_OF
from privml.events.tcg import LogEntry
from privml.evidence import facts, merkle, report_data, sections
from privml.evidence.claims import Validity
from privml.evidence.document import DeviceEvidence, Document, listed
from privml.evidence.facts import Facts
from privml.evidence.sections import Key, Keys
from privml.evidence.tdx import signature
from privml.evidence.tdx.claims import QuoteFacts
from privml.sim import quote as sim
from privml.statement.launch import Accepted, MeasuredLaunch, TdMachine
from privml.statement.predicate import Predicate
from privml.verify.anchor import Built, Expected
from privml.verify.check import verify
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy
from privml.verify.tdx import INTEL_ROOT_SHA256

REPOSITORY = Path(__file__).parents[2]
VECTORS = REPOSITORY / "tests" / "vectors" / "attestation"

NOW = 1_795_000_000
NONCE = bytes(range(32))
SPKI = hashlib.sha256(b"a public key").digest()
FIRMWARE_MRTD = hashlib.sha384(b"firmware").digest()
ROOT = signature.root_der(sim.root_pem())
SIMULATED = Policy(allow_simulated=ROOT)
AGENT_EVENTS = (
    agent.config_event("11" * 32),
    agent.model_event("smollm2", "22" * 32),
    agent.engine_event("llama-server", ["llama-server", "--port", "8080"]),
    agent.system_ready_event(),
)
CMDLINE = "console=ttyS0 privml.root=abc"

# (register, type, what is hashed, what the log says, origin)
Extend = tuple[str, int, bytes, bytes, str]


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


def extends(memory: int, cmdline: str = CMDLINE) -> list[Extend]:
    return [
        (RTMR0, types.EV_EFI_HANDOFF_TABLES2, b"hob%d" % memory, b"\x01\x02", "TD HOB (shape)"),
        (RTMR0, types.EV_SEPARATOR, bytes(4), bytes(4), "separator"),
        (RTMR1, types.EV_EFI_BOOT_SERVICES_APPLICATION, b"uki", b"\x00\x01device", "uki.efi"),
        (RTMR2, types.EV_IPL, b".cmdline\0", utf16(".cmdline"), "uki.efi .cmdline name"),
        (
            RTMR2,
            types.EV_IPL,
            utf16(cmdline),
            utf16(cmdline),
            "uki.efi .cmdline (recipes/demo-cpu.yaml:9 kernel.package)",
        ),
        (RTMR2, types.EV_EVENT_TAG, b"initrd", _tagged("Linux initrd"), "uki.efi .initrd"),
    ]


def _tagged(text: str) -> bytes:
    return bytes.fromhex("ec223b8f") + len(text).to_bytes(4, "little") + text.encode()


def boot_log(items: Sequence[Extend]) -> bytes:
    return tcg.encode_log(
        [
            LogEntry(index_of_register(register), kind, {tcg.ALG_SHA384: hashlib.sha384(hashed).digest()}, data)
            for register, kind, hashed, data, _ in items
        ],
        pad_to=4096,
    )


def registers(items: Sequence[Extend], agent_events: Sequence[AgentEvent] = AGENT_EVENTS) -> dict[str, bytes]:
    values = {
        register: replay_digests(hashlib.sha384(item[2]).digest() for item in items if item[0] == register)
        for register in RTMRS[:3]
    }
    values[RTMR3] = replay_digests(agent.digests(agent_events))
    values[MRTD] = FIRMWARE_MRTD
    return values


def with_values(launch: MeasuredLaunch, register: str, *values: bytes) -> MeasuredLaunch:
    """``launch`` with other accepted values of one register."""
    return dataclasses.replace(launch, registers={**launch.registers, register: Accepted(values, Evidence.TPM_BOOT)})


def launch(vcpus: int, memory: int) -> MeasuredLaunch:
    items = extends(memory)
    values = registers(items)
    accepted = {register: (value,) for register, value in values.items()}
    accepted[MRTD] = (FIRMWARE_MRTD, hashlib.sha384(b"two-pass").digest())
    return MeasuredLaunch(
        tee="tdx",
        platform="qemu-11-q35",
        machine=TdMachine(vcpus, memory),
        registers={register: Accepted(accepted[register], Evidence.TPM_BOOT) for register in TDX_REGISTERS},
        events=tuple(
            Event(register, kind, hashlib.sha384(hashed).digest(), origin, Evidence.TPM_BOOT)
            for register, kind, hashed, _, origin in items
        ),
    )


PREDICATE = Predicate(
    name="demo-cpu",
    variant="production",
    manifest_sha256=bytes(32),
    agent_events=AGENT_EVENTS,
    purposes={"serve": len(AGENT_EVENTS)},
    launches=(launch(2, 2 << 30), launch(4, 4 << 30)),
)
EXPECTED = Expected(PREDICATE, Built("out/demo-cpu"))


def tls_keys(spki: bytes) -> Keys:
    """The keys section of a guest that has a TLS key and no other."""
    return Keys((Key(*sections.TLS_KEY, spki),))


def document(
    items: Sequence[Extend] | None = None,
    *,
    variant: str = "production",
    agent_events: Sequence[AgentEvent] = AGENT_EVENTS,
    log: bytes | None = None,
    nonce: bytes = NONCE,
    spki: bytes = SPKI,
    body: bytes | None = None,
    devices: Callable[[bytes], Sequence[DeviceEvidence]] = lambda nonce: (),
    keys: Keys | None = None,
    purpose: str = SERVE,
) -> Document:
    """A document whose quote really signs what it carries (4 vcpus, 4 GiB unless ``items`` says otherwise).

    ``devices`` makes the evidence of GPUs and switches for the nonce that they are to sign. ``keys`` are instead of
    one TLS key.
    """
    items = extends(4 << 30) if items is None else items
    tree = merkle.build([nonce, bytes(32)])
    section = (keys or tls_keys(spki)).encode()
    evidence = tuple(devices(report_data.device_nonce(root=tree.root, keys=section)))
    parts = {
        "header": sections.Header(variant, "tdx", purpose, STAGE_OF[purpose]).encode(),
        "keys": section,
        "devices": listed(evidence).encode(),
        "eventlog": agent.encode_log(agent_events),
    }
    data = report_data.compute(root=tree.root, **parts)
    quote = sim.make_quote(registers(items, agent_events), data) if body is None else sim.assemble(body)
    return Document(
        nonce=nonce,
        path=tree.paths[0],
        bootlog=boot_log(items) if log is None else log,
        evidence=quote,
        collateral={"tdx": sim.collateral()},
        device_evidence=evidence,
        **parts,
    )


def facts_of(made: Document) -> Facts:
    return facts.collect(made)


def signature_of(made: Document) -> QuoteFacts:
    checked = signature.check(made.evidence, sim.collateral(), now=NOW, simulated_root=ROOT)
    assert isinstance(checked, QuoteFacts), checked
    return checked


def genuine(facts: QuoteFacts) -> QuoteFacts:
    """``facts`` as if Intel's root and fresh collateral had vouched for them."""
    day = 24 * 60 * 60
    return dataclasses.replace(
        facts,
        root_sha256=INTEL_ROOT_SHA256,
        claims_simulated=False,
        validity=tuple(Validity(part.name, NOW - day, NOW + day) for part in facts.validity),
    )


def judge(made: Document | None = None, **changes: Any) -> Judgement:
    """The judgement of a document (the honest one), with the simulation allowed unless ``changes`` says otherwise."""
    made = document() if made is None else made
    checked = changes["signature"] if "signature" in changes else signature_of(made)
    arguments: dict[str, Any] = {
        "facts": facts_of(made),
        "signature": checked,
        "expected": EXPECTED,
        "policy": SIMULATED,
        "nonce": NONCE,
        "tls_spki_sha256": SPKI,
        **changes,
    }
    return verify(**arguments)


def with_claims(given: Facts, **changes: object) -> Facts:
    """``given`` with other claims: fields of `Claims`."""
    return dataclasses.replace(given, claims=dataclasses.replace(given.claims, **changes))  # type: ignore[arg-type]


def with_register(given: Facts, register: str, value: bytes) -> Facts:
    return with_claims(given, registers={**given.claims.registers, register: value})


def with_field(given: Facts, name: str, value: bytes) -> Facts:
    return with_claims(given, fields={**given.claims.fields, name: value})
