"""Simulated SNP reports, for development images and tests. Anyone can forge them: the key comes from a public seed.

A simulated report has the layout of a real report of version 3, and its chain ends in the root of `sim.snppki`, never
in AMD's. Production images never import this.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from privml.base.errors import EvidenceError
from privml.events.registers import DIGEST_SIZE
from privml.evidence.snp.report import ECDSA_P384_SHA384, SIGNED, SIZE
from privml.sim.snppki import CHIP_ID, FILES, leaf_key

VERSION = 3
POLICY = 0x30000  # QEMU's default: SMT is allowed
PLATFORM_INFO = 0x21  # SMT, and memory was checked for aliases
TCB = bytes([10, 0, 0, 0, 0, 0, 23, 84])
PROCESSOR = bytes([0x19, 0x11, 1])
FIRMWARE = bytes([39, 55, 1])  # build, minor, major


def make_report(measurement: bytes, report_data: bytes, changes: Mapping[int, bytes] | None = None) -> bytes:
    """A report that `evidence.snp.signature.check` accepts with the simulated root and `certificates`.

    ``measurement`` is the launch digest (48 bytes), ``report_data`` has 64. Tests give ``changes``: bytes by offset.
    """
    if len(measurement) != DIGEST_SIZE:
        raise EvidenceError(f"simulated report: a launch digest of {len(measurement)} bytes, expected {DIGEST_SIZE}")
    if len(report_data) != 64:
        raise EvidenceError(f"simulated report: report data of {len(report_data)} bytes, expected 64")
    body = bytearray(SIGNED)
    fields = {
        0x00: VERSION.to_bytes(4, "little"),
        0x08: POLICY.to_bytes(8, "little"),
        0x34: ECDSA_P384_SHA384.to_bytes(4, "little"),
        0x38: TCB,
        0x40: PLATFORM_INFO.to_bytes(8, "little"),
        0x50: report_data,
        0x90: measurement,
        0x160: b"\xff" * 32,
        0x180: TCB,
        0x188: PROCESSOR,
        0x1A0: CHIP_ID,
        0x1E0: TCB,
        0x1E8: FIRMWARE,
        0x1EC: FIRMWARE,
        0x1F0: TCB,
    }
    for at, value in {**fields, **(changes or {})}.items():
        body[at : at + len(value)] = value
    signature = _key().sign(bytes(body), ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    r, s = (value.to_bytes(72, "little") for value in decode_dss_signature(signature))
    return bytes(body) + r + s + bytes(SIZE - SIGNED - 144)


def certificates() -> tuple[bytes, bytes, bytes]:
    """The certificates (DER) of the simulated chip: its key's, the issuer's, the root's."""
    leaf, issuer, root = ((FILES / name).read_bytes() for name in ("vcek.der", "ask.der", "ark.der"))
    return leaf, issuer, root


def collateral() -> dict[str, str]:
    """The simulated collateral: the revocation list of the simulated root."""
    return {"crl": (FILES / "crl.der").read_bytes().hex()}


def root_der() -> bytes:
    """The simulation's root certificate (DER), which a caller names to accept simulated reports."""
    return (FILES / "ark.der").read_bytes()


@functools.cache
def _key() -> ec.EllipticCurvePrivateKey:
    return leaf_key()
