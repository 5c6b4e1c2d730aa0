"""A simulated tree of AMD's certificates: root (ARK), issuers, keys of chips and fleets, revocation list.

It runs as ``-m privml.sim.snppki``. Anyone can forge everything here: all keys are derived from a public seed. A
verdict on it says so and has its own exit code. The names are AMD's, because verifiers read no others, but the root
and the stepping in each key's certificate say SIMULATED. The files in ``sim/snppki/`` are exactly this module's
output (deterministic signatures, fixed dates and serials), checked by a test.

Layout: AMD VCEK Certificate and KDS Interface Specification (57230), 3.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privml.base.files import write_atomic
from privml.sim.der import entry, integer, sequence, tlv

SEED = b"privml-build simulated SNP platform, version 1: this seed is public, anybody can forge its reports"
PRODUCT = "Genoa"
TCB: Mapping[str, int] = {"bl": 10, "tee": 0, "snp": 23, "ucode": 84}
CHIP_ID = hashlib.sha512(b"SIMULATED chip").digest()
NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
ISSUER_SERIAL = 0x10001
FILES = Path(__file__).with_name("snppki")

_AMD = "1.3.6.1.4.1.3704.1"
_PARTS = {
    "bl": f"{_AMD}.3.1",
    "tee": f"{_AMD}.3.2",
    "snp": f"{_AMD}.3.3",
    "ucode": f"{_AMD}.3.8",
    "fmc": f"{_AMD}.3.9",
}
_RESERVED = tuple(f"{_AMD}.3.{number}" for number in range(4, 8))
_SHA384 = entry("2.16.840.1.101.3.4.2.2", tlv(0x05))
_PSS = entry(
    "1.2.840.113549.1.1.10",
    sequence(
        tlv(0xA0, _SHA384), tlv(0xA1, entry("1.2.840.113549.1.1.8", _SHA384)), tlv(0xA2, integer(48)),
        tlv(0xA3, integer(1)),
    ),
)  # fmt: skip
_P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_EXPONENT = 65537
# What is added to the number derived from the seed to make it a prime: twice the value.
_PRIMES = {"ARK": (2066, 169), "ASK": (319, 364)}


@dataclass(frozen=True)
class Variation:
    """How a simulated chip and its certificates differ from the honest ones; for tests.

    ``fleet`` makes the key that of a fleet (VLEK) with this provider. ``dates`` are those of the key's certificate,
    ``list_dates`` of the revocation list, ``revoked`` the serial numbers in it. ``stepping`` follows the product.
    """

    product: str = PRODUCT
    stepping: str = "SIMULATED"
    tcb: Mapping[str, int] = field(default_factory=lambda: TCB)
    chip_id: bytes = CHIP_ID
    fleet: str | None = None
    dates: tuple[datetime, datetime] = (NOT_BEFORE, NOT_AFTER)
    list_dates: tuple[datetime, datetime] = (NOT_BEFORE, NOT_AFTER)
    revoked: tuple[int, ...] = ()

    @property
    def issuer(self) -> str:
        """The common name of the issuer of the key's certificate."""
        return f"SEV-{self.product}" if self.fleet is None else f"SEV-VLEK-{self.product}"


HONEST = Variation()


def leaf_key() -> ec.EllipticCurvePrivateKey:
    """The P-384 key that signs simulated reports."""
    number = int.from_bytes(hashlib.shake_256(SEED + b"\0leaf").digest(64))
    return ec.derive_private_key(number % (_P384_ORDER - 1) + 1, ec.SECP384R1())


def chain(how: Variation = HONEST) -> tuple[bytes, bytes, bytes]:
    """The certificates (DER) of the key, its issuer, and the root."""
    root_name = _root_name(how)
    issuer_name = _name(how.issuer)
    authority = _extensions(
        entry("2.5.29.19", tlv(0x01, b"\xff") + tlv(0x04, sequence(tlv(0x01, b"\xff")))),
        entry("2.5.29.15", tlv(0x01, b"\xff") + tlv(0x04, tlv(0x03, b"\x01\x06"))),
    )
    whole = (NOT_BEFORE, NOT_AFTER)
    root = _certificate(1, root_name, root_name, _rsa_info("ARK"), authority, whole, "ARK")
    issuer = _certificate(ISSUER_SERIAL, root_name, issuer_name, _rsa_info("ASK"), authority, whole, "ARK")
    subject = _name("SEV-VCEK" if how.fleet is None else "SEV-VLEK")
    leaf = _certificate(0, issuer_name, subject, _leaf_info(), _key_extensions(how), how.dates, "ASK")
    return leaf, issuer, root


