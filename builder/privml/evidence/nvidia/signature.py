"""Check the signatures of all devices of a document: reports, chains, revocation answers, reference values.

Never imported by the guest. No policy is applied here; `verify.nvidia` decides what is acceptable. What devices share
(certificates, answers) is checked once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509 import ocsp as x509_ocsp

from privml.evidence.certificates import UnfitError, decode_pem, name_text
from privml.evidence.claims import SignatureFailure
from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import chain, ocsp, rim, roles
from privml.evidence.nvidia.claims import CheckedDevices, DeviceFacts, Revocation, Unanswered
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.evidence.nvidia.report import DeviceClaims
from privml.evidence.nvidia.roles import Naming, Verified

SIMULATED = b"SIMULATED"
"""The word in every subject of a simulated PKI (`sim.gpupki`), used only to explain a refusal."""


@dataclass(frozen=True)
class Anchors:
    """The roots to accept: NVIDIA's, and those of a simulation (DER) if the caller allows one."""

    simulated: tuple[bytes, bytes] | None = None
    """The simulation's device root and its root of reference values."""

    def devices(self) -> list[tuple[bytes, Naming]]:
        """The roots of devices, with their names."""
        return [
            (chain.NVIDIA_ROOT_DER, roles.NVIDIA),
            *([(self.simulated[0], roles.SIMULATION)] if self.simulated else []),
        ]

    def rims(self) -> list[tuple[bytes, Naming]]:
        """The roots of reference values, with their names."""
        return [
            (rim.NVIDIA_RIM_ROOT_DER, roles.NVIDIA),
            *([(self.simulated[1], roles.SIMULATION)] if self.simulated else []),
        ]


def check(
    devices: Sequence[tuple[DeviceEvidence, DeviceClaims]],
    collateral: NvidiaCollateral,
    *,
    now: int,
    anchors: Anchors = Anchors(),
) -> CheckedDevices:
    """Check all devices at ``now`` (Unix seconds by the caller's clock).

    Returns failures instead of raising, because a verdict lists every reason.
    """
    verified = Verified()
    chains: list[tuple[x509.Certificate, ...]] = []
    found: list[DeviceFacts | SignatureFailure] = []
    for evidence, claims in devices:
        device = _device(evidence, claims, now, anchors, verified)
        if isinstance(device, SignatureFailure):
            found.append(device)
        else:
            facts, read = device
            found.append(facts)
            # No authority can be asked about the leaf: the device itself makes it.
            chains.append(read.certificates[1:])
    rims, failures = [], []
    for data in collateral.rims:
        try:
            made = rim.read_under(data, anchors.rims(), now=now, verified=verified)
        except UnfitError as error:
            failures.append((error.found, error.expected))
            continue
        rims.append(made.rim)
        chains.append(made.certificates)
    revocation, unread = _revocation(chains, collateral, now)
    return CheckedDevices(tuple(found), revocation, tuple(rims), tuple(failures), tuple(unread))


def _device(
    evidence: DeviceEvidence, claims: DeviceClaims, now: int, anchors: Anchors, verified: Verified
) -> tuple[DeviceFacts, chain.DeviceChain] | SignatureFailure:
    simulated = _claims_simulation(evidence.certificates)
    failures = []
    for root, naming in anchors.devices():
        try:
            read = chain.read(
                evidence.kind, evidence.certificates, root=root, naming=naming, now=now, verified=verified
            )
        except UnfitError as error:
            failures.append(SignatureFailure("gpu-chain", error.found, error.expected, simulated))
            continue
        if not read.has_signed(claims.report):
            wanted = "the signature of the chain's first key"
            return SignatureFailure("gpu-signature", "an invalid signature", wanted, simulated)
        facts = DeviceFacts(
            evidence_sha256=claims.evidence_sha256,
            root_sha256=hashlib.sha256(root).hexdigest(),
            time=now,
            claims_simulated=simulated,
            family=read.family,
            pdi=read.pdi,
            fwid=read.fwid,
        )
        return facts, read
    # Report the failure for the root that the chain names.
    return failures[-1 if simulated else 0]


def _claims_simulation(pem: bytes) -> bool:
    """True if a certificate contains the word SIMULATED. This is a claim, not a proof."""
    try:
        return any(SIMULATED in der for der in decode_pem(pem, limit=chain.MAX_CHAIN))
    except UnfitError:
        return False


def _revocation(
    chains: Sequence[Sequence[x509.Certificate]], collateral: NvidiaCollateral, now: int
) -> tuple[Revocation, list[str]]:
    """Find the answer for each certificate of ``chains`` but their roots, each certificate once."""
    waiting, unread = _answers(collateral.ocsp)
    seen: set[x509.Certificate] = set()
    times: list[int] = []
    revoked: list[str] = []
    unanswered: list[Unanswered] = []
    for certificates in chains:
        for number, certificate in enumerate(certificates[:-1]):
            if certificate in seen:
                continue
            seen.add(certificate)
            name = name_text(certificate.subject)
            response = waiting.pop(certificate.serial_number, None)
            if response is None:
                unanswered.append(Unanswered(name, "no answer", "an OCSP answer"))
                continue
            try:
                answer = ocsp.check(response, certificate, certificates[number + 1 :], now=now)
            except UnfitError as error:
                unanswered.append(Unanswered(name, error.found, error.expected))
                continue
            if answer.revoked:
                revoked.append(name)
            else:
                times.append(now if answer.nonce in collateral.nonces else answer.time)
    unread += [f"the answer for certificate {serial:x}, which nothing here needs" for serial in waiting]
    oldest = min(times, default=None)
    return Revocation(len(times), oldest, tuple(revoked), tuple(unanswered)), unread


def _answers(encoded: Sequence[bytes]) -> tuple[dict[int, x509_ocsp.OCSPResponse], list[str]]:
    """Answers by the serial number of their certificate, and those that cannot be used at all."""
    found: dict[int, x509_ocsp.OCSPResponse] = {}
    unread = []
    for number, der in enumerate(encoded, start=1):
        try:
            response = ocsp.load(der)
        except UnfitError as error:
            unread.append(f"answer {number} is {error.found}")
            continue
        if response.serial_number in found:
            unread.append(f"answer {number} is a second one for the same certificate")
        else:
            found[response.serial_number] = response
    return found, unread
