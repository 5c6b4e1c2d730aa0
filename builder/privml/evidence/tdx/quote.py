"""Parse TDX quotes of versions 4 and 5. Signatures are not checked here.

Layout: Intel TDX DCAP Quoting Library API, "Quote format" (v4 appendix 3, v5), little endian. A v4 quote is a 48-byte
header, a 584-byte TD 1.0 body, u32 length and signature data; v5 puts u16 body type and u32 body size before
the body (TD 1.0, or TD 1.5 of 648 bytes). The quote ends with its signature data. A quoting service may append zeros.
Other trailing bytes are refused in evidence (`parse`), because signature libraries ignore them and two different
files would be the same quote; `read` only reports them (ADR 0036).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from privml.base.errors import EvidenceError

HEADER_SIZE = 48
BODY_10_SIZE = 584
BODY_15_SIZE = 648
QE_REPORT_SIZE = 384
MAX_SIZE = 64 * 1024

ECDSA_P256 = 2
TEE_TDX = 0x81
BODY_TD10 = 2
BODY_TD15 = 3
CERT_PEM_CHAIN = 5
CERT_QE_REPORT = 6
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_HEADER = struct.Struct("<HHIHH16s20s")
_TD10 = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD15_TAIL = struct.Struct("<16s48s")
_QE_REPORT = struct.Struct("<16sI28s16s32s32s32s96sHH60s64s")


@dataclass(frozen=True)
class QuoteHeader:
    """The first 48 bytes."""

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor: bytes
    user_data: bytes


@dataclass(frozen=True)
class TdBody:
    """The TD report inside a quote. Measurements have 48 bytes, ``attributes`` and ``xfam`` 8, ``report_data`` 64.

    ``rtmrs`` are RTMR0..3. ``tee_tcb_svn2`` (16 bytes) and ``mr_service_td`` (48) exist in TD 1.5 bodies only.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None


@dataclass(frozen=True)
class QeReport:
    """The quoting enclave's own SGX report (384 bytes), signed by the PCK."""

    cpu_svn: bytes
    misc_select: int
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes


@dataclass(frozen=True)
class SignatureData:
    """The signature data after the body: the quote's signature and the certificate chain of its key.

    ``certificates`` has the meaning of ``certificate_type`` (5: the PEM chain PCK leaf, intermediate, root).
    """

    signature: bytes
    attestation_key: bytes
    qe_report: QeReport
    qe_report_bytes: bytes
    qe_report_signature: bytes
    qe_authentication_data: bytes
    certificate_type: int
    certificates: bytes


@dataclass(frozen=True)
class Quote:
    """One parsed quote. ``signed_length`` is where its signature data ends; ``padding`` zeros follow, or ``foreign``
    bytes that are not part of it."""

    header: QuoteHeader
    body_type: int
    body: TdBody
    signature: SignatureData
    signed_length: int
    padding: int
    foreign: int = 0


class _Reader:
    """Reads consecutive fields, never past the end."""

    def __init__(self, data: bytes, what: str, at: int = 0) -> None:
        self._data = data
        self._what = what
        self.at = at

    def take(self, size: int, name: str) -> bytes:
        left = len(self._data) - self.at
        if size > left:
            raise EvidenceError(f"{self._what}: {name} needs {size} bytes at {self.at}, {left} are left")
        piece = self._data[self.at : self.at + size]
        self.at += size
        return piece

    def u16(self, name: str) -> int:
        return int.from_bytes(self.take(2, name), "little")

    def u32(self, name: str) -> int:
        return int.from_bytes(self.take(4, name), "little")

    def end(self) -> None:
        if self.at != len(self._data):
            raise EvidenceError(f"{self._what}: {len(self._data) - self.at} unexplained bytes at {self.at}")


def parse(data: bytes) -> Quote:
    """Parse a TDX quote as evidence; ``EvidenceError`` for another TEE, version or length, and for trailing bytes."""
    found = read(data)
    if found.foreign:
        raise EvidenceError(f"quote: bytes other than zero padding after the signature data at {found.signed_length}")
    return found


