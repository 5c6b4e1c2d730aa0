"""NVIDIA GPUs and NVSwitches: the policy for their evidence, and its checks.

The report of a device proves that genuine NVIDIA firmware signed the document's own nonce, and what it measured. That
it works in confidential mode and without developer tools is what the measured agent read from the driver: its
`gpu-ready` event, which RTMR3 and the report data cover. Neither proves in which machine the device is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.base.strictjson import loads
from privml.events import agent
from privml.evidence.claims import SignatureFailure
from privml.evidence.document import GPU, SWITCH, listed
from privml.evidence.facts import Facts
from privml.evidence.nvidia import samples, topology
from privml.evidence.nvidia.claims import CheckedDevices, DeviceFacts, Rim, mismatches
from privml.evidence.nvidia.families import ARCHITECTURES
from privml.evidence.nvidia.opaque import GpuOpaque, SwitchOpaque
from privml.evidence.nvidia.report import DeviceClaims
from privml.statement.gpus import Gpus
from privml.verify import policyfield
from privml.verify.policyfield import hex_list, number, records, setting, switch, text, texts
from privml.verify.rules import Check, any_of, refuses
from privml.verify.verdict import Refusal

NVIDIA_ROOT_SHA256 = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
"""SHA-256 of the DER of the NVIDIA Device Identity CA."""

NVIDIA_RIM_ROOT_SHA256 = "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"
"""SHA-256 of the DER of the NVIDIA CoRIM signing Root CA."""

NVDEC_INDEX = 35
"""The measurement that is not compared while NVDEC0 is off (NVIDIA/nvtrust)."""

_DAY = 24 * 3600


@dataclass(frozen=True)
class Firmware:
    """An accepted pair of driver and VBIOS."""

    driver: str = setting(text(), "", "Version of the driver, as 590.12.")
    vbios: str = setting(text(), "", "Version of the VBIOS, as 96.00.A5.00.01.")


@dataclass(frozen=True)
class NvidiaPolicy:
    """Acceptance criteria for GPUs and NVSwitches. Defaults are strict.

    The defaults of the two lists of firmware are of 2026-11-29: what public, signed evidence shows and no advisory
    names. ``allow_simulated`` has the DER of a simulation's two roots (devices, reference values), or is None.
    """

    architectures: frozenset[str] = setting(
        texts(*ARCHITECTURES),
        frozenset(ARCHITECTURES),
        "Accepted architectures of GPUs.",
        sets={"gpu-architecture"},
    )
    firmware: frozenset[Firmware] = setting(
        records(Firmware),
        frozenset(
            {
                Firmware("580.95.05", "96.00.74.00.1A"),
                Firmware("580.159.03", "96.00.74.00.20"),
                Firmware("590.12", "96.00.A5.00.01"),
            }
        ),
        "Accepted pairs of driver and VBIOS of a GPU.",
        relaxes={"gpu-driver", "gpu-vbios"},
    )
    switch_firmware: frozenset[str] = setting(
        texts(), frozenset({"96.10.73.00.01"}), "Accepted VBIOS versions of an NVSwitch.", relaxes={"gpu-vbios"}
    )
    devices: frozenset[bytes] = setting(
        hex_list(8), frozenset(), "Accepted devices, by PDI. Empty: any genuine device.", sets={"gpu-device"}
    )
    require_rims: bool = setting(
        switch(), True, "Whether NVIDIA's reference values must be there for each device.", relaxes={"gpu-rim"}
    )
    require_revocation: bool = setting(
        switch(), True, "Whether each certificate needs a revocation answer.", relaxes={"gpu-revocation"}
    )
    max_revocation_age: int = setting(
        number(60, 366 * _DAY),
        _DAY,
        "Maximum age of a revocation answer, in seconds.",
        relaxes={"gpu-revocation"},
        strictest=min,
    )
    allow_simulated: tuple[bytes, bytes] | None = None

    def __post_init__(self) -> None:
        policyfield.check(self)


@dataclass(frozen=True)
class DeviceCase:
    """The input of these checks. ``expected`` are the GPUs that the statement declares."""

    facts: Facts
    checked: CheckedDevices
    expected: Gpus | None
    policy: NvidiaPolicy

    @property
    def devices(self) -> Iterator[tuple[str, DeviceClaims, DeviceFacts | SignatureFailure | None]]:
        """Each device: its name in a verdict (``GPU 1``), its claims, and the result of its signature check."""
        numbers: Counter[str] = Counter()
        for index, claims in enumerate(self.facts.device_claims):
            numbers[claims.kind] += 1
            result = self.checked.devices[index] if index < len(self.checked.devices) else None
            yield f"{_NAMES[claims.kind]} {numbers[claims.kind]}", claims, result

    def genuine(self, kind: str) -> list[tuple[str, DeviceClaims, DeviceFacts]]:
        """The devices of a kind whose signature is valid."""
        return [
            (name, claims, facts)
            for name, claims, facts in self.devices
            if claims.kind == kind and isinstance(facts, DeviceFacts)
        ]


_NAMES = {GPU: "GPU", SWITCH: "switch"}


@refuses(
    {
        "gpu-evidence": "the image has GPUs but the document has no evidence for them",
        "gpu-count": "the number of GPUs or switches is not the one in the statement",
        "gpu-digest": "the devices section does not list exactly the evidence in the document",
    }
)
def presence(case: DeviceCase) -> Iterator[Refusal]:
    """Check that the evidence is complete, and the same as in the devices section."""
    evidence, expected = case.facts.device_evidence, case.expected
    found = Counter(device.kind for device in evidence)
    wanted = Counter({GPU: expected.count, SWITCH: expected.switches} if expected else {})
    if expected is not None and not evidence:
        yield Refusal("gpu-evidence", "none", "evidence for each declared GPU")
    elif +found != +wanted:
        yield Refusal("gpu-count", _counts(found), _counts(wanted))
    if case.facts.devices != listed(evidence):
        yield Refusal("gpu-digest", "other digests in the devices section", "those of the evidence, in its order")


def _counts(count: Counter[str]) -> str:
    return f"{count[GPU]} GPUs and {count[SWITCH]} switches"


@refuses(
    {
        "gpu-nonce": "a device signed another nonce",
        "gpu-sample": "a device's evidence is a published sample",
        "gpu-simulated": "a device is simulated, and no simulated GPU was allowed",
        "gpu-chain": "a device's certificates are not exactly a valid chain to NVIDIA's root",
        "gpu-signature": "a device's report is not signed with its key",
        "gpu-fwid": "a device's firmware is not the one that its key was made for",
        "gpu-duplicate": "two pieces of evidence are of the same device",
        "gpu-device": "a device is not in the policy's list",
    }
)
def identity(case: DeviceCase) -> Iterator[Refusal]:
    """Check that each report is a distinct, genuine device's answer to this document's nonce."""
    known: dict[bytes, str] = {}
    for name, claims, result in case.devices:
        nonce = claims.report.nonce
        if nonce != case.facts.device_nonce:
            yield Refusal("gpu-nonce", f"{name}: {nonce.hex()}", case.facts.device_nonce.hex())
        if nonce in samples.NONCES or claims.evidence_sha256 in samples.REPORTS:
            yield Refusal("gpu-sample", f"{name}: {claims.evidence_sha256}", "evidence of a machine")
        if not isinstance(result, DeviceFacts):
            yield _unsigned(name, result, case.policy)
            continue
        if result.evidence_sha256 != claims.evidence_sha256:
            yield Refusal("gpu-signature", f"{name}: a check of {result.evidence_sha256}", claims.evidence_sha256)
        said = claims.said
        if isinstance(said, GpuOpaque) and said.fwid != result.fwid:
            got = "no FWID" if said.fwid is None else said.fwid.hex()
            yield Refusal("gpu-fwid", f"{name}: {got}", f"{result.fwid.hex()}, the one in its certificate")
        if isinstance(said, SwitchOpaque) and said.pdi != result.pdi:
            yield Refusal(
                "gpu-chain", f"{name}: PDI {said.pdi.hex()}", f"{result.pdi.hex()}, the one in its certificate"
            )
        if result.pdi in known:
            yield Refusal("gpu-duplicate", f"{name} is {known[result.pdi]}: {result.pdi.hex()}", "distinct devices")
        known.setdefault(result.pdi, name)
        if case.policy.devices and result.pdi not in case.policy.devices:
            wanted = any_of(pdi.hex() for pdi in case.policy.devices)
            yield Refusal("gpu-device", f"{name}: {result.pdi.hex()}", wanted)


def _unsigned(name: str, result: SignatureFailure | None, policy: NvidiaPolicy) -> Refusal:
    if result is None:
        return Refusal("gpu-signature", f"{name}: not checked", "a check of its signature")
    if result.claims_simulated and policy.allow_simulated is None:
        return Refusal("gpu-simulated", f"{name}: a chain that says SIMULATED", "a chain from NVIDIA's root")
    return Refusal(result.code, f"{name}: {result.reason}", result.expected)


@refuses(
    {
        "gpu-architecture": "a GPU is of another architecture than the statement or the policy says",
        "gpu-driver": "a GPU's driver is not accepted",
        "gpu-vbios": "the VBIOS of a GPU or switch is not accepted with its driver",
        "gpu-measurements": "a device's measurements differ from NVIDIA's reference values",
        "gpu-rim": "there are no reference values for a device's firmware",
    }
)
def firmware(case: DeviceCase) -> Iterator[Refusal]:
    """Check architecture, versions and measurements of each device."""
    policy = case.policy
    for name, claims, facts in (*case.genuine(GPU), *case.genuine(SWITCH)):
        said, count = claims.said, len(claims.report.measurements)
        if count != facts.family.measurements:
            yield Refusal("gpu-measurements", f"{name}: {count} of them", str(facts.family.measurements))
        if isinstance(said, GpuOpaque):
            wanted = policy.architectures & ({case.expected.architecture} if case.expected else policy.architectures)
            if facts.family.name not in wanted:
                expected = any_of(wanted) or f"one of {any_of(policy.architectures)}"
                yield Refusal("gpu-architecture", f"{name}: {facts.family.name}", expected)
            yield from _versions(name, said, policy)
            versions = [said.driver, said.vbios]
        else:
            if said.vbios not in policy.switch_firmware:
                yield Refusal("gpu-vbios", f"{name}: {said.vbios}", any_of(policy.switch_firmware) or "none")
            versions = [said.vbios]
        yield from _measurements(case, name, claims, facts, versions)


def _versions(name: str, said: GpuOpaque, policy: NvidiaPolicy) -> Iterator[Refusal]:
    accepted = [pair.vbios for pair in policy.firmware if pair.driver == said.driver]
    if not accepted:
        wanted = any_of({pair.driver for pair in policy.firmware}) or "none"
        yield Refusal("gpu-driver", f"{name}: {said.driver}", wanted)
    elif said.vbios not in accepted:
        yield Refusal("gpu-vbios", f"{name}: {said.vbios} with driver {said.driver}", any_of(accepted))


def _measurements(
    case: DeviceCase, name: str, claims: DeviceClaims, facts: DeviceFacts, versions: Sequence[str]
) -> Iterator[Refusal]:
    """Compare with the reference values of each version. There may be several for one: one must fit."""
    off = isinstance(claims.said, GpuOpaque) and not claims.said.nvdec
    skip = frozenset({NVDEC_INDEX} if off else ())
    chosen: list[Rim] = []
    for version in versions:
        rims = _rims(case, facts, version)
        if not rims:
            if case.policy.require_rims:
                yield Refusal(
                    "gpu-rim", f"{name}: none for {version}", f"NVIDIA's for {facts.family.product} {version}"
                )
            continue
        chosen.append(min(rims, key=lambda rim: len(mismatches([rim], claims.report.measurements, skip))))
    try:
        different = mismatches(chosen, claims.report.measurements, skip)
    except EvidenceError as error:
        yield Refusal("gpu-measurements", f"{name}: {error.message}", "one for each")
        return
    if different:
        numbers = ", ".join(map(str, different))
        yield Refusal("gpu-measurements", f"{name}: other values at index {numbers}", "the reference values")


def _rims(case: DeviceCase, facts: DeviceFacts, version: str) -> list[Rim]:
    return [rim for rim in case.checked.rims if (rim.product, rim.version) == (facts.family.product, version.upper())]


@refuses(
    {
        "gpu-revocation": "a certificate has no valid revocation answer that is new enough",
        "gpu-revoked": "a certificate of a device or of reference values is revoked",
        "gpu-collateral": "reference values or a revocation answer are invalid, or belong to no device here",
    }
)
def revocation(case: DeviceCase) -> Iterator[Refusal]:
    """Check revocation, and that all collateral was used."""
    found, policy, checked = case.checked.revocation, case.policy, case.checked
    for name in found.revoked:
        yield Refusal("gpu-revoked", name, "a certificate that is not revoked")
    if policy.require_revocation and found.unanswered:
        first = found.unanswered[0]
        where = "\n".join(f"{each.certificate}: {each.found}" for each in found.unanswered)
        yield Refusal("gpu-revocation", f"{len(found.unanswered)} certificates: {first.found}", first.expected, where)
    times = [device.time for device in checked.devices if isinstance(device, DeviceFacts)]
    if policy.require_revocation and times and found.oldest is not None:
        age = max(times) - found.oldest
        if age > policy.max_revocation_age:
            yield Refusal("gpu-revocation", f"an answer {age} s old", f"at most {policy.max_revocation_age} s")
    for got, wanted in checked.rim_failures:
        yield Refusal("gpu-collateral", f"reference values: {got}", wanted)
    for unread in checked.unread:
        yield Refusal("gpu-collateral", unread, "only answers that are needed")
    used = {
        rim.sha256
        for _, claims, facts in (*case.genuine(GPU), *case.genuine(SWITCH))
        for version in claims.firmware.split("/")
        for rim in _rims(case, facts, version)
    }
    for rim in checked.rims:
        if rim.sha256 not in used:
            yield Refusal("gpu-collateral", f"reference values for {rim.product} {rim.version}", "only those needed")


@refuses(
    {
        "gpu-cc-off": "the agent did not record that the GPUs work in confidential mode",
        "gpu-devtools": "the agent did not record that developer tools are off",
        "gpu-topology": "GPUs and switches do not form one protected group",
    }
)
def state(case: DeviceCase) -> Iterator[Refusal]:
    """Check the modes that the agent recorded, and who is connected to whom."""
    if case.expected is None:
        return
    recorded = _recorded(case.facts)
    for code, key, wanted in (("gpu-cc-off", "cc", "on"), ("gpu-devtools", "devtools", "off")):
        if recorded.get(key) != wanted:
            got = f"{key} {recorded[key]}"[:80] if key in recorded else f"no `{agent.GPU_READY}` event"
            yield Refusal(code, got, f"`{agent.GPU_READY}` with {key} {wanted}")
    yield from _topology(case, case.expected)


def _recorded(facts: Facts) -> dict[str, object]:
    """The payload of the agent's `gpu-ready` event; empty if there is none that can be read."""
    for event in facts.agent_events:
        if event.name == agent.GPU_READY:
            try:
                payload = loads(event.payload, what=agent.GPU_READY)
            except EvidenceError:
                return {}
            return payload if isinstance(payload, dict) else {}
    return {}


