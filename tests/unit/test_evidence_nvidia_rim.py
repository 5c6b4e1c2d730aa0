"""Reference values: NVIDIA's own files are read; what is wrapped, doubled, moved or spelled otherwise is refused."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from typing import Any

import gpu_samples as gpus
import pytest
from tests.published import read

from privml.base.errors import EvidenceError
from privml.evidence.certificates import UnfitError
from privml.evidence.nvidia import report, rim, roles, xml
from privml.evidence.nvidia.claims import Rim, mismatches
from privml.evidence.nvidia.roles import Verified
from privml.sim import gpu

VBIOS = read(f"{gpus.NVTRUST}/local_gpu_verifier/1010_0200_882_96005E0001_PROD.swidtag")
DRIVER = read(f"{gpus.SDK}/unit/NV_GPU_DRIVER_GH100_550.144.03.xml")
SWITCH = read(f"{gpus.SDK}/unit/switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml")
JANUARY_2025 = 1_737_000_000
NOVEMBER_2026 = 1_795_000_000


def real(data: bytes, now: int, root: bytes = rim.NVIDIA_RIM_ROOT_DER) -> Rim:
    return rim.read(data, root=root, naming=roles.NVIDIA, now=now, verified=Verified()).rim


def simulated(data: bytes, now: int = gpus.NOW) -> Rim:
    return rim.read(data, root=gpus.ROOTS[1], naming=roles.SIMULATION, now=now, verified=Verified()).rim


@pytest.mark.parametrize(
    ("data", "now", "product", "version", "count"),
    [
        (VBIOS, JANUARY_2025, "GH100", "96.00.5E.00.01", 12),
        (DRIVER, JANUARY_2025, "GH100", "550.144.03", 21),
        (DRIVER, NOVEMBER_2026, "GH100", "550.144.03", 21),
        (SWITCH, NOVEMBER_2026, "LS10", "96.10.55.00.01", 31),
    ],
)
def test_nvidias_files_are_read_at_their_time(data: bytes, now: int, product: str, version: str, count: int) -> None:
    found = real(data, now)
    assert (found.product, found.version, len(found.measurements)) == (product, version, count)
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_real_devices_measure_what_nvidia_says() -> None:
    gpu_report = report.read("gpu", gpus.R535.report).report.measurements
    assert mismatches([real(VBIOS, JANUARY_2025)], gpu_report) == []
    switch_report = report.read("switch", gpus.LS10.report).report.measurements
    assert mismatches([real(SWITCH, NOVEMBER_2026)], switch_report) == []
    other = report.read("gpu", gpus.R580.report).report.measurements
    assert mismatches([real(VBIOS, JANUARY_2025)], other) != []
    newer = report.read("switch", gpus.PPCIE[8].report).report.measurements
    assert mismatches([real(SWITCH, NOVEMBER_2026)], newer) != []


def test_values_for_one_index_from_two_files_are_refused() -> None:
    both = [real(VBIOS, JANUARY_2025)] * 2
    with pytest.raises(EvidenceError, match="two reference values for measurement 0"):
        mismatches(both, ())
    assert mismatches([real(VBIOS, JANUARY_2025), real(DRIVER, JANUARY_2025)], ()) == [
        *range(9), *range(9, 13), *range(21, 41),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "now", "words"),
    [
        (VBIOS, NOVEMBER_2026, "valid from 2023-05-11 to 2026-11-11"),
        (SWITCH, JANUARY_2025, "valid from 2026-05-20 to 2028-05-19"),
        (read(f"{gpus.SDK}/unit/incorrect_signature_driver_rim.xml"), NOVEMBER_2026, "an invalid signature"),
        (read(f"{gpus.SDK}/unit/incorrect_cert_chain_driver_rim.xml"), NOVEMBER_2026, "2 certificates, expected 4"),
        (DRIVER.replace(b"550.144.03", b"550.144.04", 1), NOVEMBER_2026, "content with another digest"),
        (DRIVER.replace(b'active="False"', b'active="True"', 1), NOVEMBER_2026, "content with another digest"),
    ],
)
def test_files_that_nvidia_did_not_sign_now(data: bytes, now: int, words: str) -> None:
    with pytest.raises(UnfitError, match=words):
        real(data, now)


def test_another_root_is_refused() -> None:
    text = read(f"{gpus.SDK}/unit/incorrect_rim_root.crt")
    (other,) = rim.roles.certificates.decode_pem(text, limit=rim.xml.MAX_XML)
    with pytest.raises(UnfitError, match="expected the root certificate"):
        real(DRIVER, NOVEMBER_2026, root=other)
    with pytest.raises(UnfitError, match="expected the root certificate"):
        real(gpu.rims()[0], NOVEMBER_2026)


def test_no_changed_byte_is_accepted() -> None:
    """Every thirteenth byte of a real file, and the one bit of each certificate that could be spelled otherwise."""
    unused_bits = [DRIVER.index(b"DZwAwZA") + 3, DRIVER.rindex(b"DZwAwZA") + 3]
    for at in (*range(0, len(DRIVER), 13), *unused_bits):
        changed = DRIVER[:at] + bytes([DRIVER[at] ^ 0x04]) + DRIVER[at + 1 :]
        with pytest.raises(UnfitError):
            real(changed, NOVEMBER_2026)


# --- the signature's form -------------------------------------------------------------------------------------------

HONEST = gpu.rim("GH100", "1.0", {0: bytes(48), 1: b"\1" * 48})
TEXT = HONEST.decode()
SIGNATURE = TEXT[TEXT.index("<ds:Signature") : TEXT.index("</ds:Signature>") + len("</ds:Signature>")]
ROOT = TEXT[: TEXT.index(">") + 1]
EVIL = (
    '<ns0:Resource type="Measurement" index="2" active="True" alternatives="1" ns2:Hash0="'
    + "ee" * 48
    + '" name="x" size="48"/>'
)
WITHOUT = TEXT.replace(SIGNATURE, "")


def bent(old: str, new: str, count: int = 1) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, count)


def key_value() -> str:
    key = base64.b64encode(bytes(65)).decode()
    return bent("<ds:KeyInfo>", f"<ds:KeyInfo><ds:KeyValue>{key}</ds:KeyValue>")


INFO = SIGNATURE[SIGNATURE.index("<ds:SignedInfo>") : SIGNATURE.index("</ds:SignedInfo>") + len("</ds:SignedInfo>")]
REFERENCE = INFO[INFO.index("<ds:Reference") : INFO.index("</ds:Reference>") + len("</ds:Reference>")]
TRANSFORMS = re.findall(r"<ds:Transform [^>]*/>", INFO)
CERTIFICATES = re.findall(r"<ds:X509Certificate>.*?</ds:X509Certificate>", SIGNATURE, re.DOTALL)
ENTITIES = '<!DOCTYPE x [<!ENTITY a "1.0">]>'
INCLUDE = '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/etc/passwd"/>'
EXTERNAL = '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">'

MATRIX: dict[str, tuple[str, str]] = {
    "no signature": (WITHOUT, "0 signatures"),
    "two signatures": (bent(SIGNATURE, SIGNATURE * 2), "2 signatures"),
    "a signature inside the payload": (
        WITHOUT.replace("</ns0:Payload>", f"{SIGNATURE}</ns0:Payload>"),
        "not the last child",
    ),
    "a signature before the content": (WITHOUT.replace(ROOT, ROOT + SIGNATURE), "not the last child"),
    "text after the signature": (bent(SIGNATURE, f"{SIGNATURE} "), "not the last child"),
    "the signed document wrapped in another": (
        f"{ROOT}<ns0:Payload>{EVIL}</ns0:Payload>{TEXT}</SoftwareIdentity>",
        "not the last child",
    ),
    "the signed content inside the signature": (
        bent("</ds:KeyInfo>", f"</ds:KeyInfo><ds:Object>{WITHOUT}</ds:Object>"),
        "the signature's Signature has another form",
    ),
    "the signed content moved, another in its place": (
        f"{ROOT}<ns0:Payload>{EVIL}</ns0:Payload>"
        + SIGNATURE.replace("</ds:KeyInfo>", f"</ds:KeyInfo><ds:Object>{WITHOUT}</ds:Object>")
        + "</SoftwareIdentity>",
        "the signature's Signature has another form",
    ),
    "a reference by id": (bent('URI=""', 'URI="#x"'), "the signature's Reference has another form"),
    "a reference to a file": (bent('URI=""', 'URI="file:///etc/passwd"'), "Reference has another form"),
    "a reference without a URI": (bent(' URI=""', ""), "the signature's Reference has another form"),
    "two references": (bent(REFERENCE, REFERENCE * 2), "the signature's SignedInfo has another form"),
    "no reference": (bent(REFERENCE, ""), "the signature's SignedInfo has another form"),
    "one transform": (bent(TRANSFORMS[1], ""), "the signature's Transforms has another form"),
    "transforms swapped": (bent("".join(TRANSFORMS), "".join(TRANSFORMS[::-1])), "the signature's Transform has"),
    "a third transform": (bent(TRANSFORMS[0], TRANSFORMS[0] * 2), "the signature's Transforms has another form"),
    "an XSLT transform": (
        bent(TRANSFORMS[1], '<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"/>'),
        "the signature's Transform has another form",
    ),
    "an XPath in a transform": (
        bent(TRANSFORMS[1], TRANSFORMS[1].replace("/>", "><ds:XPath>1</ds:XPath></ds:Transform>")),
        "the signature's Transform has another form",
    ),
    "another canonical form": (
        bent("http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/2001/10/xml-exc-c14n#"),
        "CanonicalizationMethod has another form",
    ),
    "SHA-256": (bent("ecdsa-sha384", "ecdsa-sha256"), "SignatureMethod has another form"),
    "an HMAC": (
        bent("http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384", "http://www.w3.org/2000/09/xmldsig#hmac-sha1"),
        "SignatureMethod has another form",
    ),
    "another digest method": (bent("more#sha384", "more#sha224"), "the signature's DigestMethod has another form"),
    "a key in the file": (key_value(), "the signature's KeyInfo has another form"),
    "a key instead of certificates": (
        bent(SIGNATURE[SIGNATURE.index("<ds:X509Data>") : SIGNATURE.index("</ds:KeyInfo>")], "<ds:KeyValue/>"),
        "the signature's KeyInfo has another form",
    ),
    "certificates in another order": (bent("".join(CERTIFICATES), "".join(CERTIFICATES[::-1])), "a last certificate"),
    "a certificate twice": (bent(CERTIFICATES[0], CERTIFICATES[0] * 2), "5 certificates, expected 4"),
    "no root": (bent(CERTIFICATES[-1], ""), "3 certificates, expected 4"),
    "a hundred certificates": (bent(CERTIFICATES[0], CERTIFICATES[0] * 100), "certificates, expected 4"),
    "a certificate in one line": (
        bent(CERTIFICATES[0], CERTIFICATES[0].replace("\n", "")),
        "not base64 in lines of 64 characters",
    ),
    "a signature with spaces": (bent("<ds:SignatureValue>", "<ds:SignatureValue> "), "not base64"),
    "a short signature": (
        re.sub("<ds:SignatureValue>[^<]*", "<ds:SignatureValue>AAAA", TEXT),
        "SignatureValue is not 96 bytes",
    ),
    "a zero signature": (
        re.sub("<ds:SignatureValue>[^<]*", "<ds:SignatureValue>" + base64.b64encode(bytes(96)).decode(), TEXT),
        "an invalid signature",
    ),
    "an attribute of the signature": (bent("<ds:Signature ", '<ds:Signature Id="a" '), "Signature has another form"),
    "text in the signature": (bent("<ds:KeyInfo>", "x<ds:KeyInfo>"), "the signature's Signature has another form"),
    "an element added to the payload": (bent("</ns0:Payload>", f"{EVIL}</ns0:Payload>"), "another digest"),
    "a second payload": (bent("<ns0:Payload>", f"<ns0:Payload>{EVIL}</ns0:Payload><ns0:Payload>"), "another digest"),
    "a changed value": (bent("00" * 48, "ee" * 48), "another digest"),
    "a comment": (bent("<ns0:Payload>", "<!-- x --><ns0:Payload>"), "a comment"),
    "a comment in a value": (bent("<ds:DigestValue>", "<ds:DigestValue><!---->"), "a comment"),
    "a processing instruction": (bent("<ns0:Payload>", "<?x y?><ns0:Payload>"), "a processing instruction"),
    "CDATA": (bent("<ns0:Payload>", "<![CDATA[ ]]><ns0:Payload>"), "a CDATA section"),
    "a declaration": ('<?xml version="1.0"?>' + TEXT, "an XML declaration"),
    "an entity": (ENTITIES + TEXT.replace('"1.0"', '"&a;"'), "a document type"),
    "an undefined entity": (bent('"1.0"', '"&a;"'), "undefined entity"),
    "an external document type": (EXTERNAL + TEXT, "a document type"),
    "XInclude": (
        bent("<ns0:Payload>", f"{INCLUDE}<ns0:Payload>"),
        "another digest",
    ),
    "an attribute xml:base": (bent("<ns0:Payload>", '<ns0:Payload xml:base="http://x/">'), "xml:base"),
    "a prefix that is not declared": (TEXT.replace("ns0:Payload>", "zz:Payload>"), "not declared"),
    "bytes before": (" " + TEXT, "extra bytes before or after"),
    "bytes after": (TEXT + "\n\n\n", "extra bytes before or after"),
    "two roots": (TEXT + TEXT, "junk after document element"),
    "no XML": ("GH100", "extra bytes before or after"),
    "deep": ("<a>" * 20 + "</a>" * 20, "nested deeper than 16 levels"),
    "too long": (TEXT.replace(ROOT, ROOT + " " * (4 << 20)), "expected at most 4194304"),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRIX)
def test_a_file_of_another_form_is_refused(name: str) -> None:
    text, words = MATRIX[name]
    with pytest.raises(UnfitError) as refused:
        simulated(text.encode())
    assert words in str(refused.value), refused.value


def test_the_control_is_accepted() -> None:
    assert simulated(HONEST).measurements == {0: (bytes(48),), 1: (b"\1" * 48,)}
    assert simulated(HONEST + b"\n\n").measurements == simulated(HONEST).measurements
    again = simulated(HONEST.replace(b"/><ns0:Payload>", b"></ns0:Meta><ns0:Payload>", 1))
    assert again.measurements == simulated(HONEST).measurements  # another spelling of the same canonical bytes


def signed(change: Any) -> bytes:
    """Content that is changed and then signed by the right key."""
    return gpu.signed_rim(change(WITHOUT), "GH100")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('index="1"', 'index="0"'), "measurement 0 is given twice"),
        (lambda text: text.replace('index="1"', 'index="01"'), "index=`01`"),
        (lambda text: text.replace('index="1"', 'index="128"'), "index=`128`"),
        (lambda text: text.replace('index="1"', 'index="-1"'), "index=`-1`"),
        (lambda text: text.replace('alternatives="1"', 'alternatives="2"', 1), "other attributes"),
        (lambda text: text.replace('alternatives="1"', 'alternatives="65"', 1), "alternatives=`65`"),
        (lambda text: text.replace('active="True"', 'active="true"', 1), "other attributes"),
        (lambda text: text.replace('size="48"', 'size="32"', 1), "size 48"),
        (lambda text: text.replace("00" * 48, "00" * 47), "not 48 bytes in hex"),
        (lambda text: text.replace("ns2:Hash0", "Hash0", 1), "other attributes"),
        (lambda text: text.replace("<ns0:Payload>", "<ns0:Payload><ns0:Other/>"), "index=``"),
        (lambda text: text.replace("<ns0:Meta", "<ns0:Meta/><ns0:Meta"), "2 elements Meta"),
        (lambda text: text.replace("<ns0:Payload>", "<ns0:Payload/><ns0:Payload>"), "2 elements Payload"),
        (lambda text: text.replace("<ns0:Meta", "<ns0:Link/><ns0:Meta"), "other children"),
        (lambda text: text.replace("<ns0:Payload>", "text<ns0:Payload>"), "text outside"),
        (lambda text: text.replace('active="True"', 'active="False"'), "no active measurement"),
        (lambda text: text.replace("SoftwareIdentity", "Software"), "the root element is"),
    ],
)  # fmt: skip
def test_signed_content_of_another_form_is_refused(change: Any, words: str) -> None:
    with pytest.raises(UnfitError) as refused:
        simulated(signed(change))
    assert words in str(refused.value), refused.value


# --- canonical XML --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("<a/>", "<a></a>"),
        ("<a  b = '1'\n c='2' />", '<a b="1" c="2"></a>'),
        ("<a c='&#9;&#10;&#13;&quot;&lt;&amp;'>&gt;&#13;</a>", '<a c="&#x9;&#xA;&#xD;&quot;&lt;&amp;">&gt;&#xD;</a>'),
        (
            "<a xmlns='u:1' xmlns:z='u:2' xmlns:b='u:3' b:x='1' z:w='2' y='3'><b xmlns='u:1'/><b xmlns='u:4'/></a>",
            '<a xmlns="u:1" xmlns:b="u:3" xmlns:z="u:2" y="3" z:w="2" b:x="1"><b></b><b xmlns="u:4"></b></a>',
        ),
        ("<a>\r\n</a>", "<a>\n</a>"),
        ("<a b='x\ny'/>", '<a b="x y"></a>'),
    ],
)
def test_canonical_xml(text: str, canonical: str) -> None:
    """Canonical XML 1.1: double quotes, sorted names, escapes, namespaces once."""
    assert xml.canonical(xml.parse(text.encode())).decode() == canonical
    assert xml.canonical(xml.parse(canonical.encode())).decode() == canonical


def test_a_part_has_the_namespaces_in_its_scope() -> None:
    document = xml.parse(b"<a xmlns='u:1' xmlns:b='u:2'><b:c xmlns:d='u:3'/></a>")
    assert xml.canonical(document.elements[0]) == b'<b:c xmlns="u:1" xmlns:b="u:2" xmlns:d="u:3"></b:c>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<a xmlns=''/>", "the declaration xmlns"),
        ("<a xmlns:xml='u:1'/>", "the declaration xmlns:xml"),
        ("<a xmlns:b='u:1' xmlns:c='u:1' b:x='1' c:x='2'/>", "given twice"),
        ("<a b='1' b='2'/>", "duplicate attribute"),
        ("<a>", "no element found"),
        ("<a>\xff</a>", "not well-formed|junk|invalid"),
        (f"<a {' '.join(f'xmlns:n{number}=%s' % repr('u:x') for number in range(33))}/>", "33 namespaces"),
        ("<a>" + "<b/>" * 10_000 + "</a>", "more than 10000"),
    ],
)
def test_other_xml_is_refused(text: str, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        xml.parse(text.encode("latin-1"))


def test_a_large_file_is_refused_quickly() -> None:
    begin = time.monotonic()
    with pytest.raises(EvidenceError):
        xml.parse(b"<a>" + b"<b c='1'/>" * 400_000 + b"</a>")
    assert time.monotonic() - begin < 20
