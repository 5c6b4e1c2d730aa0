"""The simulated PKI, in place of Intel's certificates and collateral. It runs as ``-m privml.sim.pki``.

Anyone can forge everything here: all keys are derived from the public seed in `sim.quote`. It lets development images
and tests use the complete QVL; a verdict on it says so and has its own exit code. Every subject contains SIMULATED.
The files in ``sim/pki/`` are exactly this module's output (RFC 6979 signatures, fixed dates and serials), checked by
a test.

Layouts: Intel "SGX PCK Certificate and CRL Profile" 1.6 (extension 1.2.840.113741.1.13.1), PCS API v4 (TCB info v3,
QE identity v2). dcap-qvl wants an authority key identifier and a CRL number in each CRL.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from privml.base.files import write_atomic
from privml.base.strictjson import pretty
from privml.evidence.tdx.quote import CERT_PEM_CHAIN
from privml.sim.der import entry, integer, tlv
from privml.sim.quote import TEE_TCB_SVN, private_key, public_point, sign

NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
FMSPC = bytes.fromhex("53494d554c41")
PPID = hashlib.sha256(b"SIMULATED platform").digest()[:16]
PCE_SVN = 13
CPU_SVN = bytes([4] * 8 + [0] * 8)
EVALUATION_NUMBER = 1000
QE_MRSIGNER = hashlib.sha256(b"SIMULATED quoting enclave signer").digest()
QE_ATTRIBUTES = bytes.fromhex("1100000000000000e700000000000000")
QE_ISV_SVN = 8
QE_AUTHENTICATION_DATA = bytes(range(32))
CA_SERIAL, PCK_SERIAL, TCB_SERIAL = 2, 3, 4

_SGX = "1.2.840.113741.1.13.1"
_Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Variation:
    """How a simulated platform and its collateral differ from the honest ones; for tests.

    ``tcb_info`` and ``qe_identity`` replace members of these documents. ``revoked`` has the serial numbers in each
    revocation list (by field), ``list_dates`` the dates of each. ``signer`` is the key that signs TCB info and QE
    identity, and ``signer_name`` names its certificate. ``flags`` are the PCK certificate's configuration
    (dynamicPlatform, cachedKeys, smtEnabled), ``instance`` its platform instance ID.
    """

    tcb_info: Mapping[str, object] = field(default_factory=dict)
    qe_identity: Mapping[str, object] = field(default_factory=dict)
    revoked: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    list_dates: Mapping[str, tuple[datetime, datetime]] = field(default_factory=dict)
    signer: str = "tcb signing"
    signer_name: str = "TCB Signing"
    flags: tuple[bool, bool, bool] | None = None
    instance: bytes | None = None

    def revocation_list(self, name: str, issuer: x509.Name, key: _Key) -> str:
        """The revocation list of one field, in hex."""
        return _crl(issuer, key, self.revoked.get(name, ()), self.list_dates.get(name, (NOT_BEFORE, NOT_AFTER))).hex()


HONEST = Variation()


def generate(how: Variation = HONEST) -> dict[str, bytes]:
    """All static files by name: ``root.pem``, ``collateral.json``, ``certification.bin`` (QE report, PCK chain)."""
    root_key, ca_key, pck_key, tcb_key = (private_key(name) for name in ("root", "processor", "pck", how.signer))
    root_name, ca_name = _name("Root CA"), _name("PCK Processor CA")
    root = _certificate(root_name, root_key, root_name, root_key, serial=1, authority=True)
    authority = _certificate(ca_name, ca_key, root_name, root_key, serial=CA_SERIAL, authority=True)
    pck = _certificate(
        _name("PCK Certificate"),
        pck_key,
        ca_name,
        ca_key,
        serial=PCK_SERIAL,
        authority=False,
        extension=sgx_extension(how.flags, how.instance),
    )
    tcb = _certificate(_name(how.signer_name), tcb_key, root_name, root_key, serial=TCB_SERIAL, authority=False)
    tcb_info = _compact({**tcb_info_json(), **how.tcb_info})
    qe_identity = _compact({**qe_identity_json(), **how.qe_identity})
    collateral = {
        "pck_crl_issuer_chain": _pem(authority, root),
        "root_ca_crl": how.revocation_list("root_ca_crl", root_name, root_key),
        "pck_crl": how.revocation_list("pck_crl", ca_name, ca_key),
        "tcb_info_issuer_chain": _pem(tcb, root),
        "tcb_info": tcb_info,
        "tcb_info_signature": sign(tcb_key, tcb_info.encode()).hex(),
        "qe_identity_issuer_chain": _pem(tcb, root),
        "qe_identity": qe_identity,
        "qe_identity_signature": sign(tcb_key, qe_identity.encode()).hex(),
    }
    return {
        "root.pem": _pem(root).encode(),
        "collateral.json": pretty(collateral),
        "certification.bin": certification(pck_key, _pem(pck, authority, root).encode()),
    }


def certification(pck_key: _Key, chain: bytes) -> bytes:
    """The certification data of a quote: QE report over the attestation key, PCK signature, certificate chain."""
    point = public_point(private_key("attestation key"))
    report_data = hashlib.sha256(point + QE_AUTHENTICATION_DATA).digest() + bytes(32)
    report = struct.pack(
        "<16sI28s16s32s32s32s96sHH60s64s",
        CPU_SVN,
        0,
        b"",
        QE_ATTRIBUTES,
        hashlib.sha256(b"SIMULATED quoting enclave").digest(),
        b"",
        QE_MRSIGNER,
        b"",
        2,
        QE_ISV_SVN,
        b"",
        report_data,
    )
    authentication = struct.pack("<H", len(QE_AUTHENTICATION_DATA)) + QE_AUTHENTICATION_DATA
    return report + sign(pck_key, report) + authentication + struct.pack("<HI", CERT_PEM_CHAIN, len(chain)) + chain


def tcb_info_json() -> dict[str, object]:
    """TCB info v3 (id TDX) with one level, which the simulated platform meets."""
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": _date(NOT_BEFORE),
        "nextUpdate": _date(NOT_AFTER),
        "fmspc": FMSPC.hex().upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "tdxModule": {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8},
        "tcbLevels": [
            {
                "tcb": {
                    "sgxtcbcomponents": [{"svn": svn} for svn in CPU_SVN],
                    "pcesvn": PCE_SVN,
                    "tdxtcbcomponents": [{"svn": svn} for svn in TEE_TCB_SVN],
                },
                "tcbDate": _date(NOT_BEFORE),
                "tcbStatus": "UpToDate",
            }
        ],
    }


def qe_identity_json() -> dict[str, object]:
    """QE identity v2 (id TD_QE) of the simulated quoting enclave."""
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": _date(NOT_BEFORE),
        "nextUpdate": _date(NOT_AFTER),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MRSIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [{"tcb": {"isvsvn": QE_ISV_SVN}, "tcbDate": _date(NOT_BEFORE), "tcbStatus": "UpToDate"}],
    }


def sgx_extension(flags: tuple[bool, bool, bool] | None = None, instance: bytes | None = None) -> bytes:
    """DER of the PCK certificate's SGX extension: PPID, TCB, PCE id, FMSPC and SGX type (standard).

    A platform CA's certificates also have a platform instance ID and a configuration of three flags.
    """
    components = [entry(f"{_SGX}.2.{index + 1}", integer(svn)) for index, svn in enumerate(CPU_SVN)]
    components.append(entry(f"{_SGX}.2.17", integer(PCE_SVN)))
    components.append(entry(f"{_SGX}.2.18", tlv(0x04, CPU_SVN)))
    return tlv(
        0x30,
        entry(f"{_SGX}.1", tlv(0x04, PPID))
        + entry(f"{_SGX}.2", tlv(0x30, b"".join(components)))
        + entry(f"{_SGX}.3", tlv(0x04, bytes(2)))
        + entry(f"{_SGX}.4", tlv(0x04, FMSPC))
        + entry(f"{_SGX}.5", tlv(0x0A, b"\0"))
        + (entry(f"{_SGX}.6", tlv(0x04, instance)) if instance is not None else b"")
        + (_configuration(flags) if flags is not None else b""),
    )


def _configuration(flags: tuple[bool, bool, bool]) -> bytes:
    entries = [
        entry(f"{_SGX}.7.{number}", tlv(0x01, b"\xff" if flag else b"\0")) for number, flag in enumerate(flags, 1)
    ]
    return entry(f"{_SGX}.7", tlv(0x30, b"".join(entries)))


def _name(what: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"SIMULATED privml-build {what}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED, anybody can forge this"),
        ]
    )


def _certificate(
    subject: x509.Name,
    key: _Key,
    issuer: x509.Name,
    issuer_key: _Key,
    *,
    serial: int,
    authority: bool,
    extension: bytes | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(_usage(authority=authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if extension is not None:
        sgx = x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX), extension)
        builder = builder.add_extension(sgx, critical=False)
    return builder.sign(issuer_key, hashes.SHA256(), ecdsa_deterministic=True)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=not authority,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _crl(
    issuer: x509.Name,
    key: _Key,
    revoked: tuple[int, ...] = (),
    dates: tuple[datetime, datetime] = (NOT_BEFORE, NOT_AFTER),
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(dates[0])
        .next_update(dates[1])
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOT_BEFORE).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


def _pem(*certificates: x509.Certificate) -> str:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates).decode("ascii")


def _compact(value: dict[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Write the static files next to this module."""
    directory = Path(__file__).with_name("pki")
    for name, data in generate().items():
        write_atomic(directory / name, data)


if __name__ == "__main__":
    main()
