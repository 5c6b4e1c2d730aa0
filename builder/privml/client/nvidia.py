"""NVIDIA's collateral of a document's devices: reference values (RIM) and revocation answers (OCSP).

Source of addresses, ids and requests: NVIDIA/nvtrust, ``local_gpu_verifier`` and ``nv_attestation_sdk``. Only devices
whose certificates lead to a pinned root are asked about. What arrives is checked like the document's own collateral
before it is kept, in the folder ``nvidia`` of the cache of `client.collateral`. Reference values are used as long as
they verify. An answer is used for an hour; while the responder is down, until it expires. The policy judges its age.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as x509_ocsp

from privml.base.deadline import Cutoff
from privml.base.errors import EvidenceError, PrivmlError
from privml.base.http import Connections, base_address
from privml.base.strictjson import loads, unb64
from privml.base.wayout import environment_way_out
from privml.client import collateral as cached
from privml.client.requests import Requests
from privml.evidence.certificates import UnfitError
from privml.evidence.document import DeviceEvidence
from privml.evidence.facts import Facts
from privml.evidence.nvidia import chain, ocsp, rim
from privml.evidence.nvidia.collateral import MAX_ANSWER, MAX_RIM, NvidiaCollateral
from privml.evidence.nvidia.families import Family
from privml.evidence.nvidia.opaque import GpuOpaque
from privml.evidence.nvidia.report import DeviceClaims
from privml.evidence.nvidia.roles import Verified
from privml.evidence.nvidia.signature import Anchors

log = logging.getLogger("privml")

RIM_SERVICE = "PRIVML_RIM_SERVICE"
OCSP_SERVICE = "PRIVML_OCSP_SERVICE"
"""Environment variables with the addresses of services to use instead of NVIDIA's."""

TIMEOUT = 60.0
FRESH = 3600
_MAX_FILES = 1000
_NONCE = 32
_REQUEST = "application/ocsp-request"


@dataclass(frozen=True)
class Services:
    """The addresses of the RIM service and the OCSP responder, without a final slash."""

    rim: str = "https://rim.attestation.nvidia.com"
    ocsp: str = "https://ocsp.ndis.nvidia.com"


NVIDIA = Services()


def services(rim: str | None, ocsp: str | None) -> Services:
    """The services at these addresses (None: NVIDIA's); ``UsageError`` for an address that is none."""
    return Services(base_address(rim or NVIDIA.rim), base_address(ocsp or NVIDIA.ocsp))


@dataclass(frozen=True)
class Wanted:
    """Reference values of one firmware: their id at the service, and the product and version that they must say."""

    name: str
    product: str
    version: str

    def check(self, found: rim.VerifiedRim) -> None:
        """Raise ``UnfitError`` if ``found`` is of another firmware."""
        said = (found.rim.product, found.rim.version)
        if said != (self.product, self.version.upper()):
            raise UnfitError(
                f"reference values for {' '.join(said)[:100]}", f"those for {self.product} {self.version}"
            )


def wanted(family: Family, claims: DeviceClaims) -> tuple[Wanted, ...]:
    """The reference values for a device's firmware."""
    said = claims.said
    vbios = said.vbios.replace(".", "").upper()
    if not isinstance(said, GpuOpaque):
        return (Wanted(f"NV_SWITCH_BIOS_{family.board}_{vbios}", family.product, said.vbios),)
    board = f"{said.project}_{said.project_sku}_{said.chip_sku}"
    return (
        Wanted(f"NV_GPU_DRIVER_{family.product}_{said.driver}", family.product, said.driver),
        Wanted(f"NV_GPU_VBIOS_{board}_{vbios}", family.product, said.vbios),
    )


def cache_directory() -> Path:
    """The folder ``nvidia`` of the collateral cache."""
    return cached.cache_directory() / "nvidia"


