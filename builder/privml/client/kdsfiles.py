"""Files of AMD's key distribution service that a person downloaded: certificates and revocation lists, by any name.

A file has certificates in DER or PEM (a chip's, or its issuers'), a revocation list in DER or PEM, or the two fields
of `evidence.snp.collateral` in JSON. Nothing in a file says what it is for, so certificates are put together by their
names and signatures. Everything that is used or kept ends in AMD's roots, or in that of an allowed simulation.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from privml.base.errors import EvidenceError, PrivmlError, UsageError
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
from privml.evidence.snp.tcb import PRODUCTS

MAX_FILE = 1024 * 1024
MAX_FILES = 1000
MAX_CERTIFICATES = 256
"""Of all files together."""
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

    def chains(self) -> Iterator[tuple[Triple, Chain]]:
        """Every chain of AMD's form that the certificates make."""
        keys = {data: leaf for data in self.certificates if (leaf := _leaf(data)) is not None}
        others = [(data, found) for data in self.certificates if (found := _authority(data)) is not None]
        for data, key in keys.items():
            for issuer, middle in others:
                if middle.subject.public_bytes() != key.issuer:
                    continue
                for root, top in others:
                    if top.subject != middle.issuer or top.issuer != top.subject:
                        continue
                    with contextlib.suppress(EvidenceError):
                        yield (data, issuer, root), chains.read((data, issuer, root))

    def fields(self, report: bytes, certificates: Collection[bytes] = ()) -> dict[str, str]:
        """The fields of collateral for a report (`evidence.snp.collateral`) that comes with ``certificates``.

        Of several chains the one of the key that signed it; without such a one, the first, so that the check of the
        signature says what is wrong. Empty if nothing fits.
        """
        every = list((self + Files(tuple(certificates))).chains())
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
        one. A fleet's certificate is not kept, because the guest sends it.
        """
        extra = set() if simulated_root is None else {hashlib.sha256(simulated_root).hexdigest()}
        made: dict[str, bytes] = {}
        for (data, issuer, root), chain in self.chains():
            leaf = chain.leaf
            if chain.root_sha256 not in {leaf.product.root_sha256} | extra:
                continue
            machine = Machine(leaf.role, leaf.product, leaf.chip_id or b"", leaf.tcb)
            if leaf.chip_id is not None:
                made[f"{machine.leaf_name}.der"] = data
            made |= _of_issuers(machine, issuer, root)
        for issuer, root, machine in self._issuers(extra):
            made |= _of_issuers(machine, issuer, root)
            kept = cached.content(directory / f"{machine.issuers_name}.crl", fields_of.MAX_FIELD)
            top = x509.load_der_x509_certificate(root)
            crl = _newest(self.lists if kept is None else (kept, *self.lists), top, now)
            if crl is not None and crl in self.lists:
                made[f"{machine.issuers_name}.crl"] = crl
        for name, content in made.items():
            cached.keep(directory / name, content)
        return tuple(sorted(made))

    def _issuers(self, extra: set[str]) -> Iterator[tuple[bytes, bytes, Machine]]:
        """Every issuer that a product's root signed, and that root."""
        others = [(data, found) for data in self.certificates if (found := _authority(data)) is not None]
        for product in PRODUCTS.values():
            roots = [data for data, _ in others if hashlib.sha256(data).hexdigest() in {product.root_sha256} | extra]
            for role, name in (("VCEK", f"SEV-{product.name}"), ("VLEK", f"SEV-VLEK-{product.name}")):
                named = [(data, found) for data, found in others if chains.common_name(found) == name]
                for root in roots:
                    top = x509.load_der_x509_certificate(root)
                    fitting = (data for data, found in named if _issued_by(found, top))
                    yield from ((data, root, Machine(role, product, b"", {})) for data in fitting)


def read(places: Iterable[Path]) -> tuple[Files, list[PrivmlError]]:
    """What the files, and those directly in the folders, hold; and an error for each file that holds nothing.

    ``UsageError`` for more than `MAX_CERTIFICATES`, because every two of them are tried. In a folder, files with
    other endings than `SUFFIXES` are passed over.
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
    if data.lstrip()[:1] == b"{":
        found = from_fields(fields_of.decode(loads(data, what="JSON"), "collateral"))
    elif _BEGIN in data:
        found = _pem(data)
    else:
        found = _der(data)
    return Files(found.certificates, found.lists, (path,))


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


def _authority(data: bytes) -> x509.Certificate | None:
    """A certificate that could be an issuer's or a root's."""
    if _leaf(data) is not None:
        return None  # its serial number is 0, which `cryptography` warns of
    try:
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


def rows(found: Files, name: str) -> Iterator[dict[str, object]]:
    """What the file ``name`` holds, a row each, as `kds.kept` has them; ``EvidenceError`` if it makes no chain."""
    every = list(found.chains())
    if not every:
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
