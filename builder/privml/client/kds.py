"""Collateral of an SNP report from AMD's key distribution service (KDS): the key's certificate, issuers, revocations.

Source of routes: AMD VCEK Certificate and KDS Interface Specification (57230). The service learns the machine's chip
and TCB version, and refuses callers that ask often, so certificates are kept as long as they verify and a revocation
list for a day, in the folder ``snp`` of the cache of `client.collateral`. Everything is checked against AMD's roots
at each use. The certificate of a fleet's key (VLEK) is sent by the guest only.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from privml.base.deadline import Cutoff
from privml.base.errors import EvidenceError, PrivmlError
from privml.base.http import Connections, base_address
from privml.base.wayout import environment_way_out
from privml.client import collateral as cached
from privml.client.kdslimit import Limit, LimitError
from privml.client.pcs import certificates_in
from privml.client.requests import Requests, UnansweredError
from privml.evidence.claims import Validity
from privml.evidence.document import Document
from privml.evidence.snp import chain as chains
from privml.evidence.snp import collateral as fields_of
from privml.evidence.snp import report as reports
from privml.evidence.snp import signature
from privml.evidence.snp.claims import ReportFacts
from privml.evidence.snp.leaf import MAX_SIZE
from privml.evidence.snp.report import SIGNING_KEYS, VCEK, Report
from privml.evidence.snp.tcb import PRODUCTS, Product

log = logging.getLogger("privml")

AMD = "https://kdsintf.amd.com"
SERVICE = "PRIVML_KDS_SERVICE"
"""Environment variable with the address of a service to use instead of AMD's."""

FOLDER = "snp"
"""The folder of the collateral cache with AMD's files."""
CERTIFICATE, REVOCATIONS = "certificate", "revocations"
KINDS = (CERTIFICATE, REVOCATIONS)
"""What is kept, by the word in ``collateral show --json``."""
TIMEOUT = 30.0
_DAY = 24 * 60 * 60
_MAX_FILES = 1000
_MAX_CHAIN = 3
PARTS = (("fmc", "fmcSPL"), ("bl", "blSPL"), ("tee", "teeSPL"), ("snp", "snpSPL"), ("ucode", "ucodeSPL"))
"""The parts of a TCB version, in the order of a route, and their names there."""
_CHAIN = tuple[bytes, bytes, bytes]


def service(address: str | None) -> str:
    """The address of a service (None: AMD's) without a final slash; ``UsageError`` for one that is none."""
    return base_address(address or AMD)


def cache_directory() -> Path:
    """The folder `FOLDER` of the collateral cache."""
    return cached.cache_directory() / FOLDER


@dataclass(frozen=True)
class Machine:
    """What a report says of the key that signed it: its kind, the product, the chip, and the reported TCB version."""

    role: str
    product: Product
    chip_id: bytes
    tcb: Mapping[str, int]

    @property
    def path(self) -> str:
        """The part of a route that names kind and product."""
        return f"{self.role.lower()}/v1/{self.product.name}"

    @property
    def leaf_route(self) -> str:
        """The route of a chip's certificate."""
        parts = "&".join(f"{word}={self.tcb[part]:02d}" for part, word in PARTS if part in self.tcb)
        return f"{self.path}/{self.chip_id[: self.product.chip_id].hex()}?{parts}"

    @property
    def leaf_name(self) -> str:
        """The name of the certificate's file in the cache."""
        return f"{self.role}-{self.product.name}-{hashlib.sha256(self.leaf_route.encode()).hexdigest()[:32]}"

    @property
    def issuers_name(self) -> str:
        """The name of the issuers' file, and of the revocation list's."""
        return f"{self.role}-{self.product.name}"


def machine_of(report: Report, product: Product | None) -> Machine | None:
    """The machine of ``report``; None where it names no product (version 2) and ``product`` is None, or no key."""
    known = report.product or product
    if known is None or report.mask_chip_key or report.signing_key == reports.NO_KEY:
        return None
    try:
        return Machine(SIGNING_KEYS[report.signing_key], known, report.chip_id, known.tcb(report.reported_tcb))
    except EvidenceError:
        return None


