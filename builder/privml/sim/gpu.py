"""Simulated GPUs and NVSwitches, for tests. Anyone can forge them: the keys come from the public seed of `sim.quote`.

Reports, certificates, revocation answers and reference values have the layout of NVIDIA's; the chains end in two
roots of this module, never in NVIDIA's, and every subject contains SIMULATED. Production images never import this.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import opaque, spdm, xml
from privml.evidence.nvidia.families import HOPPER, LS10, Family
from privml.evidence.nvidia.opaque import NO_GPU, OFF, ON, SWITCH_GPUS, SWITCH_PORTS
from privml.sim.quote import SEED

NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
DRIVER = "590.12"
GPU_VBIOS = "96.00.A5.00.01"
SWITCH_VBIOS = "96.10.73.00.01"
LINKS = 18

_ORGANIZATION = "SIMULATED, anybody can forge this"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_FWID_OID = x509.ObjectIdentifier("2.23.133.5.4.1")
_FWID_HEAD = bytes.fromhex("303d06096086480165030402020430")
_Key = ec.EllipticCurvePrivateKey


def private_key(name: str) -> _Key:
    """The P-384 key called ``name``, derived from the public seed."""
    number = int.from_bytes(hashlib.shake_256(SEED + b"\0gpu\0" + name.encode()).digest(64))
    return ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP384R1())


def digest(name: str) -> bytes:
    """The 48 bytes that stand for the firmware or measurement called ``name``."""
    return hashlib.sha384(f"SIMULATED {name}".encode()).digest()


@dataclass(frozen=True)
class SimulatedDevice:
    """A simulated device: number ``index`` of its family."""

    family: Family
    index: int

    @property
    def name(self) -> str:
        """A name for its keys."""
        return f"{self.family.name} {self.index}"

    @property
    def pdi(self) -> bytes:
        """Its 8-byte id."""
        return hashlib.sha256(f"SIMULATED {self.name}".encode()).digest()[:8]

    @property
    def fwid(self) -> bytes:
        """The digest of its firmware."""
        return digest(f"{self.family.name} firmware")

    @property
    def measurements(self) -> tuple[bytes, ...]:
        """What it measures."""
        return tuple(digest(f"{self.family.name} measurement {index}") for index in range(self.family.measurements))


GPUS = tuple(SimulatedDevice(HOPPER, index) for index in range(8))
SWITCHES = tuple(SimulatedDevice(LS10, index) for index in range(4))


def roots() -> tuple[bytes, bytes]:
    """The DER of the two roots that a caller names to accept this: of devices, and of reference values."""
    return _der(_authorities(HOPPER)[-1]), _der(_rim_chain("GH100")[-1])


def evidence(nonce: bytes, gpus: int = 1, switches: int = 0) -> tuple[DeviceEvidence, ...]:
    """The evidence of so many GPUs and switches; with switches, they are one group of protected PCIe."""
    boards, links = GPUS[:gpus], SWITCHES[:switches]
    return (
        *(device_evidence(board, nonce, gpu_opaque(board, links)) for board in boards),
        *(device_evidence(link, nonce, switch_opaque(link, boards)) for link in links),
    )


def gpu_opaque(device: SimulatedDevice, switches: Sequence[SimulatedDevice] = ()) -> tuple[tuple[int, bytes], ...]:
    """The opaque fields of a GPU that is linked with ``switches``."""
    vbios = [int(part, 16) for part in GPU_VBIOS.split(".")]
    links = [bytes(reversed(switches[number % len(switches)].pdi)) for number in range(LINKS)] if switches else []
    return (
        (6, bytes([*reversed(vbios[:4]), vbios[4], 0, 0, 0])),
        (14, bytes(4)),
        (15, b"885".ljust(9, b"\0")),
        (16, b"0".ljust(5, b"\0")),
        (17, b"G520\0"),
        (18, b"0200\0"),
        (19, bytes(2)),
        (3, DRIVER.encode() + b"\0"),
        (4, bytes(8)),
        (12, bytes(4 * device.family.measurements)),
        (13, bytes(4)),
        (11, bytes([OFF])),
        (20, device.fwid),
        (21, bytes([ON if switches else OFF])),
        *([(22, b"".join(links))] if switches else []),
        (34, b"\1\0"),
        (36, bytes([2 if switches else 0, 0])),
    )


def switch_opaque(device: SimulatedDevice, gpus: Sequence[SimulatedDevice]) -> tuple[tuple[int, bytes], ...]:
    """The opaque fields of a switch that is linked with ``gpus``: all its places are taken."""
    pdis = b"".join(gpus[number % len(gpus)].pdi for number in range(SWITCH_GPUS))
    ports = bytes(number % SWITCH_GPUS if number < 2 * SWITCH_GPUS else NO_GPU for number in range(SWITCH_PORTS))
    return (
        (6, SWITCH_VBIOS.encode()),
        (22, device.pdi),
        (12, bytes(4 * 27)),
        (26, pdis + ports),
        (23, b"\xec\0"),
        (24, device.index.to_bytes(2, "little")),
        (25, b"\1\0"),
    )


def device_evidence(
    device: SimulatedDevice,
    nonce: bytes,
    said: tuple[tuple[int, bytes], ...],
    *,
    measurements: Sequence[bytes] | None = None,
    certificates: Sequence[x509.Certificate] | None = None,
) -> DeviceEvidence:
    """A report with these opaque fields, signed by the device's key, and its chain."""
    report = spdm.Report(
        nonce=nonce,
        measurements=tuple(device.measurements if measurements is None else measurements),
        device_nonce=hashlib.sha256(b"SIMULATED device nonce" + nonce + device.pdi).digest(),
        opaque=opaque.encode(said),
        signed=b"",
        signature=b"",
    )
    signed = spdm.encode(report)
    chain = device_chain(device) if certificates is None else certificates
    kind = device.family.kind
    return DeviceEvidence(kind, signed + _raw_signature(private_key(device.name), signed), _pem(chain))


