"""Simulated GPUs and NVSwitches, for tests and development images.

Anyone can forge them: the keys come from the public seed of `sim.quote`.

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

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import opaque, spdm, xml
from privml.evidence.nvidia.families import HOPPER, LS10, Family
from privml.evidence.nvidia.opaque import NO_GPU, OFF, ON, SWITCH_GPUS, SWITCH_PORTS
from privml.sim.gpupki import (
    ORGANIZATION,
    answer,
    authorities,
    certificate,
    der,
    private_key,
    raw_signature,
    rim_chain,
    subject_name,
)

DRIVER = "590.12"
GPU_VBIOS = "96.00.A5.00.01"
SWITCH_VBIOS = "96.10.73.00.01"
LINKS = 18

_FWID_OID = x509.ObjectIdentifier("2.23.133.5.4.1")
_FWID_HEAD = bytes.fromhex("303d06096086480165030402020430")


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


def evidence(nonce: bytes, gpus: int = 1, switches: int = 0) -> tuple[DeviceEvidence, ...]:
    """The evidence of so many GPUs and switches; with switches, they are one group of protected PCIe."""
    boards, links = GPUS[:gpus], SWITCHES[:switches]
    return (
        *(device_evidence(board, nonce, gpu_opaque(board, links)) for board in boards),
        *(device_evidence(link, nonce, switch_opaque(link, boards)) for link in links),
    )


def gpu_opaque(
    device: SimulatedDevice,
    switches: Sequence[SimulatedDevice] = (),
    *,
    driver: str = DRIVER,
    vbios: str = GPU_VBIOS,
) -> tuple[tuple[int, bytes], ...]:
    """The opaque fields of a GPU that is linked with ``switches``."""
    parts = [int(part, 16) for part in vbios.split(".")]
    links = [bytes(reversed(switches[number % len(switches)].pdi)) for number in range(LINKS)] if switches else []
    return (
        (6, bytes([*reversed(parts[:4]), parts[4], 0, 0, 0])),
        (14, bytes(4)),
        (15, b"885".ljust(9, b"\0")),
        (16, b"0".ljust(5, b"\0")),
        (17, b"G520\0"),
        (18, b"0200\0"),
        (19, bytes(2)),
        (3, driver.encode() + b"\0"),
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
    return DeviceEvidence(kind, signed + raw_signature(private_key(device.name), signed), _pem(chain))


@functools.cache
def device_chain(device: SimulatedDevice) -> tuple[x509.Certificate, ...]:
    """The five certificates of a device."""
    family, rom = device.family, private_key(f"{device.name} boot ROM")
    above = authorities(family)
    head = ((NameOID.COUNTRY_NAME, "US"), (NameOID.ORGANIZATION_NAME, ORGANIZATION))
    chip = f"{family.chip} A01 {family.engine}"
    rom_serial = f"41{device.pdi.hex().upper()}"
    rom_name = subject_name((NameOID.SERIAL_NUMBER, rom_serial), *head, (NameOID.COMMON_NAME, f"{chip} BROM"))
    leaf_key = private_key(device.name)
    leaf_serial = hashlib.sha1(device.pdi, usedforsecurity=False).hexdigest().upper()
    leaf_name = subject_name((NameOID.SERIAL_NUMBER, leaf_serial), *head, (NameOID.COMMON_NAME, f"{chip} FMC LF"))
    rom_certificate = certificate(
        rom_name, rom, above[0].subject, private_key(f"{family.chip} provisioner"), ca=True, signs_lists=False
    )
    key = rom.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    content = bytes.fromhex("020101") + key + _FWID_HEAD + device.fwid
    fwid = x509.UnrecognizedExtension(_FWID_OID, bytes([0x30, 0x81, len(content)]) + content)
    leaf = certificate(leaf_name, leaf_key, rom_name, rom, ca=None, extension=fwid)
    return (leaf, rom_certificate, *above)


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


_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_HASH = "http://www.w3.org/2001/04/xmlenc#sha384"
_DS = "http://www.w3.org/2000/09/xmldsig#"
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_MORE = "http://www.w3.org/2001/04/xmldsig-more#"


def rims(*, gpus: bool = True, switches: bool = False, driver: str = DRIVER) -> tuple[bytes, ...]:
    """The reference values of the simulated ``driver`` and VBIOS, and of the switches' firmware."""
    values = GPUS[0].measurements
    vbios, own = ({index: values[index] for index in found} for found in (range(7), range(7, len(values))))
    made = [("GH100", GPU_VBIOS, vbios), ("GH100", driver, own)] if gpus else []
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
        f"<ds:X509Certificate>{_lines(der(each))}</ds:X509Certificate>" for each in rim_chain(product)
    )

    def whole(value: str) -> str:
        signature = (
            f'<ds:Signature xmlns:ds="{_DS}">{info}<ds:SignatureValue>{value}</ds:SignatureValue>'
            f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
        )
        head, tag, tail = content.rpartition("</")
        return head + signature + tag + tail

    signed = xml.canonical(xml.parse(whole("").encode()).elements[-1].elements[0])
    return whole(base64.b64encode(raw_signature(private_key(f"{product} rim"), signed)).decode()).encode()


def _lines(der: bytes) -> str:
    return "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64)) + "\n"


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)