def _topology(case: DeviceCase, expected: Gpus) -> Iterator[Refusal]:
    genuine = (*case.genuine(GPU), *case.genuine(SWITCH))
    members = [topology.Member(name, facts.pdi, claims.said) for name, claims, facts in genuine]
    for found, wanted in topology.faults(members, expected.switches):
        yield Refusal("gpu-topology", found, wanted)


CHECKS: tuple[Check[DeviceCase], ...] = (presence, identity, firmware, revocation, state)


def simulated(case: DeviceCase) -> bool:
    """True if a device or reference values have another root than NVIDIA's."""
    checked = case.checked
    devices = (device.root_sha256 for device in checked.devices if isinstance(device, DeviceFacts))
    values = (rim.root_sha256 for rim in checked.rims)
    return any(root != NVIDIA_ROOT_SHA256 for root in devices) or any(
        root != NVIDIA_RIM_ROOT_SHA256 for root in values
    )


def notes(case: DeviceCase) -> Iterator[str]:
    """Notes on the devices, and on what the policy does not check."""
    gpus, switches = case.genuine(GPU), case.genuine(SWITCH)
    for found in (gpus, switches):
        kinds = Counter((facts.family.name, claims.firmware) for _, claims, facts in found)
        for (family, version), count in sorted(kinds.items()):
            yield f"devices: {count} x {family}, {version}"
    if gpus:
        yield "GPUs: genuine and answering for this document; no evidence says in which machine they are"
        checked = case.checked
        if not checked.rims:
            yield "GPUs: measurements not compared, there are no reference values"
        if checked.revocation.unanswered:
            yield f"GPUs: revocation of {len(checked.revocation.unanswered)} certificates not known"
