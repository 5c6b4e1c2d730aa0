"""The authorities of simulated GPUs and switches, their revocation answers and reference values, with any fault.

Nothing of `privml` is imported. The keys follow from the simulation's public seed. Certificates have the layout of
NVIDIA's own; answers are written byte by byte (RFC 6960), and reference values as canonical XML 1.1, so that the
signed bytes are those of the text.
"""

from __future__ import annotations

import base64
import hashlib
import textwrap
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.negative.pki import SEED, integer, oid, tlv

P384 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
ORGANIZATION = "SIMULATED, anybody can forge this"
SIMULATED = "SIMULATED privml-build "
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
HOUR = 3600

Name = tuple[tuple[x509.ObjectIdentifier, str], ...]
COMMON, OWNER, COUNTRY = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.COUNTRY_NAME
SERIAL = NameOID.SERIAL_NUMBER


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """A P-384 key of the simulation."""
    number = int.from_bytes(hashlib.shake_256(SEED + b"\0gpu\0" + name.encode()).digest(64))
    return ec.derive_private_key(number % (P384 - 1) + 1, ec.SECP384R1())


def point(name: str) -> bytes:
    """The uncompressed point of a public key."""
    return key(name).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def sign_der(name: str, data: bytes) -> bytes:
    """ECDSA with SHA-384 in DER, always the same for the same data."""
    return key(name).sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))


def sign(name: str, data: bytes) -> bytes:
    """r || s, always the same for the same data."""
    r, s = decode_dss_signature(sign_der(name, data))
    return r.to_bytes(48) + s.to_bytes(48)


@dataclass(frozen=True)
class Cert:
    """What a certificate says, which key it certifies and who signs it.

    ``ca`` None: no basic constraints. ``purpose`` is an extended key usage. ``prefix`` comes before common names.
    """

    subject: Name
    key: str
    issuer: Name
    issuer_key: str
    ca: bool | None
    lists: bool = True
    extension: bytes | None = None
    purpose: x509.ObjectIdentifier | None = None
    prefix: str = SIMULATED
    end: datetime = END

    def with_(self, **changes: Any) -> Cert:
        """A copy with other fields."""
        return replace(self, **changes)

    @property
    def issuer_name(self) -> x509.Name:
        return _name(self.issuer, self.prefix)

    @property
    def serial(self) -> int:
        subject = _name(self.subject, self.prefix).public_bytes()
        return int.from_bytes(hashlib.sha256(subject).digest()[:15]) + 1

    @property
    def pem(self) -> bytes:
        return _issue(self).public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return _issue(self).public_bytes(Encoding.DER)


def _name(parts: Name, prefix: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, prefix + text if kind == COMMON else text) for kind, text in parts])


@cache
def _issue(given: Cert) -> x509.Certificate:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    signs = bool(given.ca)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(given.subject, given.prefix))
        .issuer_name(given.issuer_name)
        .public_key(key(given.key).public_key())
        .serial_number(given.serial)
        .not_valid_before(START)
        .not_valid_after(given.end)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not signs, key_cert_sign=signs, crl_sign=signs and given.lists, **usage
            ),
            critical=True,
        )
    )  # fmt: skip
    if given.ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=given.ca, path_length=None), critical=True)
    if given.extension is not None:
        fwid = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), given.extension)
        builder = builder.add_extension(fwid, critical=False)
    if given.purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([given.purpose]), critical=False)
    return builder.sign(key(given.issuer_key), hashes.SHA384(), ecdsa_deterministic=True)


ROOT_NAME: Name = ((COMMON, "NVIDIA Device Identity CA"), (OWNER, ORGANIZATION))
IDENTITY_NAME: Name = ((COMMON, "NVIDIA GH100 Identity"), (OWNER, ORGANIZATION))
ROOT = Cert(ROOT_NAME, "root", ROOT_NAME, "root", ca=True)
IDENTITY = Cert(IDENTITY_NAME, "identity", ROOT_NAME, "root", ca=True)