class Supply:
    """The collateral of a document's devices, from the cache and from ``where`` (None: no network).

    ``roots`` (DER, of devices and of reference values) are those of an allowed simulation. NVIDIA is not asked about
    simulated devices.
    """

    def __init__(
        self,
        where: Services | None,
        *,
        roots: tuple[bytes, bytes] | None = None,
        directory: Path | None = None,
        clock: cached.Clock | None = None,
    ) -> None:
        self.where = where
        self._anchors = Anchors(roots)
        self._directory = directory or cache_directory()
        self._clock = clock or time.time

    def __call__(self, found: Facts, *, own: bool) -> NvidiaCollateral | None:
        """What was found; None to use the document's ``own``, if it has some and anything is missing here.

        What could not be fetched is logged. Whether it is needed is the policy's decision.
        """
        now, verified = int(self._clock()), Verified()
        read = []
        for evidence, claims in zip(found.device_evidence, found.device_claims, strict=True):
            if (device := self._chain(evidence, now, verified)) is not None:
                read.append((device, claims))
        if not read:
            return None  # no devices, or the check of their chains says why not
        genuine = all(device.encoded[-1] == chain.NVIDIA_ROOT_DER for device, _ in read)
        where = self.where if genuine or self.where != NVIDIA else None
        chains = [device.certificates[1:] for device, _ in read]
        needed = tuple(dict.fromkeys(each for device, claims in read for each in wanted(device.family, claims)))
        rims: list[bytes] = []
        with _Session(where) as session:
            for each in needed:
                if (made := self._rim(each, session, now, verified)) is not None:
                    rims.append(made[0])
                    chains.append(made[1].certificates)
            answers = [self._answer(certificate, above, session, now) for certificate, above in _asked(chains)]
        known = [answer for answer in answers if answer is not None]
        if own and (len(rims) < len(needed) or len(known) < len(answers)):
            return None
        return NvidiaCollateral(tuple(known), tuple(rims), frozenset(session.nonces))

    def _chain(self, evidence: DeviceEvidence, now: int, verified: Verified) -> chain.DeviceChain | None:
        for root, naming in self._anchors.devices():
            with contextlib.suppress(UnfitError):
                return chain.read(
                    evidence.kind, evidence.certificates, root=root, naming=naming, now=now, verified=verified
                )
        return None

    def _rim(
        self, each: Wanted, session: _Session, now: int, verified: Verified
    ) -> tuple[bytes, rim.VerifiedRim] | None:
        """Reference values, cached or fetched; None if there are none that verify."""
        path = self._directory / f"{each.name}.xml"
        data = cached.content(path, MAX_RIM)
        with contextlib.suppress(UnfitError):
            if data is not None:
                return data, self._verified(each, data, now, verified)
        try:
            data = session.rim(each.name)
            if data is None:
                return None
            made = self._verified(each, data, now, verified)
        except (PrivmlError, UnfitError) as error:
            log.warning("reference values %s: %s", each.name, error)
            return None
        cached.keep(path, data)
        return data, made

    def _verified(self, each: Wanted, data: bytes, now: int, verified: Verified) -> rim.VerifiedRim:
        found = rim.read_under(data, self._anchors.rims(), now=now, verified=verified)
        each.check(found)
        return found

    def _answer(
        self, certificate: x509.Certificate, above: tuple[x509.Certificate, ...], session: _Session, now: int
    ) -> bytes | None:
        """A valid answer for ``certificate``, cached or fetched; None if there is none."""
        name = hashlib.sha256(b"".join(_der(each) for each in (certificate, above[0]))).hexdigest()
        path = self._directory / f"{name}.ocsp"
        kept = cached.content(path, MAX_ANSWER)
        age: int | None = None
        if kept is not None:
            with contextlib.suppress(UnfitError):
                age = now - ocsp.check(ocsp.load(kept), certificate, above, now=now).time
        if age is not None and 0 <= age < FRESH:
            return kept
        try:
            data, nonce = session.answer(certificate, above[0])
            if data is not None:
                _own(ocsp.check(ocsp.load(data), certificate, above, now=now), nonce)
                session.nonces.add(nonce)
                cached.keep(path, data)
                return data
        except (PrivmlError, UnfitError) as error:
            log.warning("revocation of %s: %s", certificate.subject.rfc4514_string()[:200], error)
        return kept if age is not None else None


