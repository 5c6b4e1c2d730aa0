"""Files of AMD's key distribution service that a person downloaded: certificates and revocation lists, by any name.

A file has certificates in DER or PEM (a chip's, or its issuers'), a revocation list in DER or PEM, or the two fields
of `evidence.snp.collateral` in JSON. Nothing in a file says what it is for, so certificates are put together by their
names and signatures. Everything that is used or kept ends in AMD's roots, or in that of an allowed simulation.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import re
import ssl
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from privml.base.errors import EvidenceError, PrivmlError, UsageError, printable
from privml.base.strictjson import loads
from privml.client import collateral as cached
from privml.client import kds
from privml.client.kds import Machine
from privml.evidence.certificates import UNREADABLE
from privml.evidence.snp import chain as chains
from privml.evidence.snp import collateral as fields_of
from privml.evidence.snp import leaf as leaves
from privml.evidence.snp import report as reports
from privml.evidence.snp.chain import Chain
from privml.evidence.snp.report import SIGNING_KEYS
from privml.evidence.snp.tcb import PRODUCTS

MAX_FILE = 1024 * 1024
MAX_FILES = 1000
MAX_CERTIFICATES = 256
"""Of all files together."""
MAX_FOREIGN = 4
"""Roots and issuers of others that are tried, only to say that they are none of AMD's."""
SUFFIXES = frozenset({".der", ".crt", ".cer", ".cert", ".pem", ".crl", ".json", ""})
_BEGIN = b"-----BEGIN "
_BLOCK = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----([A-Za-z0-9+/=\s]*)-----END \1-----")

Triple = tuple[bytes, bytes, bytes]
"""The certificates of a key, its issuer and the root (DER)."""


@dataclass(frozen=True)
class Files:
    """What files hold: certificates and revocation lists (DER), each once, and the paths that they were read from."""

    certificates: tuple[bytes, ...] = ()
    lists: tuple[bytes, ...] = ()
    paths: tuple[Path, ...] = ()

    def __add__(self, other: Files) -> Files:
        return Files(
            tuple(dict.fromkeys((*self.certificates, *other.certificates))),
            tuple(dict.fromkeys((*self.lists, *other.lists))),
            (*self.paths, *other.paths),
        )

    def chains(self, known: Collection[str] = ()) -> Iterator[tuple[Triple, Chain]]:
        """Every chain that the certificates make and that ends in a root of AMD's, or one that is ``known``.

        ``known`` are hex SHA-256 digests. A file can have hundreds of certificates of the same names, so each issuer
        is checked once against each root that counts, and each key only against issuers that passed.
        """
        return self._chains(list(self.issuers(known)))

    def foreign_chains(self) -> Iterator[tuple[Triple, Chain]]:
        """Some chains whose root has the name of AMD's and is another, to say so."""
        own = {product.root_sha256 for product in PRODUCTS.values()}
        names = {f"ARK-{product.name}" for product in PRODUCTS.values()}
        every = (
            hashlib.sha256(data).hexdigest()
            for data, found in _authorities(self)
            if chains.common_name(found) in names
        )
        roots = set(itertools.islice((digest for digest in every if digest not in own), MAX_FOREIGN))
        return self._chains(list(itertools.islice(self.issuers(roots), MAX_FOREIGN)))

    def _chains(self, issuers: Collection[tuple[bytes, bytes, Machine]]) -> Iterator[tuple[Triple, Chain]]:
        keys = {data: leaf for data in self.certificates if (leaf := _leaf(data)) is not None}
        for data, key in keys.items():
            for issuer, root, machine in issuers:
                if (machine.role, machine.product) == (key.role, key.product):
                    with contextlib.suppress(EvidenceError):
                        yield (data, issuer, root), chains.read((data, issuer, root))

    def fields(
        self, report: bytes, certificates: Collection[bytes] = (), *, simulated_root: bytes | None = None
    ) -> dict[str, str]:
        """The fields of collateral for a report (`evidence.snp.collateral`) that comes with ``certificates``.

        Of several chains the one of the key that signed it; without such a one, the first, so that the check of the
        signature says what is wrong. Chains to other roots than AMD's and ``simulated_root`` only stand in where
        there is no other. Empty if nothing fits.
        """
        held = self + Files(tuple(certificates))
        every = list(held.chains(_digests(simulated_root))) or list(held.foreign_chains())
        parsed = reports.parse(report)
        chosen = next((each for each in every if _signed(parsed, each[0])), next(iter(every), None))
        if chosen is None:
            return {}
        triple, chain = chosen
        made = {fields_of.CERTIFICATES: "".join(map(ssl.DER_cert_to_PEM_cert, triple))}
        crl = _newest(self.lists, chain.root)
        return made if crl is None else {**made, fields_of.CRL: crl.hex()}

    def keep(self, directory: Path, *, now: int, simulated_root: bytes | None = None) -> tuple[str, ...]:
        """Put what is AMD's into the folder ``directory`` of the cache; the names of its files there.

        A chip's certificate, issuers, and a revocation list that is valid at ``now`` and not older than the cached
        one. Issuers that are in the folder already count as well. A fleet's certificate is not kept, because the
        guest sends it.
        """
        extra, held = _digests(simulated_root), self + _kept_issuers(directory)
        made: dict[str, bytes] = {}
        for (data, _, _), chain in held.chains(extra):
            leaf = chain.leaf
            if leaf.chip_id is not None:
                made[f"{Machine(leaf.role, leaf.product, leaf.chip_id, leaf.tcb).leaf_name}.der"] = data
        for issuer, root, machine in held.issuers(extra):
            if issuer in self.certificates:
                made |= _of_issuers(machine, issuer, root)
            kept = cached.content(directory / f"{machine.issuers_name}.crl", fields_of.MAX_FIELD)
            top = x509.load_der_x509_certificate(root)
            crl = _newest(self.lists if kept is None else (kept, *self.lists), top, now)
            if crl is not None and crl in self.lists:
                made[f"{machine.issuers_name}.crl"] = crl
        for name, content in made.items():
            cached.keep(directory / name, content)
        return tuple(sorted(made))

    def rootless(self, directory: Path) -> tuple[str, ...]:
        """The issuers of revocation lists, by common name, whose certificate neither is here nor in ``directory``."""
        held = {chains.common_name(found) for _, found in _authorities(self + _kept_issuers(directory))}
        names = (
            x509.load_der_x509_crl(data).issuer.get_attributes_for_oid(NameOID.COMMON_NAME) for data in self.lists
        )
        return tuple(sorted({printable(str(name[0].value))[:80] for name in names if name} - held))

    def issuers(self, extra: Collection[str]) -> Iterator[tuple[bytes, bytes, Machine]]:
        """Every issuer that a product's root signed, and that root."""
        others = _authorities(self)
        for product in PRODUCTS.values():
            roots = [data for data, _ in others if hashlib.sha256(data).hexdigest() in {product.root_sha256, *extra}]
            for role, name in (("VCEK", f"SEV-{product.name}"), ("VLEK", f"SEV-VLEK-{product.name}")):
                named = [(data, found) for data, found in others if chains.common_name(found) == name]
                for root in roots:
                    top = x509.load_der_x509_certificate(root)
                    fitting = (data for data, found in named if _issued_by(found, top))
                    yield from ((data, root, Machine(role, product, b"", {})) for data in fitting)