def revocation_list(how: Variation = HONEST) -> bytes:
    """The root's revocation list (DER)."""
    issued, until = how.list_dates
    entries = [sequence(integer(serial), _time(NOT_BEFORE)) for serial in how.revoked]
    body = sequence(
        integer(1), _PSS, _root_name(how), _time(issued), _time(until),
        *([sequence(*entries)] if entries else []),
        tlv(0xA0, sequence(entry("2.5.29.20", tlv(0x04, integer(1))))),
    )  # fmt: skip
    return sequence(body, _PSS, tlv(0x03, b"\0", _sign("ARK", body)))


def generate() -> dict[str, bytes]:
    """All static files by name."""
    leaf, issuer, root = chain()
    return {"vcek.der": leaf, "ask.der": issuer, "ark.der": root, "crl.der": revocation_list()}


def _certificate(
    serial: int,
    issuer: bytes,
    subject: bytes,
    key: bytes,
    extensions: bytes,
    dates: tuple[datetime, datetime],
    signer: str,
) -> bytes:
    validity = sequence(*map(_time, dates))
    body = sequence(
        tlv(0xA0, integer(2)), integer(serial), _PSS, issuer, validity, subject, key, tlv(0xA3, extensions)
    )
    return sequence(body, _PSS, tlv(0x03, b"\0", _sign(signer, body)))


def _key_extensions(how: Variation) -> bytes:
    whose = (
        entry(f"{_AMD}.4", tlv(0x04, how.chip_id))
        if how.fleet is None
        else entry(f"{_AMD}.5", tlv(0x04, tlv(0x16, how.fleet.encode())))
    )
    named = f"{how.product}-{how.stepping}".encode()
    return _extensions(
        entry(f"{_AMD}.1", tlv(0x04, integer(0))),
        entry(f"{_AMD}.2", tlv(0x04, tlv(0x16, named))),
        *(entry(_PARTS[part], tlv(0x04, integer(value))) for part, value in how.tcb.items()),
        *(entry(number, tlv(0x04, integer(0))) for number in _RESERVED),
        whose,
    )


def _extensions(*rows: bytes) -> bytes:
    return sequence(*rows)


def _name(common: str, organization: str = "Advanced Micro Devices") -> bytes:
    parts = (
        ("2.5.4.11", "Engineering"), ("2.5.4.6", "US"), ("2.5.4.7", "Santa Clara"), ("2.5.4.8", "CA"),
        ("2.5.4.10", organization), ("2.5.4.3", common),
    )  # fmt: skip
    tags = {"2.5.4.6": 0x13}
    return sequence(*(tlv(0x31, entry(kind, tlv(tags.get(kind, 0x0C), text.encode()))) for kind, text in parts))


def _root_name(how: Variation) -> bytes:
    return _name(f"ARK-{how.product}", "SIMULATED, anybody can forge this")


def _time(moment: datetime) -> bytes:
    return tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


def _leaf_info() -> bytes:
    return leaf_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _rsa_info(name: str) -> bytes:
    numbers = sequence(integer(_modulus(name)), integer(_EXPONENT))
    return sequence(entry("1.2.840.113549.1.1.1", tlv(0x05)), tlv(0x03, b"\0", numbers))


def _modulus(name: str) -> int:
    one, other = _primes(name)
    return one * other


@functools.cache
def _primes(name: str) -> tuple[int, int]:
    """The two primes (2048 bits) of an RSA key, from the public `SEED`."""
    first, second = _PRIMES[name]
    return _number(f"{name} p") + 2 * first, _number(f"{name} q") + 2 * second


def _number(name: str) -> int:
    made = int.from_bytes(hashlib.shake_256(SEED + b"\0" + name.encode()).digest(256))
    return made | 3 << 2046 | 1


def _sign(name: str, data: bytes) -> bytes:
    """RSASSA-PSS (RFC 8017) with SHA-384 and a salt of 48 bytes, which is derived from ``data``."""
    size, digest = 512, hashlib.sha384(data).digest()
    salt = hashlib.sha384(SEED + digest).digest()
    hashed = hashlib.sha384(bytes(8) + digest + salt).digest()
    padded = bytes(size - 48 - 48 - 2) + b"\1" + salt
    mask = b"".join(hashlib.sha384(hashed + number.to_bytes(4)).digest() for number in range(len(padded) // 48 + 1))
    masked = bytearray(one ^ other for one, other in zip(padded, mask, strict=False))
    masked[0] &= 0x7F
    message = int.from_bytes(bytes(masked) + hashed + b"\xbc")
    p, q = _primes(name)
    exponent = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    one, other = pow(message, exponent % (p - 1), p), pow(message, exponent % (q - 1), q)
    return (other + q * ((one - other) * pow(q, -1, p) % p)).to_bytes(size)


def main() -> None:
    """Write the static files next to this module."""
    for name, data in generate().items():
        write_atomic(FILES / name, data)


if __name__ == "__main__":
    main()