def _raw_signature(key: _Key, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return r.to_bytes(48) + s.to_bytes(48)


@functools.cache
def device_chain(device: SimulatedDevice) -> tuple[x509.Certificate, ...]:
    """The five certificates of a device."""
    family, rom = device.family, private_key(f"{device.name} boot ROM")
    authorities = _authorities(family)
    head = ((NameOID.COUNTRY_NAME, "US"), (NameOID.ORGANIZATION_NAME, _ORGANIZATION))
    chip = f"{family.chip} A01 {family.engine}"
    rom_serial = f"41{device.pdi.hex().upper()}"
    rom_name = _subject((NameOID.SERIAL_NUMBER, rom_serial), *head, (NameOID.COMMON_NAME, f"{chip} BROM"))
    leaf_key = private_key(device.name)
    leaf_serial = hashlib.sha1(device.pdi, usedforsecurity=False).hexdigest().upper()
    leaf_name = _subject((NameOID.SERIAL_NUMBER, leaf_serial), *head, (NameOID.COMMON_NAME, f"{chip} FMC LF"))
    rom_certificate = certificate(
        rom_name, rom, authorities[0].subject, private_key(f"{family.chip} provisioner"), ca=True, signs_lists=False
    )
    key = rom.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    content = bytes.fromhex("020101") + key + _FWID_HEAD + device.fwid
    fwid = x509.UnrecognizedExtension(_FWID_OID, bytes([0x30, 0x81, len(content)]) + content)
    leaf = certificate(leaf_name, leaf_key, rom_name, rom, ca=None, extension=fwid)
    return (leaf, rom_certificate, *authorities)


@functools.cache
def _authorities(family: Family) -> tuple[x509.Certificate, ...]:
    """Provisioner, identity authority and root of a family."""
    root, identity, provisioner = (private_key(name) for name in ("root", "identity", f"{family.chip} provisioner"))
    organization = (NameOID.ORGANIZATION_NAME, _ORGANIZATION)
    root_name = _subject((NameOID.COMMON_NAME, "NVIDIA Device Identity CA"), organization)
    identity_name = _subject((NameOID.COMMON_NAME, f"NVIDIA {family.identity} Identity"), organization)
    provisioner_name = _subject(
        (NameOID.COMMON_NAME, f"NVIDIA {family.chip} Provisioner ICA 1"),
        organization,
        (NameOID.COUNTRY_NAME, "US"),
    )
    return (
        certificate(provisioner_name, provisioner, identity_name, identity, ca=True),
        certificate(identity_name, identity, root_name, root, ca=True),
        certificate(root_name, root, root_name, root, ca=True),
    )


def _subject(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(oid, f"SIMULATED privml-build {value}" if oid == NameOID.COMMON_NAME else value)
            for oid, value in parts
        ]
    )


