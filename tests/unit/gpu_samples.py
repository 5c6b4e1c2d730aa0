"""GPU evidence for tests: an honest simulated guest with GPUs and switches, and what real devices published."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import attestation_samples as samples
from tests.published import read

from privml.events import agent
from privml.events.registers import RTMR3
from privml.events.replay import replay_digests
from privml.evidence import devices
from privml.evidence.document import GPU, SWITCH, DeviceEvidence, Document
from privml.evidence.nvidia import report, signature
from privml.evidence.nvidia.claims import CheckedDevices
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.evidence.nvidia.report import DeviceClaims
from privml.sim import gpu, gpupki
from privml.statement.gpus import Gpus
from privml.verify.anchor import Built, Expected
from privml.verify.nvidia import NvidiaPolicy
from privml.verify.policy import Policy
from privml.verify.verdict import Verdict

NOW = samples.NOW
ROOTS = gpupki.roots()
ALLOWED = NvidiaPolicy(allow_simulated=ROOTS)
POLICY = Policy(allow_simulated=samples.ROOT, nvidia=ALLOWED)
Devices = Callable[[bytes], Sequence[DeviceEvidence]]


def events(gpus: int, switches: int, **modes: str) -> tuple[agent.AgentEvent, ...]:
    """The log of a boot with so many devices."""
    ready = agent.gpu_ready_event(gpus, switches, **modes)
    return (*samples.AGENT_EVENTS[:1], ready, *samples.AGENT_EVENTS[1:])


def expected(gpus: int = 1, switches: int = 0, architecture: str = "hopper") -> Expected:
    """The statement of an image that needs so many devices."""
    wanted = events(gpus, switches)
    value = replay_digests(agent.digests(wanted))
    launches = tuple(samples.with_values(launch, RTMR3, value) for launch in samples.PREDICATE.launches)
    predicate = dataclasses.replace(
        samples.PREDICATE,
        agent_events=wanted,
        purposes={"serve": len(wanted)},
        launches=launches,
        gpus=Gpus(architecture, gpus, switches),
    )
    return Expected(predicate, Built("out/demo-gpu"))


def collateral(gpus: int = 1, switches: int = 0, now: int = NOW, *, driver: str = gpu.DRIVER) -> NvidiaCollateral:
    """All answers and reference values for so many simulated devices."""
    found = [*gpu.GPUS[:gpus], *gpu.SWITCHES[:switches]]
    products = ["GH100"] * bool(gpus) + ["LS10"] * bool(switches)
    return NvidiaCollateral(
        gpu.answers(found, now) + gpupki.rim_answers(products, now),
        gpu.rims(gpus=bool(gpus), switches=bool(switches), driver=driver),
    )


def document(gpus: int = 1, switches: int = 0, made: Devices | None = None, **changes: Any) -> Document:
    """A document with so many simulated devices, or those that ``made`` makes."""
    making = made or (lambda nonce: gpu.evidence(nonce, gpus, switches))
    return samples.document(**{"agent_events": events(gpus, switches), "devices": making, **changes})


def judge(
    gpus: int = 1,
    switches: int = 0,
    *,
    given: Document | None = None,
    nvidia: NvidiaCollateral | None = None,
    policy: NvidiaPolicy = ALLOWED,
    checked: CheckedDevices | None = None,
    **changes: Any,
) -> Verdict:
    """The verdict on a document with so many devices and all collateral."""
    made = document(gpus, switches) if given is None else given
    facts = samples.facts_of(made)
    if checked is None:
        checked = devices.check(
            facts,
            collateral(gpus, switches) if nvidia is None else nvidia,
            now=NOW,
            simulated_roots=policy.allow_simulated,
        )
    arguments: dict[str, Any] = {
        "facts": facts,
        "expected": expected(gpus, switches),
        "policy": dataclasses.replace(POLICY, nvidia=policy),
        "devices": checked,
        **changes,
    }
    return samples.judge(made, **arguments).verdict


# --- what real devices published ------------------------------------------------------------------------------------

SDK = "attestation/NVIDIA_attestation-sdk"
NVTRUST = "attestation/NVIDIA_nvtrust"
TRUSTEE = "attestation/confidential-containers_trustee/nvidia"
MAY_2026 = 1_779_700_000


def published(name: str) -> tuple[DeviceEvidence, ...]:
    """The devices of a file with a list of evidence."""
    return tuple(
        DeviceEvidence(
            SWITCH if item["arch"] == "LS10" else GPU,
            base64.b64decode(item["evidence"]),
            base64.b64decode(item["certificate"]),
        )
        for item in json.loads(read(name))
    )


def from_text(
    folder: str, report_name: str = "hopperAttestationReport.txt", chain: str = "hopperCertChain.txt"
) -> DeviceEvidence:
    """One GPU whose report is in a file of hex digits."""
    return DeviceEvidence(GPU, bytes.fromhex(read(f"{folder}/{report_name}").decode()), read(f"{folder}/{chain}"))


PPCIE = (*published(f"{NVTRUST}/ppcie/gpu_evidence.json"), *published(f"{NVTRUST}/ppcie/switch_evidence.json"))
FOUR = published(f"{SDK}/multi_gpu_hopper.json")
LS10 = published(f"{SDK}/switch_evidence_ls10.json")[0]
R535 = from_text(f"{SDK}/sample_attestation_data/gpu")
R580 = from_text(f"{SDK}/unit")
CANNED = from_text(f"{NVTRUST}/local_gpu_verifier")
COCO = from_text(TRUSTEE, "hopper_coco_report1.txt", "hopper_coco_certs1.txt")
COCO_CUT = dataclasses.replace(COCO, report=COCO.report[:-1])
"""The file has one byte after the report, which its makers' buffer had."""
REAL = {
    **{f"ppcie-{number}": device for number, device in enumerate(PPCIE)},
    **{f"four-{number}": device for number, device in enumerate(FOUR)},
    "ls10": LS10,
    "535": R535,
    "580": R580,
    "canned": CANNED,
    "coco": COCO_CUT,
}


def claims_of(evidence: Sequence[DeviceEvidence]) -> list[tuple[DeviceEvidence, DeviceClaims]]:
    return [(device, report.read(device.kind, device.report)) for device in evidence]


def check(*evidence: DeviceEvidence, given: NvidiaCollateral | None = None, now: int = MAY_2026) -> CheckedDevices:
    """The result for these devices under NVIDIA's roots."""
    return signature.check(claims_of(evidence), given or NvidiaCollateral(), now=now)