class Supply:
    """The collateral of a report, from the document, the cache and the service ``where`` (None: no network).

    ``simulated_root`` is that of an allowed simulation, about which AMD is not asked.
    """

    def __init__(
        self,
        where: str | None,
        *,
        simulated_root: bytes | None = None,
        directory: Path | None = None,
        clock: cached.Clock | None = None,
    ) -> None:
        self.where = where
        self._simulated_root = simulated_root
        self._directory = directory or cache_directory()
        self._clock = clock or time.time
        self._limit = Limit()

    def __call__(self, document: Document, *, carried: bool = False) -> dict[str, str] | None:
        """The fields of `evidence.snp.collateral`; None to use the document's own, because no chain verifies.

        A ``carried`` document, which anybody may have made, has the share of the service that `kdslimit` gives it.

        What could not be fetched is logged. Whether it is needed is the policy's decision.
        """
        own = (document.collateral or {}).get("snp") or {}
        try:
            report = reports.parse(document.evidence)
        except EvidenceError:
            return None  # reading the document says why
        every = self._chains(report, document, own, carried=carried)
        chain = next((each for each in every if self._verifies(document, each)), None)
        if chain is None:
            return None
        found = {fields_of.CERTIFICATES: "".join(map(ssl.DER_cert_to_PEM_cert, chain))}
        crl = self._revocations(chain, carried=carried) or own.get(fields_of.CRL)
        return found if crl is None else {**found, fields_of.CRL: crl}

    def _chains(
        self, report: Report, document: Document, own: Mapping[str, str], *, carried: bool
    ) -> Iterator[_CHAIN]:
        """The document's chain, then those that cached and fetched parts make."""
        given = document.certificates
        with contextlib.suppress(EvidenceError):
            given = tuple(certificates_in(own.get(fields_of.CERTIFICATES, ""), "certificates"))
        if len(given) == _MAX_CHAIN:
            yield given[0], given[1], given[2]
        for product in PRODUCTS.values() if report.product is None else (report.product,):
            machine = machine_of(report, product)
            if machine is None:
                continue
            issuers = self._issuers(machine, carried=carried)
            if issuers is None:
                continue
            if given:
                yield given[0], *issuers
            leaf = self._leaf(machine, issuers, carried=carried)
            if leaf is not None:
                yield leaf, *issuers

    def _verifies(self, document: Document, chain: _CHAIN) -> bool:
        found = signature.check(
            document.evidence, chain, None, now=int(self._clock()), simulated_root=self._simulated_root
        )
        return isinstance(found, ReportFacts)

    def _leaf(self, machine: Machine, issuers: tuple[bytes, bytes], *, carried: bool) -> bytes | None:
        """The certificate of a chip's key, cached or fetched."""
        if machine.role != SIGNING_KEYS[VCEK]:
            return None

        def fits(data: bytes) -> None:
            found = chains.read((data, *issuers)).leaf
            if (found.product, found.tcb) != (machine.product, dict(machine.tcb)):
                raise EvidenceError(f"a certificate of another TCB version or product than {machine.leaf_route}")

        return self._have(
            machine.leaf_name + ".der", machine.leaf_route, lambda body: body, fits, MAX_SIZE,
            leaf=True, carried=carried,
        )  # fmt: skip

    def _issuers(self, machine: Machine, *, carried: bool) -> tuple[bytes, bytes] | None:
        """The issuer's and the root's certificate, cached or fetched."""
        roots = {machine.product.root_sha256}
        if self._simulated_root is not None:
            roots.add(hashlib.sha256(self._simulated_root).hexdigest())

        def fits(data: bytes) -> None:
            found = certificates_in(data.decode("ascii", "replace"), "issuers")
            if len(found) != 2 or hashlib.sha256(found[1]).hexdigest() not in roots:
                raise EvidenceError(
                    f"{len(found)} certificates, expected the issuer's and ARK-{machine.product.name}"
                )

        def canonical(body: bytes) -> bytes:
            found = certificates_in(body.decode("ascii", "replace"), "issuers")
            return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode()

        name = machine.issuers_name + "-chain.pem"
        data = self._have(name, f"{machine.path}/cert_chain", canonical, fits, fields_of.MAX_FIELD, carried=carried)
        if data is None:
            return None
        issuer, root = certificates_in(data.decode(), "issuers")
        return issuer, root

    def _revocations(self, chain: _CHAIN, *, carried: bool) -> str | None:
        """The revocation list of a chain's root, in hex: the cached one for a day, a later one, or none."""
        found = chains.read(chain)
        machine = Machine(found.leaf.role, found.leaf.product, b"", {})
        genuine = found.root_sha256 == machine.product.root_sha256
        now = int(self._clock())

        def fits(data: bytes) -> None:
            listed = chains.revocations(data, found.root)
            _current(listed.validity, now)

        data = self._have(
            machine.issuers_name + ".crl", f"{machine.path}/crl", lambda body: body, fits, fields_of.MAX_FIELD // 2,
            age=_DAY, ask=genuine or self.where != AMD, carried=carried,
        )  # fmt: skip
        return None if data is None else data.hex()

    def _have(
        self,
        name: str,
        route: str,
        read: Callable[[bytes], bytes],
        fits: Callable[[bytes], None],
        limit: int,
        *,
        carried: bool,
        leaf: bool = False,
        age: int | None = None,
        ask: bool = True,
    ) -> bytes | None:
        """A file of the cache that ``fits``; the service's answer if there is none or it is older than ``age``."""
        path = self._directory / name
        kept = cached.content(path, limit)
        if kept is not None:
            try:
                fits(kept)
            except PrivmlError as error:
                log.warning("ignoring cached %s: %s", name, error)
                kept = None
        now = self._clock()
        if kept is not None and (age is None or 0 <= now - path.stat().st_mtime < age):
            return kept
        if self.where is None or not ask or self._limit.holds(route, now):
            return kept
        try:
            with (
                self._limit.turn(leaf=leaf, carried=carried, now=now),
                Cutoff(TIMEOUT) as deadline,
                Connections(environment_way_out(), deadline=deadline, redirects=0) as connections,
            ):
                body = Requests(connections, deadline, limit).get(f"{self.where}/{route}").body
            made = read(body)
            fits(made)
        except LimitError as error:
            log.warning("%s: %s", route.partition("?")[0], error)
            return kept
        except PrivmlError as error:
            log.warning("%s: %s", route.partition("?")[0], error)
            # By then, because a service that hangs takes half of the time to the next try.
            self._limit.note_failure(route, self._clock(), answered=not isinstance(error, UnansweredError))
            return kept
        cached.keep(path, made)
        return made


def _current(validity: Validity, now: int) -> None:
    if not validity.issued <= now <= validity.expires:
        raise EvidenceError(f"{validity.name}: not valid at this time")


def kept(directory: Path) -> Iterator[dict[str, object]]:
    """What is in a folder of the cache: revocation lists and certificates, whose signatures are not checked here."""
    for path in sorted(directory.glob("*"))[:_MAX_FILES]:
        role, _, rest = path.stem.partition("-")
        product, _, _ = rest.partition("-")
        if role not in SIGNING_KEYS.values() or product not in PRODUCTS:
            continue
        if path.suffix == ".crl" and (data := cached.content(path, fields_of.MAX_FIELD)) is not None:
            with contextlib.suppress(ValueError):
                found = x509.load_der_x509_crl(data)
                until = found.next_update_utc
                yield {
                    "kind": REVOCATIONS,
                    "product": product,
                    "role": role,
                    "issued": int(found.last_update_utc.timestamp()),
                    "expires": None if until is None else int(until.timestamp()),
                }
        elif path.suffix == ".der":
            yield {"kind": CERTIFICATE, "product": product, "role": role, "file": path.name}