def read(places: Iterable[Path]) -> tuple[Files, list[PrivmlError]]:
    """What the files, and those directly in the folders, hold; and an error for each file that holds nothing.

    ``UsageError`` for more than `MAX_CERTIFICATES`: each that could be an issuer's is checked against each root. In a
    folder, files with other endings than `SUFFIXES` are passed over.
    """
    found, errors = Files(), list[PrivmlError]()
    for path in _paths(places):
        try:
            found += _file(path)
        except PrivmlError as error:
            errors.append(type(error)(f"{path}: {error.message}"))
        if len(found.certificates) > MAX_CERTIFICATES:
            raise UsageError(f"{path}: more than {MAX_CERTIFICATES} certificates up to this file")
    return found, errors


def from_fields(fields: Mapping[str, str]) -> Files:
    """What the fields of collateral hold; ``EvidenceError`` if they cannot be read."""
    found = Files()
    if fields_of.CERTIFICATES in fields:
        found += _pem(fields[fields_of.CERTIFICATES].encode())
    if fields_of.CRL in fields:
        try:
            data = bytes.fromhex(fields[fields_of.CRL])
        except ValueError as error:
            raise EvidenceError(f"{fields_of.CRL}: not hex") from error
        found += Files(lists=(_list(data),))
    return found


