"""The certificate authorities of simulated GPUs and NVSwitches: keys, certificates and revocation answers, for tests.

Anyone can forge them: the keys come from the public seed of `sim.quote`. The chains have the layout of NVIDIA's and
end in two roots of this module, never in NVIDIA's; every subject contains SIMULATED.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from privml.evidence.nvidia.families import HOPPER, Family
from privml.sim.quote import SEED

NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
ORGANIZATION = "SIMULATED, anybody can forge this"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
"""The DER of the algorithm of all signatures here."""
Key = ec.EllipticCurvePrivateKey


def private_key(name: str) -> Key:
    """The P-384 key called ``name``, derived from the public seed."""
    number = int.from_bytes(hashlib.shake_256(SEED + b"\0gpu\0" + name.encode()).digest(64))
    return ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP384R1())


def raw_signature(key: Key, data: bytes) -> bytes:
    """ECDSA with SHA-384 over ``data``: 48 bytes of r, then 48 of s."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return r.to_bytes(48) + s.to_bytes(48)


def subject_name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """A name of these parts in their order; the common name says SIMULATED."""
    return x509.Name(
        [
            x509.NameAttribute(oid, f"SIMULATED privml-build {value}" if oid == NameOID.COMMON_NAME else value)
            for oid, value in parts
        ]
    )


def certificate(
    subject: x509.Name,
    key: Key,
    issuer: x509.Name,
    issuer_key: Key,
    *,
    ca: bool | None,
    signs_lists: bool = True,
    extension: x509.ExtensionType | None = None,
    not_after: datetime = NOT_AFTER,
) -> x509.Certificate:
    """A certificate as NVIDIA's are made; ``ca`` None: no basic constraints. The name gives the serial number."""
    usage = x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=bool(ca),
        crl_sign=bool(ca) and signs_lists,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(subject.public_bytes()).digest()[:15]) + 1)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(not_after)
        .add_extension(usage, critical=True)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    # The builder of the guest's cryptography (43 on trixie) cannot sign deterministically, its keys can.
    body = builder.sign(issuer_key, hashes.SHA384()).tbs_certificate_bytes
    signature = issuer_key.sign(body, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    content = body + _ECDSA_SHA384 + bytes((3, len(signature) + 1, 0)) + signature
    return x509.load_der_x509_certificate(bytes((0x30, 0x82)) + len(content).to_bytes(2) + content)


@functools.cache
def authorities(family: Family) -> tuple[x509.Certificate, ...]:
    """Provisioner, identity authority and root of a family."""
    root, identity, provisioner = (private_key(name) for name in ("root", "identity", f"{family.chip} provisioner"))
    organization = (NameOID.ORGANIZATION_NAME, ORGANIZATION)
    root_name = subject_name((NameOID.COMMON_NAME, "NVIDIA Device Identity CA"), organization)
    identity_name = subject_name((NameOID.COMMON_NAME, f"NVIDIA {family.identity} Identity"), organization)
    provisioner_name = subject_name(
        (NameOID.COMMON_NAME, f"NVIDIA {family.chip} Provisioner ICA 1"),
        organization,
        (NameOID.COUNTRY_NAME, "US"),
    )
    return (
        certificate(provisioner_name, provisioner, identity_name, identity, ca=True),
        certificate(identity_name, identity, root_name, root, ca=True),
        certificate(root_name, root, root_name, root, ca=True),
    )


@functools.cache
def rim_chain(product: str) -> tuple[x509.Certificate, ...]:
    """The four certificates of a signer of reference values."""
    signer, third, second, root = (
        private_key(name) for name in (f"{product} rim", f"{product} rim L3", f"{product} rim CA", "rim root")
    )
    place = (
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.ORGANIZATION_NAME, ORGANIZATION),
    )
    end = ((NameOID.ORGANIZATION_NAME, ORGANIZATION), (NameOID.COUNTRY_NAME, "US"))
    signer_name = subject_name(*place, (NameOID.COMMON_NAME, f"NVIDIA Reference Value L4 {product}"))
    third_name = subject_name((NameOID.COMMON_NAME, f"NVIDIA Reference Value L3 {product} 001"), *end)
    second_name = subject_name((NameOID.COMMON_NAME, f"NVIDIA Reference Value {product} CA"), *end)
    root_name = subject_name(place[0], place[3], (NameOID.COMMON_NAME, "NVIDIA CoRIM signing Root CA"))
    return (
        certificate(signer_name, signer, third_name, third, ca=False),
        certificate(third_name, third, second_name, second, ca=True),
        certificate(second_name, second, root_name, root, ca=True),
        certificate(root_name, root, root_name, root, ca=True),
    )


def roots() -> tuple[bytes, bytes]:
    """The DER of the two roots that a caller names to accept this: of devices, and of reference values."""
    return der(authorities(HOPPER)[-1]), der(rim_chain("GH100")[-1])


def answer(
    asked: x509.Certificate,
    issuer: x509.Certificate,
    key: Key,
    now: int,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    nonce: bytes | None = None,
    responder: x509.Certificate | None = None,
    valid_for: int = 3600,
) -> bytes:
    """The answer of ``issuer`` (or its ``responder``) about ``asked``, made at ``now`` (Unix seconds)."""
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=asked,
            issuer=issuer,
            algorithm=hashes.SHA384(),
            cert_status=status,
            this_update=datetime.fromtimestamp(now, UTC),
            next_update=datetime.fromtimestamp(now + valid_for, UTC),
            revocation_time=datetime.fromtimestamp(now, UTC) if revoked else None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder or issuer)
    )
    if responder is not None:
        builder = builder.certificates([responder])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)


def rim_answers(products: Iterable[str], now: int) -> tuple[bytes, ...]:
    """A revocation answer for each certificate of these signers of reference values, each once."""
    found = []
    for product in products:
        chain = rim_chain(product)
        for number, key in enumerate((f"{product} rim L3", f"{product} rim CA", "rim root")):
            found.append(answer(chain[number], chain[number + 1], private_key(key), now))
    return tuple(found)


def der(made: x509.Certificate) -> bytes:
    """The certificate in DER."""
    return made.public_bytes(Encoding.DER)