def provisioner(chip: str) -> Cert:
    """The authority above all devices of a chip."""
    name = ((COMMON, f"NVIDIA {chip} Provisioner ICA 1"), (OWNER, ORGANIZATION), (COUNTRY, "US"))
    return Cert(name, f"{chip} provisioner", IDENTITY_NAME, "identity", ca=True)


RIM_ROOT_NAME: Name = ((COUNTRY, "US"), (OWNER, ORGANIZATION), (COMMON, "NVIDIA CoRIM signing Root CA"))
RIM_ROOT = Cert(RIM_ROOT_NAME, "rim root", RIM_ROOT_NAME, "rim root", ca=True)


def rim_signers(product: str) -> tuple[Cert, Cert, Cert, Cert]:
    """Who signs reference values for a product: signer, two authorities, root."""
    place = ((COUNTRY, "US"), (NameOID.STATE_OR_PROVINCE_NAME, "CA"), (NameOID.LOCALITY_NAME, "Santa Clara"))
    signer = (*place, (OWNER, ORGANIZATION), (COMMON, f"NVIDIA Reference Value L4 {product}"))
    third = ((COMMON, f"NVIDIA Reference Value L3 {product} 001"), (OWNER, ORGANIZATION), (COUNTRY, "US"))
    second = ((COMMON, f"NVIDIA Reference Value {product} CA"), (OWNER, ORGANIZATION), (COUNTRY, "US"))
    keys = (f"{product} rim", f"{product} rim L3", f"{product} rim CA", "rim root")
    names = (signer, third, second, RIM_ROOT_NAME, RIM_ROOT_NAME)
    made = [
        Cert(names[at], name, names[at + 1], keys[min(at + 1, 3)], ca=at > 0) for at, name in enumerate(keys)
    ]  # fmt: skip
    return made[0], made[1], made[2], made[3]


@dataclass(frozen=True)
class Answer:
    """A revocation answer about ``asked``. Without a ``responder`` the issuer signs; ``signer`` is another key.

    ``issuer`` is another one that the answer names for the same serial number. ``status`` is ``good``, ``revoked`` or
    ``unknown``; ``time`` Unix seconds, ``valid_for`` seconds.
    """

    asked: Cert
    time: int
    status: str = "good"
    valid_for: int = HOUR
    responder: Cert | None = None
    signer: str = ""
    issuer: Cert | None = None

    def with_(self, **changes: Any) -> Answer:
        """A copy with other fields."""
        return replace(self, **changes)

    @property
    def der(self) -> bytes:
        return _answer(self)


SHA384 = tlv(0x30, oid("2.16.840.1.101.3.4.2.2") + tlv(5, b""))
ECDSA_SHA384 = tlv(0x30, oid("1.2.840.10045.4.3.3"))
STATUS = {
    "good": lambda _: tlv(0x80, b""),
    "revoked": lambda time: tlv(0xA1, time),
    "unknown": lambda _: tlv(0x82, b""),
}


@cache
def _answer(given: Answer) -> bytes:
    """OCSPResponse with a BasicOCSPResponse for one certificate, whose responder is named by its key."""
    asked = given.asked
    by = asked.issuer_key if given.responder is None else given.responder.key
    time = _time(given.time)
    other = given.issuer
    issuer, issuer_key = (asked.issuer, asked.issuer_key) if other is None else (other.subject, other.key)
    certificate = tlv(
        0x30,
        SHA384
        + tlv(4, hashlib.sha384(_name(issuer, asked.prefix).public_bytes()).digest())
        + tlv(4, hashlib.sha384(point(issuer_key)).digest())
        + integer(asked.serial),
    )
    until = tlv(0xA0, _time(given.time + given.valid_for))
    single = tlv(0x30, certificate + STATUS[given.status](time) + time + until)
    named = tlv(0xA2, tlv(4, hashlib.sha1(point(by), usedforsecurity=False).digest()))
    signed = tlv(0x30, named + time + tlv(0x30, single))
    signature = tlv(3, b"\0" + sign_der(given.signer or by, signed))
    more = b"" if given.responder is None else tlv(0xA0, tlv(0x30, given.responder.der))
    basic = tlv(0x30, signed + ECDSA_SHA384 + signature + more)
    return tlv(0x30, tlv(0x0A, b"\0") + tlv(0xA0, tlv(0x30, oid("1.3.6.1.5.5.7.48.1.1") + tlv(4, basic))))


