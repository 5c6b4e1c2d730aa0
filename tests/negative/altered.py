"""Alter evidence byte by byte, without this project's encoders. Each altered copy should be refused.

Some different bytes have the same meaning: `kind_of_evidence` and `kind_of_document` name their kind. For all others
`codes_of_evidence` and `codes_of_document` name the codes of which a refusal must have one.
"""

from __future__ import annotations

import base64
import json
import random
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from tests.negative.devicepki import P384
from tests.negative.pki import tlv

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
ALGORITHMS = {"sha256": (ORDER, ECDSA_SHA256), "sha384": (P384, ECDSA_SHA384)}
QUOTE_BODY_END = 632  # a v4 quote: header 48, TD report 584
PEM_ENDINGS = frozenset(newlines + nul for newlines in ("", "\n", "\n\n") for nul in ("", "\0"))

TEXTS = ("tcb_info", "qe_identity")
JSON_SPELLING = "JSON spelling"
BOOT_LOG = "boot log, used only for explanations"
PADDING = "zeros behind the quote"
PEM_ENDING = "end of a PEM chain"
XML_SPELLING = "XML spelling"
FILE_ENDING = "newlines behind reference values"
KINDS = (JSON_SPELLING, BOOT_LOG, PADDING, PEM_ENDING, XML_SPELLING, FILE_ENDING)
"""Changes without a meaning; signature twins (`twins`) are listed by name in addition."""


@dataclass(frozen=True)
class Evidence:
    """A quote and the nine fields of its collateral."""

    quote: bytes
    collateral: dict[str, str]


def altered(data: bytes, positions: Iterator[int] | range, rng: random.Random) -> Iterator[bytes]:
    """Copies of ``data``: at each position a bit flipped, the case changed, a byte replaced, removed and added."""
    for at in positions:
        before, byte, after = data[:at], data[at], data[at + 1 :]
        for mask in (1 << rng.randrange(8), 0x20, rng.randrange(1, 256)):
            yield before + bytes([byte ^ mask]) + after
        yield before + after
        yield before + bytes([byte]) + bytes([rng.choice((0, 0x0A, 0x20, 0x30, byte))]) + after


def ends(data: bytes) -> Iterator[bytes]:
    """Copies of ``data`` that are shorter or longer, at either end."""
    for size in (1, 2, 3, 16, 48, 64):
        yield from (data[:-size], data[size:], data + data[-size:], data[:size] + data)
        yield from (data + bytes([byte]) * size for byte in (0, 0x0A, 0x20, 0x30))
    yield from (data + data, b"")


def positions(data: bytes, count: int, rng: random.Random) -> range | list[int]:
    """Random positions in ``data``, or all of them if ``count`` is 0."""
    return sorted(rng.sample(range(len(data)), min(count, len(data)))) if count else range(len(data))


def quotes(given: Evidence, count: int, rng: random.Random) -> Iterator[Evidence]:
    """The evidence with each altered quote."""
    for changed in (*ends(given.quote), *altered(given.quote, iter(positions(given.quote, count, rng)), rng)):
        yield Evidence(changed, given.collateral)


def collaterals(given: Evidence, count: int, rng: random.Random) -> Iterator[Evidence]:
    """The evidence with each altered field of the collateral, and with fields exchanged."""
    for name, text in given.collateral.items():
        data = text.encode()
        for changed in (*ends(data), *altered(data, iter(positions(data, count, rng)), rng)):
            yield Evidence(given.quote, {**given.collateral, name: changed.decode("latin-1")})
        for other, its in given.collateral.items():
            yield Evidence(given.quote, {**given.collateral, name: its, other: text})
            yield Evidence(given.quote, {**given.collateral, name: its})