def kept(directory: Path, *, now: int, roots: tuple[bytes, bytes] | None = None) -> Iterator[dict[str, object]]:
    """What is in a folder of the cache: reference values that verify, and answers, whose signer is not checked here.

    Files that are neither are logged and left out.
    """
    anchors, verified = Anchors(roots).rims(), Verified()
    for path in sorted(directory.glob("*.*"))[:_MAX_FILES]:
        data = cached.content(path, MAX_RIM)
        try:
            if path.suffix == ".xml" and data is not None:
                found = rim.read_under(data, anchors, now=now, verified=verified)
                yield {"kind": "rim", "id": path.stem, "firmware": f"{found.rim.product} {found.rim.version}"}
            elif path.suffix == ".ocsp" and data is not None:
                yield _answered(ocsp.load(data))
        except UnfitError as error:
            log.warning("ignoring cached %s: %s", path.name, error)


def _answered(response: x509_ocsp.OCSPResponse) -> dict[str, object]:
    until = response.next_update_utc
    return {
        "kind": "ocsp",
        "certificate": f"{response.serial_number:x}",
        "status": response.certificate_status.name.lower(),
        "issued": int(response.this_update_utc.timestamp()),
        "expires": None if until is None else int(until.timestamp()),
    }


class _Session:
    """Requests of one judgement, with one deadline that begins with the first. Without services, nothing is sent."""

    def __init__(self, where: Services | None) -> None:
        self._where = where
        self._open = contextlib.ExitStack()
        self._requests: Requests | None = None
        self.nonces: set[bytes] = set()

    def __enter__(self) -> _Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _asking(self) -> Requests:
        if self._requests is None:
            deadline = self._open.enter_context(Cutoff(TIMEOUT))
            connections = self._open.enter_context(Connections(environment_way_out(), deadline=deadline, redirects=0))
            self._requests = Requests(connections, deadline, 2 * MAX_RIM)
        return self._requests

    def rim(self, name: str) -> bytes | None:
        """The reference values with this id; None without a network."""
        if self._where is None:
            return None
        answer = self._asking().get(f"{self._where.rim}/v1/rim/{urllib.parse.quote(name, safe='')}")
        value = loads(answer.body, what=name, limit=2 * MAX_RIM)
        if not isinstance(value, dict) or value.get("id") != name:
            raise EvidenceError(f"{name}: expected an object with this `id`")
        return unb64(value.get("rim"), what=f"{name}.rim", limit=MAX_RIM)

    def answer(self, certificate: x509.Certificate, issuer: x509.Certificate) -> tuple[bytes | None, bytes]:
        """The responder's answer, None without a network; and the nonce of the request."""
        nonce = secrets.token_bytes(_NONCE)
        if self._where is None:
            return None, nonce
        request = (
            x509_ocsp.OCSPRequestBuilder()
            .add_certificate(certificate, issuer, hashes.SHA384())
            .add_extension(x509.OCSPNonce(nonce), critical=False)
            .build()
            .public_bytes(Encoding.DER)
        )
        return self._asking().post(self._where.ocsp, request, _REQUEST).body, nonce


def _own(answer: ocsp.Answer, nonce: bytes) -> None:
    if answer.nonce is not None and answer.nonce != nonce:
        raise UnfitError("an answer to another request", "one with the request's nonce")


def _asked(
    chains: list[tuple[x509.Certificate, ...]],
) -> Iterator[tuple[x509.Certificate, tuple[x509.Certificate, ...]]]:
    """Each certificate below a root, once, with those above it."""
    seen: set[x509.Certificate] = set()
    for certificates in chains:
        for number, certificate in enumerate(certificates[:-1]):
            if certificate not in seen:
                seen.add(certificate)
                yield certificate, certificates[number + 1 :]


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