def _time(seconds: int) -> bytes:
    return tlv(0x18, datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%SZ").encode())


def responder(issuer: Cert, *, purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.OCSP_SIGNING) -> Cert:
    """A certificate that ``issuer`` gave a responder."""
    return Cert(
        ((COMMON, "responder"), (OWNER, ORGANIZATION)), "responder", issuer.subject, issuer.key, None, purpose=purpose
    )


SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASH = "http://www.w3.org/2001/04/xmlenc#sha384"
DS = "http://www.w3.org/2000/09/xmldsig#"
C14N = "http://www.w3.org/2006/12/xml-c14n11"
MORE = "http://www.w3.org/2001/04/xmldsig-more#"


@dataclass(frozen=True)
class Rim:
    """Reference values of a firmware: digests by index.

    ``signer`` is another key, ``signers`` another chain, ``uri`` names what the signature covers.
    """

    product: str
    version: str
    values: tuple[tuple[int, bytes], ...]
    signer: str = ""
    uri: str = ""
    canonicalization: str = C14N
    signers: tuple[Cert, ...] = ()

    def with_(self, **changes: Any) -> Rim:
        """A copy with other fields."""
        return replace(self, **changes)

    @property
    def chain(self) -> tuple[Cert, ...]:
        return self.signers or rim_signers(self.product)

    @property
    def content(self) -> str:
        """The document without its signature, in canonical form."""
        return (
            f'<SoftwareIdentity xmlns="{SWID}" xmlns:ns2="{HASH}" name="{self.product}">'
            '<Entity name="SIMULATED"></Entity>'
            f'<Meta colloquialVersion="{self.version}" product="{self.product}"></Meta><Payload>'
            + "".join(resource(index, value) for index, value in self.values)
            + "</Payload></SoftwareIdentity>"
        )

    @property
    def signature(self) -> str:
        return _signature(self)

    @property
    def text(self) -> str:
        """The signed document, with empty elements in their short form: a verifier must write the canonical one."""
        head, end, _ = self.content.rpartition("</SoftwareIdentity>")
        for name in ("Entity", "Meta", "Resource"):
            head = head.replace(f"></{name}>", "/>")
        return head + self.signature + end


def resource(index: int, value: bytes) -> str:
    """One measurement in canonical form: attributes without a namespace come first, in their order."""
    return (
        f'<Resource active="True" alternatives="1" index="{index}" name="Measurement_{index}" size="48"'
        f' type="Measurement" ns2:Hash0="{value.hex()}"></Resource>'
    )


@cache
def _signature(given: Rim) -> str:
    digest = base64.b64encode(hashlib.sha384(given.content.encode()).digest()).decode()

    def empty(name: str, algorithm: str) -> str:
        return f'<ds:{name} Algorithm="{algorithm}"></ds:{name}>'

    inside = (
        empty("CanonicalizationMethod", given.canonicalization)
        + empty("SignatureMethod", f"{MORE}ecdsa-sha384")
        + f'<ds:Reference URI="{given.uri}"><ds:Transforms>'
        + empty("Transform", f"{DS}enveloped-signature")
        + empty("Transform", C14N)
        + "</ds:Transforms>"
        + empty("DigestMethod", f"{MORE}sha384")
        + f"<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    )
    # The canonical form of a part has the namespaces in whose scope it is.
    scope = f' xmlns="{SWID}" xmlns:ds="{DS}" xmlns:ns2="{HASH}"'
    signed = f"<ds:SignedInfo{scope}>{inside}".encode()
    value = base64.b64encode(sign(given.signer or given.chain[0].key, signed)).decode()
    certificates = "".join(
        f"<ds:X509Certificate>{_lines(each.der)}</ds:X509Certificate>" for each in given.chain
    )  # fmt: skip
    return (
        f'<ds:Signature xmlns:ds="{DS}"><ds:SignedInfo>{inside}<ds:SignatureValue>{value}</ds:SignatureValue>'
        f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )


def _lines(der: bytes) -> str:
    return "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64)) + "\n"
