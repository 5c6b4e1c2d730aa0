"""Certificates of the keys that sign reports: of a chip (VCEK), or of a cloud's fleet (VLEK).

They have one shape, and it is read whole. Source: AMD VCEK Certificate and KDS Interface Specification (57230), 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from privml.base.errors import EvidenceError
from privml.evidence.snp import der
from privml.evidence.snp.der import Der
from privml.evidence.snp.tcb import PRODUCTS, Product

MAX_SIZE = 4096
_PSS = (
    bytes.fromhex(
        "304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d01010830"
        "0d06096086480165030402020500a203020130"
    ),
    bytes.fromhex(
        "304606092a864886f70d01010a3039a00f300d06096086480165030402020500a11c301a06092a864886f70d01010830"
        "0d06096086480165030402020500a203020130a303020101"
    ),
)
"""RSASSA-PSS with SHA-384, MGF1 with SHA-384, and a salt of 48 bytes; the second spells out the trailer's default."""
_EC_P384 = bytes.fromhex("301006072a8648ce3d020106052b81040022")
_NAME = (
    ("55040b", "Engineering"),
    ("550406", "US"),
    ("550407", "Santa Clara"),
    ("550408", "CA"),
    ("55040a", "Advanced Micro Devices"),
)
_COMMON_NAME = "550403"
_TEXTS = (0x0C, 0x13)  # UTF8String and PrintableString
_AMD = "2b060104019c78"  # 1.3.6.1.4.1.3704
_VERSION, _PRODUCT, _CHIP, _CSP = (f"{_AMD}01{number:02x}" for number in (1, 2, 4, 5))
_PARTS = {f"{_AMD}0103{number:02x}": number for number in range(1, 10)}
_PART_NAMES = {1: "bl", 2: "tee", 3: "snp", 8: "ucode", 9: "fmc"}  # the others are reserved
_MAX_EXTENSIONS = 16
_TIME = re.compile(rb"\A\d{12}Z\Z")


@dataclass(frozen=True)
class Leaf:
    """``role`` is `VCEK` or `VLEK`; ``tcb`` are the parts of the TCB version that the key was derived for.

    ``chip_id`` is that of a VCEK, ``csp`` names the fleet of a VLEK. ``point`` is the uncompressed P-384 point.
    ``signed`` is what ``signature`` covers, ``issuer`` the DER of the issuer's name.
    """

    role: str
    product: Product
    stepping: str
    tcb: Mapping[str, int]
    chip_id: bytes | None
    csp: str | None
    not_before: datetime
    not_after: datetime
    point: bytes
    issuer: bytes
    issuer_name: str
    signed: bytes
    signature: bytes


def parse(data: bytes) -> Leaf:
    """Read a certificate; ``EvidenceError`` for any other shape."""
    if len(data) > MAX_SIZE:
        raise EvidenceError(f"report certificate: {len(data)} bytes, expected at most {MAX_SIZE}")
    outer = Der(data, "report certificate")
    top = outer.enter(der.SEQUENCE)
    outer.end()
    signed = top.whole(der.SEQUENCE)
    algorithm = top.whole(der.SEQUENCE)
    if algorithm not in _PSS:
        raise EvidenceError(f"{top.what}: another signature algorithm than AMD's")
    signature = _bits(top.take(der.BIT_STRING))
    top.end()
    body = Der(signed, top.what).enter(der.SEQUENCE)
    version = body.enter(der.context(0))
    if version.integer() != 2:
        raise EvidenceError(f"{body.what}: not an X.509 v3 certificate")
    version.end()
    body.integer()  # the serial number, 0 in all of them
    _constant(body, algorithm, "signature algorithm")
    issuer = body.whole(der.SEQUENCE)
    validity = body.enter(der.SEQUENCE)
    not_before, not_after = _time(validity), _time(validity)
    validity.end()
    subject = _common_name(body.whole(der.SEQUENCE))
    key = body.enter(der.SEQUENCE)
    _constant(key, _EC_P384, "public key")
    point = _bits(key.take(der.BIT_STRING))
    key.end()
    if len(point) != 97 or point[0] != 4:
        raise EvidenceError(f"{body.what}: its key is no uncompressed point of P-384")
    found = _extensions(body.enter(der.context(3)))
    body.end()
    return _leaf(found, subject, issuer, (not_before, not_after), point=point, signed=signed, signature=signature)