def documents(data: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """The document (JSON) with each byte altered; and each field removed, emptied or given the value of another."""
    yield from ends(data)
    yield from altered(data, iter(positions(data, count, rng)), rng)
    value = json.loads(data)
    for name in value:
        yield json.dumps({key: item for key, item in value.items() if key != name}).encode()
        yield json.dumps({**value, name + "x": value[name]}).encode()
        yield data[:-1] + f",{json.dumps(name)}:{json.dumps(value[name])}}}".encode()
        for other in (None, "", [], {}, 0, *value.values()):
            yield json.dumps({**value, name: other}).encode()
        if isinstance(value[name], str) and value[name]:
            raw = bytes.fromhex(value[name]) if name == "nonce" else base64.b64decode(value[name])
            write = bytes.hex if name == "nonce" else lambda raw: base64.b64encode(raw).decode()
            if name != "format":
                for changed in (*ends(raw), *altered(raw, iter(positions(raw, count, rng)), rng)):
                    yield json.dumps({**value, name: write(changed)}).encode()


def _padding(quote: bytes) -> tuple[bytes, bytes]:
    end = QUOTE_BODY_END + 4 + int.from_bytes(quote[QUOTE_BODY_END : QUOTE_BODY_END + 4], "little")
    return quote[:end], quote[end:]


def kind_of_evidence(given: Evidence, changed: Evidence) -> str | None:
    """The kind of a change that keeps the meaning; None if it does not."""
    if changed.quote != given.quote:
        (honest, _), (signed, rest) = _padding(given.quote), _padding(changed.quote)
        return PADDING if changed.collateral == given.collateral and signed == honest and not any(rest) else None
    (name,) = (name for name, text in given.collateral.items() if changed.collateral[name] != text)
    return kind_of_chain(given.collateral[name], changed.collateral[name]) if name.endswith("_chain") else None


def kind_of_chain(given: str, changed: str) -> str | None:
    """As `kind_of_evidence`, for a PEM chain."""
    core = given.rstrip("\n\0")
    return PEM_ENDING if changed.startswith(core) and changed[len(core) :] in PEM_ENDINGS else None


def kind_of_rim(given: bytes, changed: bytes) -> str | None:
    """As `kind_of_evidence`, for reference values (XML)."""
    if given.strip(b"\n") == changed.strip(b"\n"):
        return FILE_ENDING
    same = ElementTree.canonicalize(given.decode()) == ElementTree.canonicalize(changed.decode())
    return XML_SPELLING if same else None


def kind_of_document(given: bytes, changed: bytes) -> str | None:
    """As `kind_of_evidence`, for a document."""
    old, new = json.loads(given), json.loads(changed)
    if old == new:
        return JSON_SPELLING
    different = [name for name in old if new.get(name) != old[name]]
    if new.keys() != old.keys() or len(different) != 1:
        return None
    if different == ["bootlog"]:
        return BOOT_LOG
    if different == ["evidence"]:
        quotes_ = [base64.b64decode(value["evidence"]) for value in (old, new)]
        return kind_of_evidence(Evidence(quotes_[0], {}), Evidence(quotes_[1], {}))
    if different == ["collateral"]:
        return kind_of_evidence(Evidence(b"", old["collateral"]["tdx"]), Evidence(b"", new["collateral"]["tdx"]))
    return None


CHAIN_CODES = frozenset({"pck-chain"})
SIGNED_CODES = frozenset({"quote-signature"})
COLLATERAL_CODES = {
    **{f"{name}_issuer_chain": frozenset({"collateral-role"}) for name in ("pck_crl", *TEXTS)},
    **{name: frozenset({"collateral-role", "collateral-encoding"}) for name in ("root_ca_crl", "pck_crl")},
    **{f"{name}_signature": frozenset({"quote-signature", "collateral-encoding"}) for name in TEXTS},
    # What a text says of its platform and dates may be compared before its signature.
    **dict.fromkeys(TEXTS, SIGNED_CODES | {"collateral-platform", "collateral-expired", "collateral-future"}),
}
"""The codes for each field of the collateral."""
SECTION_CODES = {
    "nonce": frozenset({"nonce"}),
    **{name: frozenset({"report-data"}) for name in ("header", "path", "keys", "devices", "eventlog")},
}
"""The codes for each part of a document that the report data covers."""


def codes_of_evidence(given: Evidence, changed: Evidence) -> frozenset[str]:
    """The codes of which a refusal of ``changed`` must have one; a malformed quote or collateral needs none."""
    if changed.quote != given.quote:
        at = next(
            (at for at, (old, new) in enumerate(zip(given.quote, changed.quote, strict=False)) if old != new), 0
        )
        begin = given.quote.find(b"-----BEGIN")  # after the chain's type and length, 6 bytes
        # A byte moved into or out of the signed part changes all that follows, and so the chain too.
        same_size = len(changed.quote) == len(given.quote)
        return CHAIN_CODES if at >= begin - 6 else SIGNED_CODES if same_size else SIGNED_CODES | CHAIN_CODES
    different = [name for name, text in given.collateral.items() if changed.collateral[name] != text]
    return frozenset().union(*(COLLATERAL_CODES[name] for name in different))


def codes_of_document(given: bytes, changed: bytes) -> frozenset[str]:
    """As `codes_of_evidence`, for a document; for what is not JSON, or not a document, none is needed."""
    try:
        old, new = json.loads(given), json.loads(changed)
        different = [name for name in old if new.get(name) != old[name]]
    except (ValueError, AttributeError, RecursionError):
        return frozenset()
    codes: frozenset[str] = frozenset().union(*(SECTION_CODES.get(name, ()) for name in different))
    if "evidence" in different:
        codes |= SIGNED_CODES | CHAIN_CODES | {"qe-vendor"}
    if "collateral" in different:
        codes |= frozenset({"collateral-missing"}).union(*COLLATERAL_CODES.values())
    return codes


def _raw_twin(signature: bytes) -> bytes:
    """r || s of either curve."""
    half = len(signature) // 2
    order = {32: ORDER, 48: P384}[half]
    return signature[:half] + (order - int.from_bytes(signature[half:])).to_bytes(half)


def _der_twin(signed: Any, content: bytes) -> bytes:
    order, algorithm = ALGORITHMS[signed.signature_hash_algorithm.name]
    r, s = decode_dss_signature(signed.signature)
    twin = encode_dss_signature(r, order - s)
    return tlv(0x30, content + algorithm + tlv(0x03, b"\0" + twin))


def _certificate_twin(der: bytes) -> bytes:
    certificate = x509.load_der_x509_certificate(der)
    return _der_twin(certificate, certificate.tbs_certificate_bytes)


def _pem_twin(pem: str, at: int) -> str:
    certificates = x509.load_pem_x509_certificates(pem.encode())
    blocks = [certificate.public_bytes(Encoding.PEM) for certificate in certificates]
    twin = _certificate_twin(certificates[at].public_bytes(Encoding.DER))
    blocks[at] = x509.load_der_x509_certificate(twin).public_bytes(Encoding.PEM)
    return b"".join(blocks).decode()


def _with_certificates(quote: bytes, pem: bytes) -> bytes:
    """A v4 quote with another PEM chain in its certification data, all lengths renewed."""
    signed, _ = _padding(quote)
    data = signed[QUOTE_BODY_END + 4 :]
    inner = data[134:]
    authentication = 450 + int.from_bytes(inner[448:450], "little")
    inner = inner[: authentication + 2] + len(pem).to_bytes(4, "little") + pem
    data = data[:130] + len(inner).to_bytes(4, "little") + inner
    return signed[:QUOTE_BODY_END] + len(data).to_bytes(4, "little") + data


def twins(given: Evidence) -> dict[str, Evidence]:
    """The evidence with one ECDSA signature (r, s) replaced by (r, n - s), which the same key also verifies."""
    quote, fields = given.quote, given.collateral

    def with_field(**changes: str) -> Evidence:
        return Evidence(quote, {**fields, **changes})

    def spliced(at: int) -> Evidence:
        return Evidence(quote[:at] + _raw_twin(quote[at : at + 64]) + quote[at + 64 :], fields)

    signatures = QUOTE_BODY_END + 4
    pem = quote[quote.index(b"-----BEGIN") : quote.rindex(b"-----END") + 25].decode() + "\n"
    found = {"quote": spliced(signatures), "QE report": spliced(signatures + 134 + 384)}
    for at, said in enumerate(("PCK", "PCK CA", "root")):
        found[f"{said} in the quote"] = Evidence(_with_certificates(quote, _pem_twin(pem, at).encode()), fields)
    for name in ("tcb_info_signature", "qe_identity_signature"):
        found[name] = with_field(**{name: _raw_twin(bytes.fromhex(fields[name])).hex()})
    for name in ("root_ca_crl", "pck_crl"):
        signed = x509.load_der_x509_crl(bytes.fromhex(fields[name]))
        found[name] = with_field(**{name: _der_twin(signed, signed.tbs_certlist_bytes).hex()})
    for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        for at, said in enumerate(("first", "root")):
            found[f"{said} of {name}"] = with_field(**{name: _pem_twin(fields[name], at)})
    return found


def report_twin(report: bytes) -> bytes:
    """A device's report with the twin of its signature."""
    return report[:-96] + _raw_twin(report[-96:])


def chain_twins(pem: bytes) -> list[bytes]:
    """A PEM chain with the twin of each certificate's signature."""
    return [_pem_twin(pem.decode(), at).encode() for at in range(pem.count(b"-----BEGIN"))]


def answer_twin(der: bytes) -> bytes:
    """A revocation answer with the twin of its signature; it brings no certificate."""
    response = ocsp.load_der_ocsp_response(der)
    basic = _der_twin(response, response.tbs_response_bytes)
    kind = bytes.fromhex("06092b0601050507300101")
    return tlv(0x30, b"\x0a\1\0" + tlv(0xA0, tlv(0x30, kind + tlv(4, basic))))


def rim_twins(text: bytes) -> list[bytes]:
    """Reference values with the twin of their signature, and of each certificate's."""
    value = re.search(rb"SignatureValue>([^<]+)<", text)
    assert value is not None
    signature = base64.b64encode(_raw_twin(base64.b64decode(value[1])))
    found = [text.replace(value[1], signature)]
    for block in re.findall(rb"X509Certificate>([^<]+)<", text):
        twin = base64.b64encode(_certificate_twin(base64.b64decode(block))).decode()
        found.append(text.replace(block, ("\n".join(textwrap.wrap(twin, 64)) + "\n").encode()))
    return found