def certificate(
    subject: x509.Name,
    key: _Key,
    issuer: x509.Name,
    issuer_key: _Key,
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
    return builder.sign(issuer_key, hashes.SHA384(), ecdsa_deterministic=True)


def answers(
    devices: Iterable[SimulatedDevice], now: int, *, status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
) -> tuple[bytes, ...]:
    """A revocation answer for each certificate of these devices that has an authority, each once."""
    found: dict[int, bytes] = {}
    for device in devices:
        chain = device_chain(device)
        keys = (f"{device.family.chip} provisioner", "identity", "root")
        for number, key in enumerate(keys, start=1):
            asked = chain[number]
            if asked.serial_number not in found:
                made = answer(asked, chain[number + 1], private_key(key), now, status=status)
                found[asked.serial_number] = made
    return tuple(found.values())


def answer(
    asked: x509.Certificate,
    issuer: x509.Certificate,
    key: _Key,
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


@functools.cache
def _rim_chain(product: str) -> tuple[x509.Certificate, ...]:
    """The four certificates of a signer of reference values."""
    signer, third, second, root = (
        private_key(name) for name in (f"{product} rim", f"{product} rim L3", f"{product} rim CA", "rim root")
    )
    place = (
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.ORGANIZATION_NAME, _ORGANIZATION),
    )
    end = ((NameOID.ORGANIZATION_NAME, _ORGANIZATION), (NameOID.COUNTRY_NAME, "US"))
    signer_name = _subject(*place, (NameOID.COMMON_NAME, f"NVIDIA Reference Value L4 {product}"))
    third_name = _subject((NameOID.COMMON_NAME, f"NVIDIA Reference Value L3 {product} 001"), *end)
    second_name = _subject((NameOID.COMMON_NAME, f"NVIDIA Reference Value {product} CA"), *end)
    root_name = _subject(place[0], place[3], (NameOID.COMMON_NAME, "NVIDIA CoRIM signing Root CA"))
    return (
        certificate(signer_name, signer, third_name, third, ca=False),
        certificate(third_name, third, second_name, second, ca=True),
        certificate(second_name, second, root_name, root, ca=True),
        certificate(root_name, root, root_name, root, ca=True),
    )


def rim_answers(products: Iterable[str], now: int) -> tuple[bytes, ...]:
    """A revocation answer for each certificate of these signers of reference values, each once."""
    found = []
    for product in products:
        chain = _rim_chain(product)
        for number, key in enumerate((f"{product} rim L3", f"{product} rim CA", "rim root")):
            found.append(answer(chain[number], chain[number + 1], private_key(key), now))
    return tuple(found)


_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_HASH = "http://www.w3.org/2001/04/xmlenc#sha384"
_DS = "http://www.w3.org/2000/09/xmldsig#"
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_MORE = "http://www.w3.org/2001/04/xmldsig-more#"


def rims(*, gpus: bool = True, switches: bool = False) -> tuple[bytes, ...]:
    """The reference values of the simulated driver and VBIOS, and of the switches' firmware."""
    values = GPUS[0].measurements
    vbios, driver = ({index: values[index] for index in found} for found in (range(7), range(7, len(values))))
    made = [("GH100", GPU_VBIOS, vbios), ("GH100", DRIVER, driver)] if gpus else []
    if switches:
        made.append(("LS10", SWITCH_VBIOS, dict(enumerate(SWITCHES[0].measurements))))
    return tuple(rim(product, version, measured) for product, version, measured in made)


def rim(product: str, version: str, measurements: dict[int, bytes]) -> bytes:
    """Signed reference values with one accepted digest for each index."""
    resources = "".join(
        f'<ns0:Resource type="Measurement" index="{index}" active="True" alternatives="1" ns2:Hash0="{value.hex()}"'
        f' name="Measurement_{index}" size="48"/>'
        for index, value in measurements.items()
    )
    return signed_rim(
        f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}" xmlns:ns2="{_HASH}" name="{product}">'
        f'<ns0:Entity name="SIMULATED"/><ns0:Meta colloquialVersion="{version}" product="{product}"/>'
        f"<ns0:Payload>{resources}</ns0:Payload></SoftwareIdentity>",
        product,
    )


def signed_rim(content: str, product: str) -> bytes:
    """``content`` (XML) with the signature of the signer for ``product`` as the root's last child."""
    digested = base64.b64encode(hashlib.sha384(xml.canonical(xml.parse(content.encode()))).digest()).decode()
    info = (
        f'<ds:SignedInfo><ds:CanonicalizationMethod Algorithm="{_C14N}"/>'
        f'<ds:SignatureMethod Algorithm="{_MORE}ecdsa-sha384"/><ds:Reference URI=""><ds:Transforms>'
        f'<ds:Transform Algorithm="{_DS}enveloped-signature"/><ds:Transform Algorithm="{_C14N}"/></ds:Transforms>'
        f'<ds:DigestMethod Algorithm="{_MORE}sha384"/><ds:DigestValue>{digested}</ds:DigestValue></ds:Reference>'
        "</ds:SignedInfo>"
    )
    certificates = "".join(
        f"<ds:X509Certificate>{_lines(_der(each))}</ds:X509Certificate>" for each in _rim_chain(product)
    )

    def whole(value: str) -> str:
        signature = (
            f'<ds:Signature xmlns:ds="{_DS}">{info}<ds:SignatureValue>{value}</ds:SignatureValue>'
            f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
        )
        head, tag, tail = content.rpartition("</")
        return head + signature + tag + tail

    signed = xml.canonical(xml.parse(whole("").encode()).elements[-1].elements[0])
    return whole(base64.b64encode(_raw_signature(private_key(f"{product} rim"), signed)).decode()).encode()


def _lines(der: bytes) -> str:
    return "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64)) + "\n"


def _der(made: x509.Certificate) -> bytes:
    return made.public_bytes(Encoding.DER)


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)
