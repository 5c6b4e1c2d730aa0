"""The evidence of simulated GPUs and NVSwitches, made without this project's encoders and with any fault.

A report is the request and response of SPDM 1.1 GET_MEASUREMENTS (DMTF DSP0274); its opaque data is a list of
(id u16, length u16, value), little endian. Layout and values are those of published reports of real devices.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.negative import devicepki
from tests.negative.devicepki import COMMON, COUNTRY, IDENTITY, ORGANIZATION, OWNER, ROOT, Answer, Cert, Rim
from tests.negative.pki import integer, oid, tlv

DRIVER = "590.12"
GPU_VBIOS = "96.00.A5.00.01"
SWITCH_VBIOS = "96.10.73.00.01"
LINKS = 18
PLACES = 8
PORTS = 64
ON, OFF = b"\xaa", b"\x55"
PPCIE = b"\2\0"
VBIOS_MEASUREMENTS = 7  # in the simulation, the first of a GPU; the driver measures the others


@dataclass(frozen=True)
class Evidence:
    """What a document has of one device."""

    kind: str
    report: bytes
    certificates: bytes

    def evidence(self, _: bytes) -> Evidence:
        """Itself, whatever nonce was asked for."""
        return self

    def field(self) -> dict[str, str]:
        """The device in ``device_evidence``."""
        encoded = {name: base64.b64encode(getattr(self, name)).decode() for name in ("report", "certificates")}
        return {"kind": self.kind, **encoded}

    def listed(self) -> dict[str, str]:
        """The device in the devices section."""
        return {
            "certificates_sha256": hashlib.sha256(self.certificates).hexdigest(),
            "evidence_sha256": hashlib.sha256(self.report).hexdigest(),
        }


@dataclass(frozen=True)
class Family:
    """A family of devices; ``measurements`` is their number in a report."""

    name: str
    kind: str
    chip: str
    engine: str
    measurements: int


HOPPER = Family("hopper", "gpu", "GH100", "GSP", 64)
LS10 = Family("ls10", "switch", "LS_10", "FSP", 31)


def digest(name: str) -> bytes:
    """What stands for the firmware or measurement called ``name``."""
    return hashlib.sha384(f"SIMULATED {name}".encode()).digest()


def measured(family: Family) -> tuple[bytes, ...]:
    """The measurements of an honest device."""
    return tuple(digest(f"{family.name} measurement {number}") for number in range(family.measurements))


@dataclass(frozen=True)
class Device:
    """An honest device, number ``index`` of its family, unless a field says otherwise.

    ``peers`` are the PDIs of the devices of the other kind that it is linked with. ``says`` replaces opaque fields,
    or removes those whose value is None. ``nonce`` replaces the document's, ``signer`` is another key, and ``chain``
    replaces the certificates. ``more`` follows the opaque fields; ``tail`` follows the report after it was signed.
    """

    family: Family
    index: int = 0
    peers: tuple[bytes, ...] = ()
    says: tuple[tuple[int, bytes | None], ...] = ()
    more: bytes = b""
    nonce: bytes | None = None
    measurements: tuple[bytes, ...] | None = None
    signer: str = ""
    chain: tuple[Cert, ...] | None = None
    tail: bytes = b""

    def with_(self, **changes: Any) -> Device:
        """A copy with other fields."""
        return replace(self, **changes)

    @property
    def name(self) -> str:
        return f"{self.family.name} {self.index}"

    @property
    def pdi(self) -> bytes:
        """Its 8-byte id."""
        return hashlib.sha256(f"SIMULATED {self.name}".encode()).digest()[:8]

    @property
    def firmware(self) -> bytes:
        return digest(f"{self.family.name} firmware")

    def fields(self) -> tuple[tuple[int, bytes], ...]:
        """The opaque fields in the order of real reports."""
        honest = self._gpu() if self.family.kind == "gpu" else self._switch()
        changes = dict(self.says)
        return tuple((number, value) for number, old in honest if (value := changes.get(number, old)) is not None)

    def _gpu(self) -> tuple[tuple[int, bytes], ...]:
        first, *rest, last = bytes.fromhex(GPU_VBIOS.replace(".", ""))
        linked = [self.peers[number % len(self.peers)][::-1] for number in range(LINKS)] if self.peers else []
        return (
            (6, bytes([*reversed(rest), first, last, 0, 0, 0])),
            (14, bytes(4)),
            (15, b"885".ljust(9, b"\0")),
            (16, b"0".ljust(5, b"\0")),
            (17, b"G520\0"),
            (18, b"0200\0"),
            (19, bytes(2)),
            (3, DRIVER.encode() + b"\0"),
            (4, bytes(8)),
            (12, bytes(4 * self.family.measurements)),
            (13, bytes(4)),
            (11, OFF),
            (20, self.firmware),
            (21, ON if self.peers else OFF),
            *([(22, b"".join(linked))] if linked else []),
            (34, b"\1\0"),
            (36, PPCIE if self.peers else bytes(2)),
        )

    def _switch(self) -> tuple[tuple[int, bytes], ...]:
        gpus = b"".join(self.peers[number % len(self.peers)] for number in range(PLACES))
        ports = bytes(number % PLACES if number < 2 * PLACES else 0xFF for number in range(PORTS))
        return (
            (6, SWITCH_VBIOS.encode()),
            (22, self.pdi),
            (12, bytes(4 * 27)),
            (26, gpus + ports),
            (23, b"\xec\0"),
            (24, struct.pack("<H", self.index)),
            (25, b"\1\0"),
        )

    def certificates(self) -> tuple[Cert, ...]:
        """Firmware, boot ROM, provisioner, identity authority, root."""
        if self.chain is not None:
            return self.chain
        rom = self.boot_rom()
        serial = hashlib.sha1(self.pdi, usedforsecurity=False).hexdigest().upper()
        leaf = Cert(self._subject(serial, "FMC LF"), self.name, rom.subject, rom.key, None, extension=self._fwid())
        return (leaf, rom, devicepki.provisioner(self.family.chip), IDENTITY, ROOT)

    def boot_rom(self) -> Cert:
        above = devicepki.provisioner(self.family.chip)
        name = self._subject(f"41{self.pdi.hex().upper()}", "BROM")
        return Cert(name, f"{self.name} boot ROM", above.subject, above.key, ca=True, lists=False)

    def _subject(self, serial: str, what: str) -> devicepki.Name:
        text = f"{self.family.chip} A01 {self.family.engine} {what}"
        return ((devicepki.SERIAL, serial), (COUNTRY, "US"), (OWNER, ORGANIZATION), (COMMON, text))

    def _fwid(self) -> bytes:
        """TCG DICE composite device id: version, the issuer's key, and the firmware's digest."""
        public = devicepki.key(f"{self.name} boot ROM").public_key()
        key = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        fwid = tlv(0x30, oid("2.16.840.1.101.3.4.2.2") + tlv(4, self.firmware))
        return tlv(0x30, integer(1) + key + fwid)

    def evidence(self, nonce: bytes) -> Evidence:
        """Its answer to ``nonce``."""
        return _evidence(self, nonce)


REQUEST = bytes([0x11, 0xE0, 0x01, 0xFF])
"""SPDM 1.1 GET_MEASUREMENTS: signed, all of them."""
RESPONSE = bytes([0x11, 0x60, 0, 0])


@cache
def _evidence(given: Device, nonce: bytes) -> Evidence:
    asked = nonce if given.nonce is None else given.nonce
    values = measured(given.family) if given.measurements is None else given.measurements
    records = b"".join(
        # Index, the DMTF's form, its size; kind (a digest of raw bits), the digest's size, the digest.
        struct.pack("<BBHBH", number, 1, 3 + len(value), 1, len(value)) + value
        for number, value in enumerate(values, 1)
    )
    own = hashlib.sha256(b"SIMULATED device nonce" + asked + given.pdi).digest()
    said = b"".join(struct.pack("<HH", number, len(value)) + value for number, value in given.fields()) + given.more
    signed = (
        REQUEST + asked + b"\0"
        + RESPONSE + bytes([len(values)]) + len(records).to_bytes(3, "little") + records
        + own + struct.pack("<H", len(said)) + said
    )  # fmt: skip
    pem = b"".join(each.pem for each in given.certificates())
    report = signed + devicepki.sign(given.signer or given.name, signed) + given.tail
    return Evidence(given.family.kind, report, pem)


def gpus(count: int) -> tuple[Device, ...]:
    """GPUs that work each by itself."""
    return tuple(Device(HOPPER, number) for number in range(count))


def group(count: int = 8, switches: int = 4) -> tuple[Device, ...]:
    """GPUs and switches in protected PCIe mode, each linked with all of the other kind."""
    boards = gpus(count)
    links = tuple(Device(LS10, number) for number in range(switches))
    return (
        *(board.with_(peers=tuple(link.pdi for link in links)) for board in boards),
        *(link.with_(peers=tuple(board.pdi for board in boards)) for link in links),
    )


def answers(devices: tuple[Device, ...], rims: tuple[Rim, ...], time: int) -> tuple[Answer, ...]:
    """A good revocation answer for each certificate that has an authority to ask, each once."""
    chains = [device.certificates()[1:-1] for device in devices] + [rim.chain[:-1] for rim in rims]
    return tuple(Answer(asked, time) for asked in dict.fromkeys(each for chain in chains for each in chain))


def rims(devices: tuple[Device, ...]) -> tuple[Rim, ...]:
    """The reference values of the devices' firmware."""
    kinds = {device.family.name for device in devices}
    gpu, switch = (tuple(enumerate(measured(family))) for family in (HOPPER, LS10))
    made = [
        ("hopper", Rim("GH100", GPU_VBIOS, gpu[:VBIOS_MEASUREMENTS])),
        ("hopper", Rim("GH100", DRIVER, gpu[VBIOS_MEASUREMENTS:])),
        ("ls10", Rim("LS10", SWITCH_VBIOS, switch)),
    ]
    return tuple(rim for kind, rim in made if kind in kinds)
