"""NVIDIA's reference integrity manifests: signed XML with the measurements of a driver, VBIOS or switch firmware.

Never imported by the guest. One form is accepted, that of NVIDIA's own files: exactly one signature, the last child
of the root, with one reference to the whole document and the two usual transforms; ECDSA P-384 with SHA-384; the key
of the first certificate of a chain that ends in the pinned root. Values are read from the bytes that were verified:
the canonical bytes are parsed again, so nothing outside the signature can be read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from privml.base.errors import EvidenceError
from privml.evidence.certificates import UnfitError
from privml.evidence.nvidia import roles, xml
from privml.evidence.nvidia.claims import Rim
from privml.evidence.nvidia.roles import COMMON_NAME, COUNTRY, ORGANIZATION, Naming, Role, Verified
from privml.evidence.nvidia.xml import Element

NVIDIA_RIM_ROOT_DER = base64.b64decode(
    "MIICKTCCAbCgAwIBAgIQRdrjoA5QN73fh1N17LXicDAKBggqhkjOPQQDAzBFMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUw"
    "IwYDVQQDDBxOVklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMCAXDTIzMDMxNjE1MzczNFoYDzIwNTMwMzA4MTUzNzM0WjBFMQswCQYD"
    "VQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUwIwYDVQQDDBxOVklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMHYwEAYHKoZIzj0CAQYF"
    "K4EEACIDYgAEuECyi9vNM+Iw2lfUzyBldHAwaC1HF7TCgp12QcEyUTm3Tagxwr48d55+K2VIlWYIDk7NlAIQdcV/Ff7euGLI+Qauj93H"
    "sSI4WX298PpW54RTgz9tC+Q684caR/BXWEeZo2MwYTAdBgNVHQ4EFgQUpaXrOPK4ZDAk08DBskn594zeZjAwHwYDVR0jBBgwFoAUpaXr"
    "OPK4ZDAk08DBskn594zeZjAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwCgYIKoZIzj0EAwMDZwAwZAIwHGDyscDP6ihH"
    "qRvZlI3eqZ4YkvjE1duaN84tAHRVgxVMvNrp5Tnom3idHYGW/dskAjATvjIx6VzHm/4e2GiZAyZEIUBDOKPzp5ei/A0iUZpdvngenDwV"
    "8Qa/wGdiTmJ7Bp4="
)
"""NVIDIA CoRIM signing Root CA (valid to 2053-03-08), the only anchor of genuine reference values."""

MAX_INDEX = 127
MAX_ALTERNATIVES = 64
DIGEST_SIZE = 48

_DS = "{http://www.w3.org/2000/09/xmldsig#}"
_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_ECDSA = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_PRODUCT = "(?:HCC RIM L4 Signer|NVIDIA Reference Value L4 [A-Z0-9]+)"
_SIGNER = ((COUNTRY, "US"), (roles.STATE, "CA"), (roles.LOCALITY, "Santa Clara"), (ORGANIZATION, "organization"))
ROLES = (
    Role("reference value signer", (*_SIGNER, (COMMON_NAME, _PRODUCT)), roles.SIGNS_DATA, ca=False),
    Role(
        "reference value L3 CA",
        (
            (COMMON_NAME, "NVIDIA Reference Value L3 [A-Z0-9]+ [0-9]{3}"),
            (ORGANIZATION, "organization"),
            (COUNTRY, "US"),
        ),
        roles.SIGNS_CERTIFICATES_AND_LISTS,
        ca=True,
    ),
    Role(
        "reference value CA",
        ((COMMON_NAME, "NVIDIA Reference Value [A-Z0-9]+ CA"), (ORGANIZATION, "organization"), (COUNTRY, "US")),
        roles.SIGNS_CERTIFICATES_AND_LISTS,
        ca=True,
    ),
    Role(
        "root CA",
        ((COUNTRY, "US"), (ORGANIZATION, "root_organization"), (COMMON_NAME, "NVIDIA CoRIM signing Root CA")),
        roles.SIGNS_CERTIFICATES_AND_LISTS,
        ca=True,
    ),
)
"""The roles of a chain, the signer first."""


@dataclass(frozen=True)
class VerifiedRim:
    """Reference values, and the chain of their signer, the root last."""

    rim: Rim
    certificates: tuple[x509.Certificate, ...]


def read(data: bytes, *, root: bytes, naming: Naming, now: int, verified: Verified) -> VerifiedRim:
    """Verify reference values at ``now`` (Unix seconds) and read them; ``UnfitError`` if anything is amiss."""
    try:
        document = xml.parse(data)
        signature = _signature(document)
        info = signature.elements[0]
        digest = _signed_info(info)
        content = xml.canonical(document, without=signature)
        if not hmac.compare_digest(hashlib.sha384(content).digest(), digest):
            raise UnfitError("content with another digest than the signed one", "the content that was signed")
        encoded = _certificates(signature.elements[2])
        chain = roles.read(encoded, ROLES, root=root, naming=naming, now=now, verified=verified)
        _verify(chain[0], signature.elements[1], xml.canonical(info))
        return VerifiedRim(_values(xml.parse(content), _sha256(data), _sha256(root)), chain)
    except EvidenceError as error:
        raise UnfitError(error.message, "reference values in the form of NVIDIA's files") from error


def read_under(data: bytes, anchors: Sequence[tuple[bytes, Naming]], *, now: int, verified: Verified) -> VerifiedRim:
    """`read` under the first anchor that fits: a root (DER) and its names. There is at least one.

    Raises:
        UnfitError: Under the first anchor, if none fits.
    """
    failure: UnfitError | None = None
    for root, naming in anchors:
        try:
            return read(data, root=root, naming=naming, now=now, verified=verified)
        except UnfitError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _signature(document: Element) -> Element:
    """The one signature: the last child of the root, and nowhere else another one."""
    found = [element for element in document.walk() if element.tag.startswith(_DS) and _local(element) == "Signature"]
    if len(found) != 1:
        raise EvidenceError(f"{len(found)} signatures, expected 1")
    if document.children[-1] is not found[0]:
        raise EvidenceError("the signature is not the last child of the root element")
    _exactly(found[0], {}, "SignedInfo", "SignatureValue", "KeyInfo")
    return found[0]


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _exactly(element: Element, attributes: dict[str, str], *children: str) -> list[Element]:
    """The children of an element of a signature: exactly these, without text, and exactly these attributes."""
    names = [child.tag for child in element.elements]
    if names != [_DS + name for name in children] or element.values != attributes or (children and element.text):
        raise EvidenceError(f"the signature's {_local(element)} has another form than expected")
    return element.elements


def _signed_info(info: Element) -> bytes:
    """The digest of the content (48 bytes), if all algorithms are the expected ones."""
    method, algorithm, reference = _exactly(info, {}, "CanonicalizationMethod", "SignatureMethod", "Reference")
    _exactly(method, {"Algorithm": _C14N})
    _exactly(algorithm, {"Algorithm": _ECDSA})
    transforms, digest_method, value = _exactly(reference, {"URI": ""}, "Transforms", "DigestMethod", "DigestValue")
    first, second = _exactly(transforms, {}, "Transform", "Transform")
    for element, name in ((first, _ENVELOPED), (second, _C14N), (digest_method, _SHA384)):
        _exactly(element, {"Algorithm": name})
    for element in (method, algorithm, first, second, digest_method):
        if element.children:
            raise EvidenceError(f"the signature's {_local(element)} is not empty")
    return _base64(value, DIGEST_SIZE)


def _base64(element: Element, size: int) -> bytes:
    _exactly(element, {})
    data = _decoded(element.text)
    if len(data) != size or base64.b64encode(data).decode() != element.text:
        raise EvidenceError(f"the signature's {_local(element)} is not {size} bytes in base64")
    return data


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvidenceError(f"the signature has text that is not base64 ({error})") from error


def _certificates(info: Element) -> tuple[bytes, ...]:
    """The DER of the certificates, each in lines of 64 characters."""
    (data,) = _exactly(info, {}, "X509Data")
    if len(data.elements) > 2 * len(ROLES):
        raise EvidenceError(f"{len(data.elements)} certificates, expected {len(ROLES)}")
    found = []
    for element in _exactly(data, {}, *("X509Certificate" for _ in data.elements)):
        _exactly(element, {})
        der = _decoded(element.text.replace("\n", ""))
        if "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64)) + "\n" != element.text:
            raise EvidenceError("a certificate of the signature is not base64 in lines of 64 characters")
        found.append(der)
    return tuple(found)


def _verify(signer: x509.Certificate, value: Element, signed: bytes) -> None:
    raw = _base64(value, 2 * DIGEST_SIZE)
    key = signer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # `roles.read` refuses other keys
    r, s = (int.from_bytes(raw[at : at + DIGEST_SIZE]) for at in (0, DIGEST_SIZE))
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise UnfitError("an invalid signature", "the signature of the first certificate's key") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _values(document: Element, digest: str, root: str) -> Rim:
    if document.tag != f"{_SWID}SoftwareIdentity":
        raise EvidenceError(f"the root element is {document.tag[:100]}")
    meta, payload = (_only(document, name) for name in ("Meta", "Payload"))
    if any(child.tag not in (f"{_SWID}Entity", meta.tag, payload.tag) for child in document.elements):
        raise EvidenceError("the root element has other children than Entity, Meta and Payload")
    if any(element.text.strip() for element in document.walk()):
        raise EvidenceError("text outside the attributes")
    measurements = {}
    seen = set()
    for resource in payload.elements:
        index, active, accepted = _resource(resource)
        if index in seen:
            raise EvidenceError(f"measurement {index} is given twice")
        seen.add(index)
        if active:
            measurements[index] = accepted
    if not measurements:
        raise EvidenceError("no active measurement")
    said = meta.values
    return Rim(said.get("product", ""), said.get("colloquialVersion", "").upper(), measurements, digest, root)


def _only(document: Element, name: str) -> Element:
    found = [child for child in document.elements if child.tag == _SWID + name]
    if len(found) != 1:
        raise EvidenceError(f"{len(found)} elements {name}, expected 1")
    return found[0]


_NUMBER = re.compile(r"\A(?:0|[1-9][0-9]{0,2})\Z")
_DIGEST = re.compile(r"\A[0-9a-f]{96}\Z")
_ACTIVE = {"True": True, "False": False}


def _resource(resource: Element) -> tuple[int, bool, tuple[bytes, ...]]:
    """Index, whether it is compared, and the accepted digests of one measurement."""
    said = resource.values
    index, count = (
        _count(said, name, limit) for name, limit in (("index", MAX_INDEX), ("alternatives", MAX_ALTERNATIVES))
    )
    hashes_named = {f"{_HASH}{number}" for number in range(count)}
    known = {"type": "Measurement", "size": str(DIGEST_SIZE)}
    if resource.tag != f"{_SWID}Resource" or resource.elements or known != {name: said.get(name) for name in known}:
        raise EvidenceError(f"measurement {index} is not a Resource of type Measurement and size {DIGEST_SIZE}")
    if (
        set(said) != {*known, "index", "active", "alternatives", "name", *hashes_named}
        or said["active"] not in _ACTIVE
    ):
        raise EvidenceError(f"measurement {index} has other attributes than expected")
    texts = [said[f"{_HASH}{number}"].lower() for number in range(count)]
    if not all(_DIGEST.match(text) for text in texts):
        raise EvidenceError(f"measurement {index} has a digest that is not {DIGEST_SIZE} bytes in hex")
    return index, _ACTIVE[said["active"]], tuple(bytes.fromhex(text) for text in texts)


def _count(said: dict[str, str], name: str, limit: int) -> int:
    text = said.get(name, "")
    if not _NUMBER.match(text) or int(text) > limit:
        raise EvidenceError(f"a measurement has {name}=`{text[:20]}`, expected 0 to {limit}")
    return int(text)