def _leaf(
    found: dict[str, bytes],
    subject: str,
    issuer: bytes,
    validity: tuple[datetime, datetime],
    *,
    point: bytes,
    signed: bytes,
    signature: bytes,
) -> Leaf:
    what = "report certificate"
    role = subject.removeprefix("SEV-")
    if role not in ("VCEK", "VLEK"):
        raise EvidenceError(f"{what}: of `{subject}`, expected SEV-VCEK or SEV-VLEK")
    _integer(found, _VERSION)
    name, _, stepping = _text(found, _PRODUCT).partition("-")
    product = PRODUCTS.get(name)
    if product is None:
        raise EvidenceError(f"{what}: of product `{name}`, expected one of {', '.join(PRODUCTS)}")
    chip_id = found.pop(_CHIP, None)
    csp = _text(found, _CSP) if _CSP in found else None
    if (chip_id is None, csp is None) != ((False, True) if role == "VCEK" else (True, False)):
        raise EvidenceError(f"{what}: a VCEK names its chip, a VLEK its provider; this {role} does not")
    if chip_id is not None and len(chip_id) != product.chip_id:
        raise EvidenceError(f"{what}: chip id of {len(chip_id)} bytes, expected {product.chip_id} on {product.name}")
    tcb = _tcb(found, product)
    if found:
        raise EvidenceError(f"{what}: unknown extension {min(found)}")
    return Leaf(
        role=role, product=product, stepping=stepping, tcb=tcb, chip_id=chip_id, csp=csp, not_before=validity[0],
        not_after=validity[1], point=point, issuer=issuer, issuer_name=_common_name(issuer), signed=signed,
        signature=signature,
    )  # fmt: skip


def _tcb(found: dict[str, bytes], product: Product) -> dict[str, int]:
    parts = {}
    for oid in [oid for oid in _PARTS if oid in found]:
        number = _PARTS[oid]
        value = _integer(found, oid)
        name = _PART_NAMES.get(number)
        if value > 255 or (name is None and value):
            raise EvidenceError(f"report certificate: part {number} of its TCB version is {value}")
        if name is not None:
            parts[name] = value
    if sorted(parts) != sorted(product.parts):
        expected = ", ".join(sorted(product.parts))
        raise EvidenceError(f"report certificate: TCB parts {', '.join(sorted(parts))}, expected {expected}")
    return parts


def _extensions(top: Der) -> dict[str, bytes]:
    """OID (hex of its DER content) -> value. None is critical."""
    rows = top.enter(der.SEQUENCE)
    top.end()
    found: dict[str, bytes] = {}
    while rows.more():
        row = rows.enter(der.SEQUENCE)
        oid = row.take(der.OID).hex()
        value = row.take(der.OCTET_STRING)
        row.end()
        if oid in found or len(found) >= _MAX_EXTENSIONS:
            raise EvidenceError(f"{top.what}: extension {oid[:40]} twice, or too many extensions")
        found[oid] = value
    return found


def _integer(found: dict[str, bytes], oid: str) -> int:
    value = Der(_wanted(found, oid), "report certificate")
    number = value.integer()
    value.end()
    return number


def _text(found: dict[str, bytes], oid: str) -> str:
    value = Der(_wanted(found, oid), "report certificate")
    raw = value.take(der.IA5)
    value.end()
    if not raw.isascii() or not raw.decode("ascii").isprintable() or len(raw) > 200:
        raise EvidenceError("report certificate: a text that is not printable ASCII")
    return raw.decode("ascii")


def _wanted(found: dict[str, bytes], oid: str) -> bytes:
    if oid not in found:
        raise EvidenceError(f"report certificate: no extension {oid}")
    return found.pop(oid)


def _common_name(name: bytes) -> str:
    """The common name of one of AMD's names, whose other parts are always the same."""
    rows = Der(name, "report certificate").enter(der.SEQUENCE)
    parts = []
    while rows.more():
        row = rows.enter(0x31)
        pair = row.enter(der.SEQUENCE)
        row.end()
        oid = pair.take(der.OID).hex()
        tag = pair.data[2 + len(oid) // 2] if len(pair.data) > 2 + len(oid) // 2 else 0
        if tag not in _TEXTS:
            raise EvidenceError("report certificate: a name that is no text")
        parts.append((oid, pair.take(tag).decode("utf-8", "replace")))
        pair.end()
    *others, (oid, common) = parts or [("", "")]
    if tuple(others) != _NAME or oid != _COMMON_NAME or not re.fullmatch(r"[A-Za-z-]{1,40}", common):
        raise EvidenceError("report certificate: a name that AMD does not give")
    return common


def _time(reader: Der) -> datetime:
    text = reader.take(der.UTC_TIME)
    try:
        return datetime.strptime(text.decode("ascii") if _TIME.match(text) else "", "%y%m%d%H%M%SZ").replace(
            tzinfo=UTC
        )
    except ValueError as error:
        raise EvidenceError(f"{reader.what}: a time that is not YYMMDDHHMMSSZ") from error


def _bits(content: bytes) -> bytes:
    if content[:1] != b"\0":
        raise EvidenceError("report certificate: a bit string with unused bits")
    return content[1:]


def _constant(reader: Der, expected: bytes, what: str) -> None:
    if reader.whole(der.SEQUENCE) != expected:
        raise EvidenceError(f"{reader.what}: another {what} than expected")
