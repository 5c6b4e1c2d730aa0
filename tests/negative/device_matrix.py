"""The evidence of GPUs and switches altered byte by byte, and what this verifier says; a part of `matrix`.

Reports, chains and reference values are published ones of real devices; revocation answers are simulated, because
none was published. Each part is checked by itself, because in a document a digest refuses every altered report,
whether its signature is checked or not. A sample of each part is altered in a document too.
"""

from __future__ import annotations

import base64
import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.negative import altered, device_case, devicepki, forge, pki
from tests.negative.case import HONEST
from tests.negative.devices import Evidence
from tests.negative.tally import Codes, Tally
from tests.published import read

from privml.base.errors import EvidenceError
from privml.client import attested
from privml.evidence.certificates import UnfitError
from privml.evidence.claims import SignatureFailure
from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import ocsp, report, signature
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.statement.predicate import Predicate
from privml.verify.anchor import Built, Expected
from privml.verify.nvidia import NvidiaPolicy
from privml.verify.policy import Policy

NOW = forge.NOW
GPU = device_case.published_gpu(f"{device_case.SDK}/unit")
SWITCH = device_case.published(f"{device_case.SDK}/switch_evidence_ls10.json")[0]
RIM = read(f"{device_case.SDK}/unit/NV_GPU_DRIVER_GH100_550.144.03.xml")
_, ROM, *ABOVE = device_case.GPU.certificates()
AUTHORITIES = [x509.load_der_x509_certificate(each.der) for each in (ROM, *ABOVE)]
ANSWER = devicepki.Answer(ROM, NOW)
GUEST = HONEST.with_(events=device_case.log(1, 0), equipment=device_case.ONE)
CARRIED = {"tdx": GUEST.platform.collateral(), "nvidia": device_case.collateral(*device_case.ONE)}
EXPECTED = Expected(Predicate.from_dict(device_case.needs(1)), Built("the matrix"))
POLICY = Policy(
    allow_simulated=x509.load_pem_x509_certificate(pki.ROOT_PEM).public_bytes(Encoding.DER),
    nvidia=NvidiaPolicy(allow_simulated=(devicepki.ROOT.der, devicepki.RIM_ROOT.der)),
)
IN_DOCUMENT = 40
"""Positions altered in each part of a document if all are altered in the parts by themselves."""


def judged_device(device: Evidence) -> Codes:
    """The code for one device, from the check of its report and chain alone."""
    given = DeviceEvidence(device.kind, device.report, device.certificates)
    try:
        claims = report.read(given.kind, given.report)
    except EvidenceError:
        return frozenset()
    (found,) = signature.check([(given, claims)], NvidiaCollateral(), now=NOW).devices
    return frozenset({found.code}) if isinstance(found, SignatureFailure) else None


def judged_rim(data: bytes) -> Codes:
    """What reference values are refused with that cannot be verified."""
    failures = signature.check([], NvidiaCollateral(rims=(data,)), now=NOW).rim_failures
    return frozenset({"gpu-collateral"}) if failures else None


def judged_answer(data: bytes) -> Codes:
    """What a revocation answer about `ROM` is refused with."""
    try:
        found = ocsp.check(ocsp.load(data), AUTHORITIES[0], AUTHORITIES[1:], now=NOW)
    except UnfitError:
        return frozenset({"gpu-revocation"})
    return frozenset({"gpu-revoked"}) if found.revoked else None


def judged_document(data: bytes) -> Codes:
    """The codes for a document with a GPU that brings its collateral."""
    try:
        verdict = attested.judge(
            data, EXPECTED, POLICY, now=NOW, nonce=forge.NONCE, tls_spki_sha256=forge.SPKI
        ).verdict  # fmt: skip
    except EvidenceError:
        return frozenset()
    return frozenset(refusal.code for refusal in verdict.refusals) or None


@dataclass(frozen=True)
class Part:
    """A part of the evidence: its honest bytes, how others are judged, and the code that these need.

    ``kind`` is that of a change without a meaning. ``twins`` have another valid signature, as `altered.twins`;
    those of a root are refused, because it is compared byte by byte.
    """

    given: bytes
    judge: Callable[[bytes], Codes]
    needed: frozenset[str]
    kind: Callable[[bytes, bytes], str | None] = lambda _given, _changed: None
    twins: tuple[bytes, ...] = ()
    root: bool = False


