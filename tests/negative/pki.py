"""The simulated platform's certificates and collateral, made here with any fault. Nothing of `privml` is imported.

The keys follow from the simulation's public seed; only its root certificate is read, because a verifier names it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

ROOT_PEM = (Path(__file__).resolve().parents[2] / "builder/privml/sim/pki/root.pem").read_bytes()
SEED = b"privml-build simulated TDX platform, version 1: this seed is public, anybody can forge its quotes"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
SGX = "1.2.840.113741.1.13.1"
QE_SIGNER = hashlib.sha256(b"SIMULATED quoting enclave signer").digest()
QE_ENCLAVE = hashlib.sha256(b"SIMULATED quoting enclave").digest()
QE_ATTRIBUTES = bytes.fromhex("1100000000000000e700000000000000")
QE_AUTHENTICATION = bytes(range(32))
TEE_TCB_SVN = bytes([3, 0, 7]) + bytes(13)


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """A key of the simulated platform."""
    number = int.from_bytes(hashlib.sha512(SEED + b"\0" + name.encode()).digest())
    return ec.derive_private_key(number % (ORDER - 1) + 1, ec.SECP256R1())


def point(name: str) -> bytes:
    """The public key as in a quote: x || y."""
    numbers = key(name).public_key().public_numbers()
    return numbers.x.to_bytes(32) + numbers.y.to_bytes(32)


def sign(name: str, data: bytes) -> bytes:
    """r || s, always the same for the same data."""
    r, s = decode_dss_signature(key(name).sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32) + s.to_bytes(32)


@dataclass(frozen=True)
class Certificate:
    """What a certificate says and who signs it."""

    subject: str
    key: str
    issuer: str = "Root CA"
    issuer_key: str = "root"
    serial: int = 7
    ca: bool = False
    extension: bytes | None = None
    prefix: str = "SIMULATED privml-build "
    start: datetime = START
    end: datetime = END


@dataclass(frozen=True)
class Platform:
    """A platform and its collateral. Each field is what one fault changes."""

    fmspc: bytes = bytes.fromhex("53494d554c41")
    pce_id: bytes = bytes(2)
    ppid: bytes = hashlib.sha256(b"SIMULATED platform").digest()[:16]
    cpu_svn: bytes = bytes([4] * 8 + [0] * 8)
    pce_svn: int = 13
    qe_isv_svn: int = 8
    qe_signer: bytes = QE_SIGNER
    qe_report_data: bytes | None = None
    pck_extension: bool = True
    pck_serial: int = 3
    pck_ca: str = "PCK Processor CA"
    tcb: dict[str, Any] = field(default_factory=dict)
    qe: dict[str, Any] = field(default_factory=dict)
    tcb_status: str = "UpToDate"
    qe_status: str = "UpToDate"
    tcb_signing: tuple[Certificate, ...] | None = None
    tcb_key: str = "tcb signing"
    qe_key: str = "tcb signing"
    revoked: tuple[int, ...] = ()
    revoked_cas: tuple[int, ...] = ()
    crl_key: str = "processor"
    crl_end: datetime = END
    crl_start: datetime = START

    def with_(self, **changes: Any) -> Platform:
        """A copy with other fields."""
        return replace(self, **changes)

    def chain(self) -> tuple[bytes, bytes, bytes]:
        """PEM of the PCK, its CA and the root."""
        extension = self.sgx_extension() if self.pck_extension else None
        pck = Certificate("PCK Certificate", "pck", self.pck_ca, "processor", self.pck_serial, extension=extension)
        return issue(pck), issue(self._ca()), ROOT_PEM

    def _ca(self) -> Certificate:
        return Certificate(self.pck_ca, "processor", serial=2, ca=True)

    def collateral(self) -> dict[str, str]:
        """The nine fields of Intel's QVL."""
        signing = (
            (Certificate("TCB Signing", "tcb signing", serial=4),) if self.tcb_signing is None else self.tcb_signing
        )
        signers = b"".join(map(issue, signing)) + ROOT_PEM
        tcb_info = json.dumps(self._tcb_info(), separators=(",", ":"))
        qe_identity = json.dumps(self._qe_identity(), separators=(",", ":"))
        return {
            "pck_crl_issuer_chain": (issue(self._ca()) + ROOT_PEM).decode(),
            "root_ca_crl": self._crl("Root CA", "root", self.revoked_cas).hex(),
            "pck_crl": self._crl(self.pck_ca, self.crl_key, self.revoked).hex(),
            "tcb_info_issuer_chain": signers.decode(),
            "tcb_info": tcb_info,
            "tcb_info_signature": sign(self.tcb_key, tcb_info.encode()).hex(),
            "qe_identity_issuer_chain": signers.decode(),
            "qe_identity": qe_identity,
            "qe_identity_signature": sign(self.qe_key, qe_identity.encode()).hex(),
        }

    def certification(self, chain: bytes | None = None, signer: str = "pck") -> bytes:
        """A quote's certification data: QE report, its signature, QE authentication data, certificates."""
        bound = hashlib.sha256(point("attestation key") + QE_AUTHENTICATION).digest() + bytes(32)
        report = struct.pack(
            "<16sI28x16s32s32x32s96xHH60x64s",
            self.cpu_svn,
            0,
            QE_ATTRIBUTES,
            QE_ENCLAVE,
            self.qe_signer,
            2,
            self.qe_isv_svn,
            bound if self.qe_report_data is None else self.qe_report_data,
        )
        pem = b"".join(self.chain()) if chain is None else chain
        authentication = struct.pack("<H", len(QE_AUTHENTICATION)) + QE_AUTHENTICATION
        return report + sign(signer, report) + authentication + struct.pack("<HI", 5, len(pem)) + pem

    def tcb_level(self) -> dict[str, Any]:
        """The only TCB level in the TCB info."""
        components = [{"svn": svn} for svn in bytes([4] * 8 + [0] * 8)]
        return {
            "tcb": {
                "sgxtcbcomponents": components,
                "pcesvn": 13,
                "tdxtcbcomponents": [{"svn": svn} for svn in TEE_TCB_SVN],
            },
            "tcbDate": _date(START),
            "tcbStatus": self.tcb_status,
        }

    def _tcb_info(self) -> dict[str, Any]:
        return {
            "id": "TDX",
            "version": 3,
            "issueDate": _date(START),
            "nextUpdate": _date(END),
            "fmspc": "53494D554C41",
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 1000,
            "tdxModule": {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8},
            "tcbLevels": [self.tcb_level()],
            **self.tcb,
        }

    def _qe_identity(self) -> dict[str, Any]:
        return {
            "id": "TD_QE",
            "version": 2,
            "issueDate": _date(START),
            "nextUpdate": _date(END),
            "tcbEvaluationDataNumber": 1000,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": 2,
            "tcbLevels": [{"tcb": {"isvsvn": 8}, "tcbDate": _date(START), "tcbStatus": self.qe_status}],
            **self.qe,
        }

    def sgx_extension(self) -> bytes:
        """The PCK certificate's extension with PPID, TCB, PCE id and FMSPC."""
        levels = [_entry(f"{SGX}.2.{number}", integer(svn)) for number, svn in enumerate(self.cpu_svn, 1)]
        levels += [_entry(f"{SGX}.2.17", integer(self.pce_svn)), _entry(f"{SGX}.2.18", tlv(4, self.cpu_svn))]
        return tlv(
            0x30,
            _entry(f"{SGX}.1", tlv(4, self.ppid))
            + _entry(f"{SGX}.2", tlv(0x30, b"".join(levels)))
            + _entry(f"{SGX}.3", tlv(4, self.pce_id))
            + _entry(f"{SGX}.4", tlv(4, self.fmspc))
            + _entry(f"{SGX}.5", tlv(0x0A, b"\0")),
        )

    def _crl(self, issuer: str, signer: str, serials: tuple[int, ...]) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(issuer))
            .last_update(self.crl_start)
            .next_update(self.crl_end)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key(signer).public_key()), critical=False
            )
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        for serial in serials:
            row = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(START).build()
            builder = builder.add_revoked_certificate(row)
        return builder.sign(key(signer), hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


@cache
def issue(given: Certificate) -> bytes:
    """PEM of a certificate."""
    public = key(given.key).public_key()
    usage = dict.fromkeys(
        ("key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(given.subject, given.prefix))
        .issuer_name(_name(given.issuer, given.prefix))
        .public_key(public)
        .serial_number(given.serial)
        .not_valid_before(given.start)
        .not_valid_after(given.end)
        .add_extension(x509.BasicConstraints(ca=given.ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not given.ca,
                content_commitment=not given.ca,
                key_cert_sign=given.ca,
                crl_sign=given.ca,
                **usage,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key(given.issuer_key).public_key()), critical=False
        )
    )
    if given.extension is not None:
        sgx = x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX), given.extension)
        builder = builder.add_extension(sgx, critical=False)
    made = builder.sign(key(given.issuer_key), hashes.SHA256(), ecdsa_deterministic=True)
    return made.public_bytes(Encoding.PEM)


def _name(what: str, prefix: str = "SIMULATED privml-build ") -> x509.Name:
    parts = [(NameOID.COMMON_NAME, prefix + what)]
    if prefix.startswith("SIMULATED"):
        parts += [(NameOID.ORGANIZATION_NAME, "SIMULATED, anybody can forge this")]
    else:
        parts += [
            (NameOID.ORGANIZATION_NAME, "Intel Corporation"),
            (NameOID.LOCALITY_NAME, "Santa Clara"),
            (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            (NameOID.COUNTRY_NAME, "US"),
        ]
    return x509.Name([x509.NameAttribute(*part) for part in parts])


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def tlv(tag: int, content: bytes) -> bytes:
    """An element in DER."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes(size.bit_length() + 7 >> 3)
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    """An INTEGER in DER."""
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1))


def _entry(dotted: str, value: bytes) -> bytes:
    return tlv(0x30, oid(dotted) + value)


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER in DER, from its dotted text."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytes([first * 40 + second])
    for arc in rest:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        content += bytes(reversed(digits))
    return tlv(6, content)