def _paths(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            inside = (path for path in sorted(place.iterdir()) if path.is_file() and path.suffix.lower() in SUFFIXES)
            yield from list(inside)[:MAX_FILES]
        else:
            yield place


def _file(path: Path) -> Files:
    data = cached.content(path, MAX_FILE)
    if data is None:
        raise EvidenceError(f"cannot be read, or has more than {MAX_FILE} bytes")
    found = contents(data)
    return Files(found.certificates, found.lists, (path,))


def contents(data: bytes) -> Files:
    """What the content of a file holds; ``EvidenceError`` if that is nothing of AMD's forms."""
    if data.lstrip()[:1] == b"{":
        return from_fields(fields_of.decode(loads(data, what="JSON"), "collateral"))
    return _pem(data) if _BEGIN in data else _der(data)


def _kept_issuers(directory: Path) -> Files:
    """The issuers and roots in a folder of the cache, for files that come without them."""
    found = Files()
    for product, role in itertools.product(PRODUCTS.values(), SIGNING_KEYS.values()):
        data = cached.content(
            directory / f"{Machine(role, product, b'', {}).issuers_name}-chain.pem", fields_of.MAX_FIELD
        )
        if data is not None:
            with contextlib.suppress(EvidenceError):
                found += Files(_pem(data).certificates)
    return found


def _digests(simulated_root: bytes | None) -> tuple[str, ...]:
    return () if simulated_root is None else (hashlib.sha256(simulated_root).hexdigest(),)


def _pem(data: bytes) -> Files:
    """PEM blocks, with whatever a person or a tool wrote around them."""
    found = Files()
    blocks = _BLOCK.findall(data)
    if len(blocks) > MAX_CERTIFICATES:
        raise EvidenceError(f"{len(blocks)} certificates and lists, expected at most {MAX_CERTIFICATES}")
    for _, content in blocks:
        try:
            found += _der(base64.b64decode(b"".join(content.split()), validate=True))
        except ValueError as error:
            raise EvidenceError(f"PEM that is not base64 ({error})") from error
    if not blocks:
        raise EvidenceError("PEM without an end")
    return found


def _der(data: bytes) -> Files:
    return Files((data,)) if _leaf(data) is not None or _authority(data) is not None else Files(lists=(_list(data),))


def _list(data: bytes) -> bytes:
    try:
        x509.load_der_x509_crl(data)
    except UNREADABLE as error:
        raise EvidenceError("neither certificates nor a revocation list, in DER or PEM") from error
    return data


def _leaf(data: bytes) -> leaves.Leaf | None:
    try:
        return leaves.parse(data)
    except EvidenceError:
        return None


def _authorities(found: Files) -> list[tuple[bytes, x509.Certificate]]:
    return [(data, each) for data in found.certificates if (each := _authority(data)) is not None]


def _authority(data: bytes) -> x509.Certificate | None:
    """A certificate that could be an issuer's or a root's."""
    if _leaf(data) is not None:
        return None  # its serial number is 0, which `cryptography` warns of
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what it warns of is no certificate of AMD's
            found = x509.load_der_x509_certificate(data)
            _ = found.subject, found.issuer
    except UNREADABLE:
        return None
    return found


def _issued_by(one: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(root)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def _signed(report: reports.Report, triple: Triple) -> bool:
    try:
        chains.verify(report, triple)
    except EvidenceError:
        return False
    return True


def _newest(lists: Iterable[bytes], root: x509.Certificate, now: int | None = None) -> bytes | None:
    """The latest of those that ``root`` signed, and that are valid at ``now`` if it is given."""
    dated: list[tuple[int, bytes]] = []
    for data in lists:
        with contextlib.suppress(EvidenceError):
            validity = chains.revocations(data, root).validity
            if now is None or validity.issued <= now <= validity.expires:
                dated.append((validity.issued, data))
    return max(dated, key=lambda each: each[0], default=(0, None))[1]


def _of_issuers(machine: Machine, issuer: bytes, root: bytes) -> dict[str, bytes]:
    """The file of the cache with the issuers of a machine's key."""
    return {f"{machine.issuers_name}-chain.pem": "".join(map(ssl.DER_cert_to_PEM_cert, (issuer, root))).encode()}


def rows(found: Files, name: str, *, simulated_root: bytes | None = None) -> Iterator[dict[str, object]]:
    """What the file ``name`` holds, a row each, as of `kds.kept`; ``EvidenceError`` without a chain of AMD's."""
    every = list(found.chains(_digests(simulated_root)))
    if not every:
        if any(found.foreign_chains()):
            raise EvidenceError(f"{name}: the root of its certificates is not AMD's, whatever its name says")
        raise EvidenceError(f"{name}: no chain of a VCEK or VLEK, its issuer and AMD's root")
    for _, chain in every:
        product, role = chain.leaf.product.name, chain.leaf.role
        yield {"kind": kds.CERTIFICATE, "product": product, "role": role, "file": name}
        for crl in found.lists:
            with contextlib.suppress(EvidenceError):
                validity = chains.revocations(crl, chain.root).validity
                yield {
                    "kind": kds.REVOCATIONS,
                    "product": product,
                    "role": role,
                    "issued": validity.issued,
                    "expires": validity.expires,
                }
