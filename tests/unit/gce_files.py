"""Endorsements and captures of machines of Google for tests, with throw-away keys and invented machines.

One genuine log of such a machine is at hand, with its quote (``gcp-cos113``). The captures here are made from both:
other digests stand for other machines, and the quote gets the registers of the changed log. Its signature is then
wrong, and `platform learn` does not check it.
"""

from __future__ import annotations

import functools
import hashlib
import lzma
import struct
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from privml.events.registers import RTMRS
from privml.events.replay import replay
from privml.events.tcg import ALG_SHA384, LogEntry, encode_log, parse_log
from privml.evidence import capture
from privml.evidence.capture import Capture

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"
LOG = lzma.decompress((VECTORS / "gcp-cos113/ccel_data.dat.xz").read_bytes())
QUOTE = lzma.decompress((VECTORS / "gcp-cos113/cos-113-tdx-quote.dat.xz").read_bytes())
MRTD = QUOTE[48 + 136 : 48 + 184]
FIRMWARE = hashlib.sha384(b"firmware").digest()
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)
NOW = 1_795_000_000
GIB = 1 << 30


# --- endorsements ---------------------------------------------------------------------------------------------------


@functools.cache
def key(name: str) -> rsa.RSAPrivateKey:
    """A key of this run."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048 if name == "short" else 3072)


PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


@functools.cache
def certificate(
    subject: str,
    issuer: str,
    *,
    own_key: str = "",
    issuer_key: str = "",
    ca: bool = False,
    signs: bool = True,
    critical: bool = False,
    start: datetime = START,
    end: datetime = END,
) -> bytes:
    """A certificate as Google's tool makes them, with ``C=USA``."""

    def name(common: str) -> x509.Name:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            country = x509.NameAttribute(NameOID.COUNTRY_NAME, "USA", _validate=False)
        return x509.Name([country, x509.NameAttribute(NameOID.COMMON_NAME, common)])

    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key(own_key or subject).public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=signs and not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
        )
    )
    if critical:
        builder = builder.add_extension(x509.InhibitAnyPolicy(0), critical=True)
    made = builder.sign(key(issuer_key or issuer), hashes.SHA256(), rsa_padding=PSS)
    return made.public_bytes(Encoding.DER)


def varint(value: int) -> bytes:
    """The shortest form of a number."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A number as a field, left out if it is zero."""
    return varint(field << 3) + varint(value) if value else b""


def piece(field: int, value: bytes) -> bytes:
    """Bytes as a field."""
    return varint(field << 3 | 2) + varint(len(value)) + value


def measurement(ram_gib: int, mrtd: bytes, *, early: bool = False) -> bytes:
    """A VMTdx.Measurement."""
    return number(1, ram_gib) + number(2, int(early)) + piece(3, mrtd)


@functools.cache
def root() -> bytes:
    """The DER of the root of these tests."""
    return certificate("root", "root", ca=True)


def root_sha256() -> str:
    """What tests pin instead of Google's root."""
    return hashlib.sha256(root()).hexdigest()