def read(data: bytes) -> Quote:
    """Read a TDX quote at the start of ``data`` and count trailing bytes; ``EvidenceError`` as for ``parse``."""
    if len(data) > MAX_SIZE:
        raise EvidenceError(f"quote: {len(data)} bytes, expected at most {MAX_SIZE}")
    reader = _Reader(data, "quote")
    header, body_type, body = _signed_part(reader)
    signature = _signature(reader.take(reader.u32("signature data length"), "signature data"))
    rest = data[reader.at :]
    zeros = rest.count(0) == len(rest)
    return Quote(
        header, body_type, body, signature, reader.at, len(rest) if zeros else 0, foreign=0 if zeros else len(rest)
    )


def read_unsigned(data: bytes) -> tuple[QuoteHeader, TdBody]:
    """Header and TD report of a quote whose signature data may be cut off, for explaining only: nothing proves them.

    ``EvidenceError`` when either is malformed.
    """
    header, _, body = _signed_part(_Reader(data, "quote"))
    return header, body


def _signed_part(reader: _Reader) -> tuple[QuoteHeader, int, TdBody]:
    """Header, body type and TD report: what the signature is over."""
    header = _header(reader)
    if header.version == 4:
        body_type, size = BODY_TD10, BODY_10_SIZE
    else:
        body_type, size = reader.u16("body type"), reader.u32("body size")
        expected = {BODY_TD10: BODY_10_SIZE, BODY_TD15: BODY_15_SIZE}.get(body_type)
        if expected is None:
            raise EvidenceError(f"quote: body type {body_type}, expected {BODY_TD10} or {BODY_TD15}")
        if size != expected:
            raise EvidenceError(f"quote: body type {body_type} with {size} bytes, expected {expected}")
    return header, body_type, _body(reader.take(size, "TD report"))


def _header(reader: _Reader) -> QuoteHeader:
    header = QuoteHeader(*_HEADER.unpack(reader.take(HEADER_SIZE, "header")))
    if header.version not in (4, 5):
        raise EvidenceError(f"quote: version {header.version}, expected 4 or 5")
    if header.attestation_key_type != ECDSA_P256:
        raise EvidenceError(
            f"quote: attestation key type {header.attestation_key_type}, expected {ECDSA_P256} (ECDSA P-256)"
        )
    if header.tee_type != TEE_TDX:
        raise EvidenceError(f"quote: TEE type {header.tee_type:#x}, expected {TEE_TDX:#x} (TDX)")
    return header


def _body(data: bytes) -> TdBody:
    fields: tuple[bytes, ...] = _TD10.unpack_from(data)
    tail: tuple[bytes | None, ...] = (None, None)
    if len(data) == BODY_15_SIZE:
        tail = _TD15_TAIL.unpack_from(data, _TD10.size)
    tcb_svn, seam, seam_signer, seam_attributes, attributes, xfam, td, config, owner, owner_config = fields[:10]
    return TdBody(
        tee_tcb_svn=tcb_svn,
        mr_seam=seam,
        mr_signer_seam=seam_signer,
        seam_attributes=seam_attributes,
        td_attributes=attributes,
        xfam=xfam,
        mr_td=td,
        mr_config_id=config,
        mr_owner=owner,
        mr_owner_config=owner_config,
        rtmrs=(fields[10], fields[11], fields[12], fields[13]),
        report_data=fields[14],
        tee_tcb_svn2=tail[0],
        mr_service_td=tail[1],
    )


def _signature(data: bytes) -> SignatureData:
    reader = _Reader(data, "quote signature data")
    signature = reader.take(64, "signature")
    key = reader.take(64, "attestation key")
    kind = reader.u16("certification data type")
    if kind != CERT_QE_REPORT:
        raise EvidenceError(f"quote: certification data type {kind}, expected {CERT_QE_REPORT} (QE report)")
    inner = _Reader(reader.take(reader.u32("certification data length"), "certification data"), "QE report data")
    reader.end()
    report = inner.take(QE_REPORT_SIZE, "QE report")
    report_signature = inner.take(64, "QE report signature")
    authentication = inner.take(inner.u16("QE authentication data length"), "QE authentication data")
    certificate_type = inner.u16("certificate type")
    certificates = inner.take(inner.u32("certificate length"), "certificates")
    inner.end()
    return SignatureData(
        signature, key, _qe_report(report), report, report_signature, authentication, certificate_type, certificates
    )


def _qe_report(data: bytes) -> QeReport:
    cpu_svn, misc, _, attributes, enclave, _, signer, _, product, svn, _, report_data = _QE_REPORT.unpack(data)
    return QeReport(cpu_svn, misc, attributes, enclave, signer, product, svn, report_data)
