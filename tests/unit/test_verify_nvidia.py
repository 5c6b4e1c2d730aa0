"""GPUs in a verdict: the honest machine is accepted, and each single bent part gives its own refusal."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import attestation_samples as samples
import gpu_samples as gpus
import pytest
from cryptography.x509 import ocsp

from privml.base.errors import EvidenceError
from privml.client import attested
from privml.evidence.document import DeviceEvidence, Document, listed
from privml.evidence.nvidia import chain, rim
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.evidence.nvidia.families import HOPPER
from privml.sim import gpu, gpupki
from privml.verify.nvidia import CHECKS as NVIDIA_CHECKS
from privml.verify.nvidia import (
    NVIDIA_RIM_ROOT_SHA256,
    NVIDIA_ROOT_SHA256,
    DeviceCase,
    Firmware,
    NvidiaPolicy,
    simulated,
)
from privml.verify.policy import Policy
from privml.verify.verdict import Outcome, Verdict

NOW = gpus.NOW


def codes(verdict: Verdict) -> set[str]:
    return {refusal.code for refusal in verdict.refusals}


def policy(**changes: Any) -> NvidiaPolicy:
    return dataclasses.replace(gpus.ALLOWED, **changes)


@pytest.mark.parametrize(("count", "switches"), [(1, 0), (2, 0), (8, 0), (8, 4)])
def test_the_honest_machine_is_accepted(count: int, switches: int) -> None:
    verdict = gpus.judge(count, switches)
    assert (verdict.outcome, verdict.refusals) == (Outcome.ACCEPTED_SIMULATED, ())
    assert f"devices: {count} x hopper, 590.12/96.00.A5.00.01" in verdict.notes


def test_the_document_travels_with_its_evidence_and_collateral() -> None:
    """All through the bytes, as a caller gets them; the caller's own collateral replaces the document's."""
    full = gpus.collateral(8, 4)
    made = dataclasses.replace(
        gpus.document(8, 4), collateral={"tdx": samples.sim.collateral(), "nvidia": full.encode()}
    )

    def judged(given: NvidiaCollateral | None = None, chosen: Policy = gpus.POLICY) -> Verdict:
        return attested.judge(
            made.encode(), gpus.expected(8, 4), chosen, now=NOW, nonce=samples.NONCE,
            tls_spki_sha256=samples.SPKI, device_collateral=given,
        ).verdict  # fmt: skip

    assert judged().refusals == ()
    assert codes(judged(NvidiaCollateral())) == {"gpu-rim", "gpu-revocation"}
    assert codes(judged(chosen=samples.SIMULATED)) == {"gpu-simulated", "gpu-collateral"}
    assert made.encode() == attested.document.parse(made.encode()).encode()


# --- a bent part ----------------------------------------------------------------------------------------------------

HOPPER_0 = gpu.GPUS[0]


def one(said: Sequence[tuple[int, bytes]] | None = None, **changes: Any) -> Document:
    """A document with one GPU that says something else, or has other measurements or certificates."""
    return gpus.document(
        made=lambda nonce: [gpu.device_evidence(HOPPER_0, nonce, tuple(said or gpu.gpu_opaque(HOPPER_0)), **changes)]
    )


def says(*changes: tuple[int, bytes], without: int | None = None) -> Document:
    """A document with one GPU whose opaque data has these fields instead."""
    new = dict(changes)
    return one([(number, new.get(number, value)) for number, value in gpu.gpu_opaque(HOPPER_0) if number != without])


def group(bend: Any) -> Document:
    """Eight GPUs and four switches, with ``bend`` applied to their list."""
    return gpus.document(8, 4, made=lambda nonce: bend(list(gpu.evidence(nonce, 8, 4)), nonce))


def replaced(index: int, make: Any) -> Document:
    return group(lambda found, nonce: [*found[:index], make(nonce), *found[index + 1 :]])


def in_mode(device: gpu.SimulatedDevice, nonce: bytes, mode: int) -> DeviceEvidence:
    """A device whose feature flag says ``mode``."""
    fields = gpu.gpu_opaque(device)
    said = tuple((number, bytes([mode, 0]) if number == 36 else value) for number, value in fields)
    return gpu.device_evidence(device, nonce, said)


def swapped_digests() -> Document:
    """The devices section lists another chain than the document has."""
    honest = gpus.document()
    other = DeviceEvidence("gpu", honest.device_evidence[0].report, honest.device_evidence[0].certificates + b"\n")
    return dataclasses.replace(honest, device_evidence=(other,))


def bad_signature() -> Document:
    def made(nonce: bytes) -> list[DeviceEvidence]:
        (device,) = gpu.evidence(nonce)
        report = device.report[:-1] + bytes([device.report[-1] ^ 1])
        return [dataclasses.replace(device, report=report)]

    return gpus.document(made=made)


def other_measurement() -> Document:
    return one(measurements=(b"\1" * 48, *HOPPER_0.measurements[1:]))


def revoked(number: int = 1) -> NvidiaCollateral:
    full = gpus.collateral()
    parts = gpu.device_chain(HOPPER_0)
    key = gpupki.private_key(f"{HOPPER.chip} provisioner")
    bad = gpupki.answer(parts[1], parts[2], key, NOW, status=ocsp.OCSPCertStatus.REVOKED)
    return dataclasses.replace(full, ocsp=(bad, *full.ocsp[1:]))


def without_rims() -> NvidiaCollateral:
    return NvidiaCollateral(gpu.answers(gpu.GPUS[:1], NOW))


FULL = gpus.collateral()
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no evidence": ({"given": gpus.document(made=lambda nonce: []), "nvidia": NvidiaCollateral()}, {"gpu-evidence"}),
    "one too few": (
        {"given": gpus.document(2, made=lambda nonce: gpu.evidence(nonce, 1)), "expected": gpus.expected(2)},
        {"gpu-count"},
    ),
    "one too many": (
        {"given": gpus.document(made=lambda nonce: gpu.evidence(nonce, 2)), "nvidia": gpus.collateral(2)},
        {"gpu-count"},
    ),
    "none declared": (
        {"given": samples.document(devices=gpu.evidence), "expected": samples.EXPECTED},
        {"gpu-count"},
    ),
    "collateral without devices": (
        {"given": samples.document(), "expected": samples.EXPECTED, "nvidia": gpus.collateral()},
        {"gpu-collateral"},
    ),
    "other digests": ({"given": swapped_digests()}, {"gpu-digest"}),
    "another nonce": ({"given": gpus.document(made=lambda nonce: gpu.evidence(bytes([1] * 32)))}, {"gpu-nonce"}),
    "the sample nonce": (
        {
            "given": gpus.document(
                made=lambda nonce: gpu.evidence(
                    bytes.fromhex("4cff7f5380ead8fad8ec2c531c110aca4302a88f603792801a8ca29ee151af2e")
                )
            )
        },
        {"gpu-nonce", "gpu-sample"},
    ),
    "the canned report": (
        {
            "given": gpus.document(made=lambda nonce: [gpus.CANNED]),
            "nvidia": NvidiaCollateral(),
            "policy": policy(require_rims=False, require_revocation=False),
        },
        {"gpu-nonce", "gpu-sample", "gpu-driver"},
    ),
    "simulated": (
        {"policy": NvidiaPolicy(), "nvidia": NvidiaCollateral()},
        {"gpu-simulated"},
    ),
    "not signed": ({"given": bad_signature(), "nvidia": NvidiaCollateral()}, {"gpu-signature"}),
    "not checked": ({"checked": gpus.CheckedDevices()}, {"gpu-signature"}),
    "another device's chain": (
        {"given": one(certificates=gpu.device_chain(gpu.GPUS[1])), "nvidia": NvidiaCollateral()},
        {"gpu-signature"},
    ),
    "a chain without its root": (
        {"given": one(certificates=gpu.device_chain(HOPPER_0)[:-1]), "nvidia": NvidiaCollateral()},
        {"gpu-chain"},
    ),
    "other firmware than its key": ({"given": says((20, bytes(48)))}, {"gpu-fwid"}),
    "no fwid": ({"given": says(without=20)}, {"gpu-fwid"}),
    "a device twice": (
        {"given": gpus.document(2, made=lambda nonce: [*gpu.evidence(nonce)] * 2), "expected": gpus.expected(2)},
        {"gpu-duplicate"},
    ),
    "a device twice, with two answers": (
        {
            "given": gpus.document(
                2,
                made=lambda nonce: [
                    *gpu.evidence(nonce),
                    gpu.device_evidence(HOPPER_0, nonce, gpu.gpu_opaque(HOPPER_0)[::-1]),
                ],
            ),
            "expected": gpus.expected(2),
        },
        {"gpu-duplicate"},
    ),
    "a switch with another's name": (
        {
            "given": replaced(
                8,
                lambda nonce: gpu.device_evidence(
                    gpu.SWITCHES[0], nonce, gpu.switch_opaque(gpu.SWITCHES[1], gpu.GPUS)
                ),
            ),
            "count": (8, 4),
        },
        {"gpu-chain"},
    ),
    "a device that is not on the list": ({"policy": policy(devices=frozenset({bytes(8)}))}, {"gpu-device"}),
    "another architecture declared": (
        {"expected": gpus.expected(architecture="blackwell")},
        {"gpu-architecture"},
    ),
    "an architecture that the policy lacks": (
        {"policy": policy(architectures=frozenset())},
        {"gpu-architecture"},
    ),
    "another driver": ({"given": says((3, b"550.54.14\0"))}, {"gpu-driver", "gpu-rim", "gpu-collateral"}),
    "another VBIOS": (
        {"given": says((6, bytes.fromhex("00a5009602000000")))},
        {"gpu-vbios", "gpu-rim", "gpu-collateral"},
    ),
    "no accepted firmware": ({"policy": policy(firmware=frozenset())}, {"gpu-driver"}),
    "a pair of two accepted ones": (
        {"policy": policy(firmware=frozenset({Firmware("590.12", "96.00.00.00.00")}))},
        {"gpu-vbios"},
    ),
    "a switch's firmware": ({"count": (8, 4), "policy": policy(switch_firmware=frozenset())}, {"gpu-vbios"}),
    "other measurements": ({"given": other_measurement()}, {"gpu-measurements"}),
    "fewer measurements": (
        {"given": one(measurements=HOPPER_0.measurements[:-1])},
        {"gpu-measurements"},
    ),
    "more measurements": (
        {"given": one(measurements=(*HOPPER_0.measurements, bytes(48)))},
        {"gpu-measurements"},
    ),
    "no reference values": ({"nvidia": without_rims()}, {"gpu-rim"}),
    "reference values that overlap": (
        {
            "nvidia": dataclasses.replace(
                FULL, rims=(FULL.rims[0], gpu.rim("GH100", gpu.DRIVER, dict(enumerate(HOPPER_0.measurements))))
            )
        },
        {"gpu-measurements"},
    ),
    "reference values of another key": (
        {"nvidia": dataclasses.replace(FULL, rims=(FULL.rims[0], FULL.rims[1].replace(b"590.12", b"590.13")))},
        {"gpu-collateral", "gpu-rim"},
    ),
    "reference values that nobody needs": (
        {"nvidia": dataclasses.replace(FULL, rims=(*FULL.rims, gpu.rim("GH100", "1.2", {1: bytes(48)})))},
        {"gpu-collateral"},
    ),
    "no answers": ({"nvidia": dataclasses.replace(FULL, ocsp=())}, {"gpu-revocation"}),
    "an answer missing": ({"nvidia": dataclasses.replace(FULL, ocsp=FULL.ocsp[1:])}, {"gpu-revocation"}),
    "old answers": ({"nvidia": dataclasses.replace(gpus.collateral(now=NOW - 7200))}, {"gpu-revocation"}),
    "answers older than the policy allows": (
        {"nvidia": gpus.collateral(now=NOW - 600), "policy": policy(max_revocation_age=300)},
        {"gpu-revocation"},
    ),
    "an answer that nobody needs": (
        {"nvidia": dataclasses.replace(gpus.collateral(2), rims=FULL.rims)},
        {"gpu-collateral"},
    ),
    "an answer twice": ({"nvidia": dataclasses.replace(FULL, ocsp=(*FULL.ocsp, FULL.ocsp[0]))}, {"gpu-collateral"}),
    "an answer of random bytes": ({"nvidia": dataclasses.replace(FULL, ocsp=(*FULL.ocsp, b"0"))}, {"gpu-collateral"}),
    "revoked": ({"nvidia": revoked()}, {"gpu-revoked"}),
    "revoked, where answers are not required": (
        {"nvidia": revoked(), "policy": policy(require_revocation=False)},
        {"gpu-revoked"},
    ),
    "confidential mode off": (
        {"given": gpus.document(agent_events=gpus.events(1, 0, cc="off"))},
        {"gpu-cc-off", "agent-events", "rtmr3"},
    ),
    "developer tools on": (
        {"given": gpus.document(agent_events=gpus.events(1, 0, devtools="on"))},
        {"gpu-devtools", "agent-events", "rtmr3"},
    ),
    "nothing recorded": (
        {"given": gpus.document(agent_events=samples.AGENT_EVENTS)},
        {"gpu-cc-off", "gpu-devtools", "agent-events", "rtmr3"},
    ),
    "a mode without switches": ({"given": says((21, b"\xaa"), (36, b"\2\0"))}, {"gpu-topology"}),
    "a mode that the status contradicts": ({"given": says((21, b"\xaa"))}, {"gpu-topology"}),
    "switches without their mode": (
        {
            "count": (8, 4),
            "given": gpus.document(
                8, 4, made=lambda nonce: [*gpu.evidence(nonce, 8), *gpu.evidence(nonce, 8, 4)[8:]]
            ),
        },
        {"gpu-topology"},
    ),
    "two modes": (
        {"count": (8, 4), "given": replaced(7, lambda nonce: gpu.evidence(nonce, 8)[7])},
        {"gpu-topology"},
    ),
    "a GPU of another group": (
        {
            "count": (8, 4),
            "given": replaced(
                0,
                lambda nonce: gpu.device_evidence(
                    HOPPER_0, nonce, gpu.gpu_opaque(HOPPER_0, [*gpu.SWITCHES[:3], gpu.SimulatedDevice(gpu.LS10, 9)])
                ),
            ),
        },
        {"gpu-topology"},
    ),
    "a GPU that is linked with three of four switches": (
        {
            "count": (8, 4),
            "given": replaced(
                0, lambda nonce: gpu.device_evidence(HOPPER_0, nonce, gpu.gpu_opaque(HOPPER_0, gpu.SWITCHES[:3]))
            ),
        },
        {"gpu-topology"},
    ),
    "two modes without switches": (
        {
            "count": (2, 0),
            "given": gpus.document(2, made=lambda nonce: [*gpu.evidence(nonce), in_mode(gpu.GPUS[1], nonce, 1)]),
        },
        {"gpu-topology"},
    ),
    "a switch of another group": (
        {
            "count": (8, 4),
            "given": replaced(
                11,
                lambda nonce: gpu.device_evidence(
                    gpu.SWITCHES[3],
                    nonce,
                    gpu.switch_opaque(gpu.SWITCHES[3], [*gpu.GPUS[:7], gpu.SimulatedDevice(HOPPER, 9)]),
                ),
            ),
        },
        {"gpu-topology"},
    ),
    "four of eight": (
        {
            "count": (4, 4),
            "given": gpus.document(
                4, 4, made=lambda nonce: [*gpu.evidence(nonce, 8, 4)[:4], *gpu.evidence(nonce, 8, 4)[8:]]
            ),
        },
        {"gpu-topology"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_bent_part_is_its_own_refusal(name: str) -> None:
    changes, wanted = CASES[name]
    arguments = dict(changes)
    count, switches = arguments.pop("count", (1, 0))
    verdict = gpus.judge(count, switches, **arguments)
    assert codes(verdict) == wanted, [refusal.to_dict() for refusal in verdict.refusals]
    assert verdict.exit_code == 8


def test_every_code_is_given_by_some_case() -> None:
    declared = set().union(*(check.codes for check in NVIDIA_CHECKS))
    assert declared <= set().union(*(wanted for _, wanted in CASES.values()))


def test_the_policy_relaxes_answers_and_reference_values_only() -> None:
    relaxed = policy(require_rims=False, require_revocation=False)
    verdict = gpus.judge(nvidia=NvidiaCollateral(), policy=relaxed)
    assert verdict.refusals == ()
    assert "GPUs: measurements not compared, there are no reference values" in verdict.notes
    assert "GPUs: revocation of 3 certificates not known" in verdict.notes
    assert {refusal.code for refusal in verdict.relaxed} == {"gpu-rim", "gpu-revocation"}
    assert gpus.judge(policy=relaxed).relaxed == ()
    assert codes(gpus.judge(given=other_measurement(), policy=relaxed)) == {"gpu-measurements"}


def test_an_answer_to_the_callers_own_request_is_new() -> None:
    """Whatever its time says, as long as it is valid."""
    parts = gpu.device_chain(HOPPER_0)
    key = gpupki.private_key(f"{HOPPER.chip} provisioner")
    nonce = b"a caller's nonce"
    first = gpupki.answer(parts[1], parts[2], key, NOW - 600, nonce=nonce)
    given = dataclasses.replace(FULL, ocsp=(first, *FULL.ocsp[1:]))
    strict = policy(max_revocation_age=300)
    assert codes(gpus.judge(nvidia=given, policy=strict)) == {"gpu-revocation"}
    assert gpus.judge(nvidia=dataclasses.replace(given, nonces=frozenset({nonce})), policy=strict).refusals == ()


def test_a_simulated_gpu_is_never_accepted_as_genuine() -> None:
    """Also in a genuine TD."""
    facts = samples.facts_of(gpus.document())
    checked = gpus.devices.check(facts, FULL, now=NOW, simulated_roots=gpus.ROOTS)
    assert simulated(DeviceCase(facts, checked, gpus.Gpus("hopper", 1), gpus.ALLOWED))
    genuine = samples.genuine(samples.signature_of(gpus.document()))
    verdict = gpus.judge(signature=genuine)
    assert (verdict.outcome, verdict.refusals) == (Outcome.ACCEPTED_SIMULATED, ())
    real = dataclasses.replace(
        checked,
        devices=(dataclasses.replace(checked.devices[0], root_sha256=NVIDIA_ROOT_SHA256),),
        rims=tuple(dataclasses.replace(each, root_sha256=NVIDIA_RIM_ROOT_SHA256) for each in checked.rims),
    )
    assert gpus.judge(signature=genuine, checked=real).outcome is Outcome.ACCEPTED
    for part in ("devices", "rims"):  # also with reference values of the simulation alone
        mixed = dataclasses.replace(real, **{part: getattr(checked, part)})
        assert gpus.judge(signature=genuine, checked=mixed).outcome is Outcome.ACCEPTED_SIMULATED


def test_the_pinned_roots_are_those_that_are_checked() -> None:
    assert hashlib.sha256(chain.NVIDIA_ROOT_DER).hexdigest() == NVIDIA_ROOT_SHA256
    assert hashlib.sha256(rim.NVIDIA_RIM_ROOT_DER).hexdigest() == NVIDIA_RIM_ROOT_SHA256


# --- real devices ---------------------------------------------------------------------------------------------------

NO_COLLATERAL = NvidiaPolicy(require_rims=False, require_revocation=False)


def real(
    *evidence: DeviceEvidence, expected: gpus.Gpus | None, chosen: NvidiaPolicy = NO_COLLATERAL, **changes: Any
) -> set[str]:
    """The codes for real devices: as in a document that asked for the nonce which they signed."""
    claims = gpus.claims_of(evidence)
    count, switches = (expected.count, expected.switches) if expected else (0, 0)
    facts = dataclasses.replace(
        samples.facts_of(samples.document(agent_events=gpus.events(count, switches))),
        device_nonce=claims[0][1].report.nonce,
        device_evidence=evidence,
        device_claims=tuple(claim for _, claim in claims),
        devices=listed(evidence),
    )
    case = DeviceCase(facts, gpus.check(*evidence, **changes), expected, chosen)
    return {refusal.code for check in NVIDIA_CHECKS for refusal in check(case)}


ONE = gpus.Gpus("hopper", 1)
GROUP = gpus.Gpus("hopper", 8, 4)


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        ("580", set()),
        ("coco", set()),
        ("canned", {"gpu-sample", "gpu-driver"}),
        ("535", {"gpu-fwid", "gpu-driver"}),
        ("ppcie-0", {"gpu-topology"}),
        ("four-1", {"gpu-topology"}),
    ],
)
def test_a_real_gpu_alone(device: str, wanted: set[str]) -> None:
    assert real(gpus.REAL[device], expected=ONE) == wanted


def test_a_real_group_of_8_gpus_and_4_switches() -> None:
    assert real(*gpus.PPCIE, expected=GROUP) == set()
    assert real(*gpus.PPCIE, expected=GROUP, chosen=NvidiaPolicy()) == {"gpu-rim", "gpu-revocation"}


@pytest.mark.parametrize(
    ("evidence", "expected", "wanted"),
    [
        (gpus.PPCIE[:8], GROUP, {"gpu-count", "gpu-topology"}),
        (gpus.PPCIE[1:], GROUP, {"gpu-count", "gpu-topology"}),
        ((*gpus.PPCIE[:11], gpus.PPCIE[10]), GROUP, {"gpu-duplicate", "gpu-topology"}),
        ((*gpus.PPCIE[:7], gpus.PPCIE[0], *gpus.PPCIE[8:]), GROUP, {"gpu-duplicate", "gpu-topology"}),
        (gpus.FOUR, gpus.Gpus("hopper", 4), {"gpu-topology"}),
        (
            (*gpus.FOUR, *gpus.PPCIE[8:]),
            gpus.Gpus("hopper", 4, 4),
            {"gpu-nonce", "gpu-topology"},
        ),
        (
            (*gpus.PPCIE[:8], *[gpus.LS10] * 4),
            GROUP,
            {"gpu-nonce", "gpu-sample", "gpu-duplicate", "gpu-vbios", "gpu-topology"},
        ),
    ],
    ids=[
        "no switches",
        "a GPU missing",
        "a switch twice",
        "a GPU twice",
        "four of eight",
        "two machines",
        "one switch four times",
    ],
)
def test_incomplete_and_mixed_groups(
    evidence: tuple[DeviceEvidence, ...], expected: gpus.Gpus, wanted: set[str]
) -> None:
    assert real(*evidence, expected=expected) == wanted


def test_a_report_from_before_its_certificates_is_refused() -> None:
    """Device certificates never expire; the only other time is before they were made."""
    assert real(gpus.R580, expected=ONE, now=1_500_000_000) == {"gpu-chain"}


def test_a_byte_after_a_real_report_is_refused() -> None:
    with pytest.raises(EvidenceError, match="1 bytes after the signature"):
        gpus.claims_of([gpus.COCO])