def pem(*certificates: bytes) -> bytes:
    """A bundle."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates)


SNP = (
    number(1, 3)
    + piece(2, varint(1 << 3) + b"\0" + piece(2, bytes(48)))
    + piece(2, number(1, 2) + piece(2, bytes(48)))
    + piece(3, bytes(range(16)))
    + piece(4, bytes(range(16)))
    + number(5, 0x70000)
)


@dataclass(frozen=True)
class Golden:
    """What is signed; each field is what one fault changes."""

    timestamp: bytes = number(1, 1_779_000_000) + number(2, 5)
    changelist: int = 900_000_000
    leaf: bytes | None = None
    digest: bytes = FIRMWARE
    bundle: bytes | None = None
    snp: bytes = SNP
    tdx: bytes | None = None
    more: bytes = b""

    def encoded(self) -> bytes:
        """The serialised VMGoldenMeasurement."""
        rows = (
            measurement(0, MRTD),
            measurement(88, hashlib.sha384(b"88").digest()),
            measurement(88, hashlib.sha384(b"88 early").digest(), early=True),
        )
        tdx = number(1, 2) + b"".join(piece(2, row) for row in rows) if self.tdx is None else self.tdx
        parts = [
            piece(1, self.timestamp),
            number(2, self.changelist),
            piece(3, bytes(range(20))),
            piece(4, certificate("signer", "root") if self.leaf is None else self.leaf),
            piece(5, self.digest),
            piece(6, pem(root()) if self.bundle is None else self.bundle),
            piece(7, self.snp) if self.snp else b"",
            piece(8, tdx) if tdx else b"",
        ]
        return b"".join(parts) + self.more


def signed(data: bytes, by: str = "signer", salt: int = 32) -> bytes:
    """A VMLaunchEndorsement of these bytes."""
    how = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    return piece(1, data) + piece(2, key(by).sign(data, how, hashes.SHA256()))


@functools.cache
def endorsement(golden: Golden = Golden()) -> bytes:
    """An endorsement, good unless ``golden`` has a fault."""
    return signed(golden.encoded())


# --- captures -------------------------------------------------------------------------------------------------------


def structure(kind: int, body: bytes, *strings: str) -> bytes:
    """An SMBIOS structure."""
    texts = b"".join(text.encode() + b"\0" for text in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), kind) + body + texts + b"\0"


def table(
    machine: str = "one",
    *,
    memory: int = 16 * GIB,
    maker: str = "Google",
    product: str = "Google Compute Engine",
    more: bytes = b"",
    system_uuid: bytes | None = None,
) -> bytes:
    """The SMBIOS table of an invented machine."""
    serial = f"GoogleCloud-{hashlib.md5(machine.encode(), usedforsecurity=False).hexdigest().upper()}"
    own = uuid.uuid5(uuid.NAMESPACE_DNS, machine).bytes_le if system_uuid is None else system_uuid
    system = b"\x01\x02\x00\x03" + own + b"\x06\x00\x00"
    mib = memory >> 20
    size = min(mib, 0x7FFF)
    extended = mib if size == 0x7FFF else 0
    module = bytes(8) + struct.pack("<H", size) + bytes(14) + struct.pack("<I", extended) + bytes(4)
    return (
        structure(0, bytes(20), "Google", "Google", "01/01/2026")
        + structure(1, system, maker, product, serial)
        + structure(2, b"\x01\x02\x00\x03", maker, product, f"Board-{serial}")
        + structure(17, module)
        + more
        + structure(127, b"")
    )


Change = Callable[[LogEntry], LogEntry | None]


@dataclass(frozen=True)
class Machine:
    """A machine and what was captured of it. ``others`` are the ``what`` of records with digests of its own."""

    name: str = "one"
    cpus: bytes = b"0-3\n"
    memory: int = 16 * GIB
    mrtd: bytes = MRTD
    smbios: bytes | None = None
    change: Change = lambda entry: entry
    more: tuple[LogEntry, ...] = ()
    attributes: bytes = bytes.fromhex("0000001000000000")
    without: frozenset[str] = frozenset()
    rtmrs: Mapping[str, bytes] = field(default_factory=dict)
    tail: bytes = b""
    whole_log: bytes = b""

    def log(self) -> bytes:
        """The log: the genuine one with the changes of this machine."""
        if self.whole_log:
            return self.whole_log
        kept = [made for entry in parse_log(LOG) if (made := self.change(entry)) is not None]
        return encode_log([*kept, *self.more])

    def table(self) -> bytes:
        """The SMBIOS table."""
        return table(self.name, memory=self.memory) if self.smbios is None else self.smbios

    def capture(self) -> bytes:
        """The archive, with a quote made for its parts whose registers are those of the log."""
        log = self.log()
        files = {capture.LOG: log, capture.SMBIOS: self.table(), capture.CPUS: self.cpus}
        files = {name: data for name, data in files.items() if name not in self.without}
        values = dict(self.rtmrs) if len(self.rtmrs) == len(RTMRS) else {**replay(parse_log(log)), **self.rtmrs}
        quote = bytearray(QUOTE)
        quote[48 + 120 : 48 + 128] = self.attributes
        quote[48 + 136 : 48 + 184] = self.mrtd
        for index, register in enumerate(RTMRS):
            quote[48 + 328 + 48 * index : 48 + 376 + 48 * index] = values[register]
        quote[48 + 520 : 48 + 584] = Capture(files).report_data()
        if capture.QUOTE not in self.without:
            files[capture.QUOTE] = bytes(quote) + self.tail
        return Capture(files, dict.fromkeys(sorted(self.without), "left out on request")).encode()


def other(entry: LogEntry, word: str) -> LogEntry:
    """The record with another digest."""
    return replace(entry, digests={ALG_SHA384: hashlib.sha384(word.encode() + entry.sha384).digest()})


def larger(entry: LogEntry) -> LogEntry:
    """What a larger machine changes: the TD HOB, and the ACPI tables."""
    by_size = entry.type == 0x8000000B or entry.data.startswith(b"ACPI DATA")
    return other(entry, "larger") if by_size else entry


ONE = Machine()
TWO = Machine("two")
LARGE = Machine("large", cpus=b"0-7\n", memory=32 * GIB, change=larger)


def archives(*machines: Machine) -> Iterator[tuple[str, bytes]]:
    """The captures of machines, with the names of their files."""
    for machine in machines:
        yield f"{machine.name}.tar", machine.capture()


# --- platforms ------------------------------------------------------------------------------------------------------


def gce_platform(name: str, *sizes: str) -> str:
    """The file of a platform whose machines are nowhere."""
    rows = "".join(f"  - {size}\n" for size in sizes)
    return (
        f'schema: 2\nname: {name}\ndescription: "Invented."\ntee: tdx\nvmm: {{kind: gce}}\n'
        f'firmware: {{sha384: "{"0" * 96}", svn: 2, endorsed_until: "2034-01-01T00:00:00Z"}}\n'
        f"registers: {{mrtd: endorsement, rtmr0: captures}}\nsizes:\n{rows}"
        f'tables: {{sha256: "{"1" * 64}", size: 9}}\n'
    )
