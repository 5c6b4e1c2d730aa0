"""Simulated TDX quotes, for development images and tests. Anyone can forge them: the keys come from a public seed.

A simulated quote has the layout of a real v4 quote, and its chain ends in the root of `sim.pki`, never Intel's. The
certification data (the QE report signed by the PCK, and the certificates) is static, so a guest signs only 632 bytes.
Production images never import this.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from privml.base.errors import EvidenceError
from privml.base.strictjson import loads
from privml.events.registers import DIGEST_SIZE, MRTD, RTMRS
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx.quote import (
    BODY_10_SIZE,
    CERT_QE_REPORT,
    ECDSA_P256,
    HEADER_SIZE,
    INTEL_QE_VENDOR,
    TEE_TDX,
)

SEED = b"privml-build simulated TDX platform, version 1: this seed is public, anybody can forge its quotes"
TEE_TCB_SVN = bytes([3, 0, 7]) + bytes(13)
MR_SEAM = hashlib.sha384(b"SIMULATED TDX module").digest()
TD_ATTRIBUTES = bytes.fromhex("0000001000000000")
XFAM = bytes.fromhex("e702060000000000")
# Found by path next to this module: importing `importlib.resources` takes a second in an emulated guest.
_STATIC = Path(__file__).with_name("pki")
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def private_key(name: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key called ``name`` of the simulated platform, derived from the public `SEED`."""
    number = int.from_bytes(hashlib.sha512(SEED + b"\0" + name.encode()).digest())
    return ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """x || y of the public key, 64 bytes big endian, as quotes carry it."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32) + numbers.y.to_bytes(32)


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Deterministic ECDSA-SHA256 (RFC 6979) as r || s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32) + s.to_bytes(32)


def body(registers: Mapping[str, bytes], report_data: bytes) -> bytes:
    """A TD 1.0 report (584 bytes) over MRTD and RTMR0..3 (48 bytes each) and 64 bytes of report data."""
    values = [registers[register] for register in (MRTD, *RTMRS)]
    if any(len(value) != DIGEST_SIZE for value in values):
        raise EvidenceError(f"simulated quote: expected registers of {DIGEST_SIZE} bytes")
    if len(report_data) != 64:
        raise EvidenceError(f"simulated quote: report data of {len(report_data)} bytes, expected 64")
    mrtd, *rtmrs = values
    parts = [TEE_TCB_SVN, MR_SEAM, bytes(48), bytes(8), TD_ATTRIBUTES, XFAM, mrtd, bytes(144), *rtmrs, report_data]
    report = b"".join(parts)
    assert len(report) == BODY_10_SIZE
    return report


def make_quote(registers: Mapping[str, bytes], report_data: bytes) -> bytes:
    """A v4 quote that `evidence.tdx.signature.check` accepts with the simulated root and `collateral`."""
    return assemble(body(registers, report_data))


def assemble(td_report: bytes, certification: bytes | None = None) -> bytes:
    """Header, ``td_report`` (584 bytes) and signature data; tests may replace the static ``certification``."""
    header = struct.pack("<HHIHH16s20s", 4, ECDSA_P256, TEE_TDX, 0, 0, INTEL_QE_VENDOR, bytes(20))
    assert len(header) == HEADER_SIZE
    signed = header + td_report
    key = _attestation_key()
    inner = _certification() if certification is None else certification
    data = sign(key, signed) + public_point(key) + struct.pack("<HI", CERT_QE_REPORT, len(inner)) + inner
    return signed + struct.pack("<I", len(data)) + data


def collateral() -> dict[str, str]:
    """The simulated platform's collateral: the nine fields of `evidence.tdx.collateral`."""
    data = (_STATIC / "collateral.json").read_bytes()
    return collaterals.decode(loads(data, what="simulated collateral"))


def root_pem() -> bytes:
    """The simulation's root certificate (PEM), which a caller names to accept simulated quotes."""
    return (_STATIC / "root.pem").read_bytes()


@functools.cache
def _attestation_key() -> ec.EllipticCurvePrivateKey:
    return private_key("attestation key")


@functools.cache
def _certification() -> bytes:
    return (_STATIC / "certification.bin").read_bytes()