def _parts(device: Evidence, name: str) -> dict[str, Part]:
    def of(field: str) -> Callable[[bytes], Codes]:
        return lambda data: judged_device(dataclasses.replace(device, **{field: data}))

    def chain_kind(given: bytes, changed: bytes) -> str | None:
        return altered.kind_of_chain(given.decode("latin-1"), changed.decode("latin-1"))

    return {
        f"{name} report": Part(
            device.report, of("report"), frozenset({"gpu-signature"}), twins=(altered.report_twin(device.report),)
        ),
        f"{name} chain": Part(
            device.certificates, of("certificates"), frozenset({"gpu-chain"}), chain_kind,
            tuple(altered.chain_twins(device.certificates)), root=True,
        ),
    }  # fmt: skip


PARTS: dict[str, Part] = {
    **_parts(GPU, "GPU"),
    **_parts(SWITCH, "switch"),
    "reference values": Part(
        RIM, judged_rim, frozenset({"gpu-collateral"}), altered.kind_of_rim, tuple(altered.rim_twins(RIM)), root=True
    ),
    "revocation answer": Part(
        ANSWER.der, judged_answer, frozenset({"gpu-revocation"}), twins=(altered.answer_twin(ANSWER.der),)
    ),
}


def of_part(name: str, count: int) -> Tally:
    """Alter one part by itself."""
    part, rng, tally = PARTS[name], random.Random(name), Tally()
    if part.judge(part.given) is not None:
        tally.wrong.append(f"{name}: the control is refused")
    places = iter(altered.positions(part.given, count, rng))
    for number, changed in enumerate((*altered.ends(part.given), *altered.altered(part.given, places, rng))):
        if changed != part.given:
            found = part.judge(changed)
            kind = part.kind(part.given, changed) if found is None else None
            tally.add(f"{name} {number}", found, part.needed, kind)
    return tally


def of_twins() -> Tally:
    """The twins of all signatures of all parts."""
    tally = Tally()
    for name, part in PARTS.items():
        for number, changed in enumerate(part.twins):
            root = part.root and number == len(part.twins) - 1
            found = part.judge(changed)
            kind = None if root else f"twin: {name}"
            tally.add(f"{name} twin {number}", found, part.needed, kind)
            if found is not None and not root:
                tally.wrong.append(f"{name} twin {number} is refused")
    return tally


def of_documents(count: int) -> Tally:
    """Alter each part in a document with one GPU. The quote covers report and chain, twins and endings included."""
    tally = Tally()
    if judged_document(GUEST.document(collateral=CARRIED)) is not None:
        tally.wrong.append("document with a GPU: the control is refused")
    (device,) = GUEST.evidence
    nvidia = CARRIED["nvidia"]

    def alter(name: str, data: bytes, needed: frozenset[str], write: Callable[[bytes], bytes], rim: bool) -> None:
        rng = random.Random(name)
        for number, changed in enumerate(altered.altered(data, iter(altered.positions(data, count, rng)), rng)):
            if changed != data:
                found = judged_document(write(changed))
                kind = altered.kind_of_rim(data, changed) if rim and found is None else None
                tally.add(f"document with a GPU: {name} {number}", found, needed, kind)

    def with_device(field: str) -> Callable[[bytes], bytes]:
        return lambda changed: GUEST.document(
            collateral=CARRIED, device_evidence=[dataclasses.replace(device, **{field: changed}).field()]
        )

    def with_collateral(kind: str, at: int) -> Callable[[bytes], bytes]:
        def write(changed: bytes) -> bytes:
            items = [forge.b64(changed) if number == at else item for number, item in enumerate(nvidia[kind])]
            return GUEST.document(collateral={**CARRIED, "nvidia": {**nvidia, kind: items}})

        return write

    for field in ("report", "certificates"):
        alter(field, getattr(device, field), frozenset({"gpu-digest"}), with_device(field), rim=False)
    for kind, needed in (("ocsp", {"gpu-revocation", "gpu-collateral"}), ("rims", {"gpu-collateral"})):
        for at, item in enumerate(nvidia[kind]):
            data = base64.b64decode(item)
            alter(f"{kind} {at}", data, frozenset(needed), with_collateral(kind, at), rim=kind == "rims")
    return tally


def sweeps(count: int) -> dict[str, Callable[[], Tally]]:
    """As `matrix.sweeps`, for devices."""
    many = count * 2 // 5
    few = count // 150 if count else IN_DOCUMENT
    return {
        **{name: lambda name=name: of_part(name, many) for name in PARTS},
        "device twins": of_twins,
        "documents with a GPU": lambda: of_documents(min(max(few, 1), IN_DOCUMENT)),
    }
