"""SPDM reports, opaque data and chains of NVIDIA devices: real ones are read, and every byte is read or refused."""

from __future__ import annotations

import dataclasses
import json
import ssl
from typing import Any

import gpu_samples as gpus
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.published import read

from privml.base.errors import EvidenceError
from privml.evidence.claims import SignatureFailure
from privml.evidence.document import GPU, SWITCH, DeviceEvidence
from privml.evidence.nvidia import chain, opaque, report, signature, spdm
from privml.evidence.nvidia.claims import DeviceFacts
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.evidence.nvidia.opaque import GpuOpaque, SwitchOpaque
from privml.sim import gpu, gpupki


@pytest.mark.parametrize("name", gpus.REAL)
def test_a_real_device_is_read_and_its_signature_is_valid(name: str) -> None:
    device = gpus.REAL[name]
    claims = report.read(device.kind, device.report)
    assert spdm.encode(claims.report) == claims.report.signed
    assert opaque.encode(opaque.fields(claims.report.opaque)) == claims.report.opaque
    (facts,) = gpus.check(device).devices
    assert isinstance(facts, DeviceFacts), facts
    assert (facts.family.kind, facts.claims_simulated) == (device.kind, False)
    assert len(claims.report.measurements) == facts.family.measurements
    if isinstance(claims.said, GpuOpaque):
        assert claims.said.fwid in (facts.fwid, None)
    else:
        assert claims.said.pdi == facts.pdi


def test_another_parser_reads_the_same() -> None:
    theirs = json.loads(read(f"{gpus.SDK}/unit/spdm_parsed_output.json"))
    ours = report.read(GPU, gpus.R580.report)
    blocks = theirs["MeasurementRecord"]["MeasurementBlocks"]
    values = [bytes.fromhex(blocks[str(index)]["DMTFSpecMeasurementValue"][2:]) for index in range(1, 65)]
    assert list(ours.report.measurements) == values
    assert ours.report.device_nonce.hex() == theirs["Nonce"][2:]
    assert ours.report.signature.hex() == theirs["Signature"][2:]
    said = theirs["OpaqueData"]["OpaqueDataField"]
    fields = dict(opaque.fields(ours.report.opaque))
    for number, name in ((3, "DRIVER_VERSION"), (6, "VBIOS_VERSION"), (14, "BOARD_ID"), (20, "FWID")):
        assert fields[number].hex() == said[f"OPAQUE_FIELD_ID_{name}"][2:]


@pytest.mark.parametrize(
    ("device", "firmware", "mode"),
    [
        (gpus.R535, "535.86.09/96.00.5E.00.01", None),
        (gpus.CANNED, "550.90.07/96.00.9F.00.01", "spt"),
        (gpus.R580, "580.159.03/96.00.74.00.20", "spt"),
        (gpus.COCO_CUT, "580.95.05/96.00.74.00.1A", "spt"),
        (gpus.PPCIE[0], "590.12/96.00.A5.00.01", "ppcie"),
    ],
)
def test_what_real_gpus_say(device: DeviceEvidence, firmware: str, mode: str | None) -> None:
    claims = report.read(GPU, device.report)
    assert isinstance(claims.said, GpuOpaque)
    assert (claims.firmware, claims.said.mode) == (firmware, mode)


def test_a_real_group_names_each_other() -> None:
    """The ids that devices give each other are those of their certificates."""
    facts = gpus.check(*gpus.PPCIE).devices
    claims = [claim.said for _, claim in gpus.claims_of(gpus.PPCIE)]
    pdis = [device.pdi for device in facts if isinstance(device, DeviceFacts)]
    assert len(set(pdis)) == 12
    for said in claims:
        if isinstance(said, GpuOpaque):
            assert set(said.switches) == set(pdis[8:])
        else:
            assert set(said.gpus) == set(pdis[:8])
            assert (said.vbios, said.locked) == ("96.10.73.00.01", 1)


# --- every byte -----------------------------------------------------------------------------------------------------

REPORT = gpus.R580.report
HEADER = [*range(4), *range(36, 45)]  # before the first measurement, without the nonce
FIRST = 45


@pytest.mark.parametrize("at", [*HEADER, *range(FIRST, FIRST + 7)])
def test_every_fixed_byte_of_a_report_has_one_value(at: int) -> None:
    for value in range(256):
        changed = bytearray(REPORT)
        changed[at] = value
        if changed == REPORT:
            continue
        with pytest.raises(EvidenceError, match="GPU report"):
            spdm.parse(bytes(changed))


@pytest.mark.parametrize("cut", [0, 3, 36, 37, 45, 100, 3564, 3600, len(REPORT) - 97, len(REPORT) - 1])
def test_a_report_that_is_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(EvidenceError):
        spdm.parse(REPORT[:cut])


def test_no_changed_byte_of_a_real_device_verifies() -> None:
    """Every ninth byte of report and chain, one bit."""
    device = gpus.R580
    for name in ("report", "certificates"):
        data = getattr(device, name)
        for at in range(0, len(data), 9):
            other = bytes([data[at] ^ 1 << at % 7])
            changed = dataclasses.replace(device, **{name: data[:at] + other + data[at + 1 :]})
            try:
                (found,) = gpus.check(changed).devices
            except EvidenceError:
                continue
            assert isinstance(found, SignatureFailure), (name, at)


def test_a_certificate_has_one_encoding() -> None:
    """A signature is a BIT STRING; `cryptography` ignores how many of its bits are said to be unused."""
    encoded = [certificate.public_bytes(Encoding.DER) for certificate in gpu.device_chain(gpu.GPUS[0])]
    for number, der in enumerate(encoded[:-1]):
        at = der.rfind(gpu.device_chain(gpu.GPUS[0])[number].signature) - 1
        assert der[at] == 0
        twin = der[:at] + b"\1" + der[at + 1 :]
        blocks = [ssl.DER_cert_to_PEM_cert(twin if one is der else one) for one in encoded]
        found = checked("".join(blocks).encode())
        assert isinstance(found, SignatureFailure)
        assert "unused bits" in found.reason or "unreadable" in found.reason  # by the signature's last bit


GPU_FIELDS = gpu.gpu_opaque(gpu.GPUS[0], gpu.SWITCHES)
SWITCH_FIELDS = gpu.switch_opaque(gpu.SWITCHES[0], gpu.GPUS)


def test_simulated_opaque_data_is_read() -> None:
    said = opaque.parse(GPU, opaque.encode(GPU_FIELDS))
    assert isinstance(said, GpuOpaque) and set(said.switches) == {switch.pdi for switch in gpu.SWITCHES}
    other = opaque.parse(SWITCH, opaque.encode(SWITCH_FIELDS))
    assert isinstance(other, SwitchOpaque) and set(other.gpus) == {device.pdi for device in gpu.GPUS}


@pytest.mark.parametrize(
    ("kind", "number", "value", "words"),
    [
        (GPU, 3, b"590.12", "expected a version"),
        (GPU, 3, b"590.12\0\0", "expected a version"),
        (GPU, 3, b"../../..\0", "expected a version"),
        (GPU, 6, bytes(7), "expected 5 bytes and 3 zero bytes"),
        (GPU, 6, b"\0\xa5\0\x96\1\1\0\0", "expected 5 bytes and 3 zero bytes"),
        (GPU, 11, b"\x01", "expected aa or 55"),
        (GPU, 21, b"\xaa\xaa", "expected aa or 55"),
        (GPU, 12, b"123", "expected 4-byte counters"),
        (GPU, 12, b"", "expected 4-byte counters"),
        (GPU, 15, b"885", "ended by NUL"),
        (GPU, 15, b"885\0x", "ended by NUL"),
        (GPU, 17, b"\x1b[2J\0", "ended by NUL"),
        (GPU, 20, bytes(47), "47 bytes, expected 48"),
        (GPU, 22, bytes(7), "PDIs of 8"),
        (GPU, 22, b"", "PDIs of 8"),
        (GPU, 34, b"\2\0", "opaque data version 2, expected 1"),
        (GPU, 36, b"\3\0", "3, expected 0 to 2"),
        (GPU, 36, b"\0", "1 bytes, expected 2"),
        (SWITCH, 6, b"96.10.73.00.0", "expected text like"),
        (SWITCH, 22, bytes(9), "9 bytes, expected 8"),
        (SWITCH, 26, bytes(127), "127 bytes, expected 128"),
        (SWITCH, 26, bytes(64) + b"\x08" + bytes(63), "a port with GPU 8"),
    ],
)
def test_a_field_of_another_form_is_refused(kind: str, number: int, value: bytes, words: str) -> None:
    given = GPU_FIELDS if kind == GPU else SWITCH_FIELDS
    changed = tuple((found, value if found == number else old) for found, old in given)
    with pytest.raises(EvidenceError, match=words):
        opaque.parse(kind, opaque.encode(changed))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda fields: (*fields, (5, b"")), "opaque field 5, which this version does not know"),
        (lambda fields: (*fields, fields[0]), "is given twice"),
        (lambda fields: fields[1:], r"opaque field 6 \(VBIOS version\) is missing"),
    ],
)
def test_other_fields_are_refused(change: Any, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        opaque.parse(GPU, opaque.encode(change(GPU_FIELDS)))


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_opaque_data_that_is_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(EvidenceError, match="ends in the field"):
        opaque.fields(opaque.encode(GPU_FIELDS)[:-cut])


# --- chains ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hopper_cert_chain_case2.txt", "CN=NVIDIA Device Identity CA"),
        ("hopper_cert_chain_case3.txt", "4 certificates"),
        ("hopper_cert_chain_case4.txt", "CN=GH100 A01 GSP BROM"),
    ],
)
def test_malformed_and_partial_chains_that_were_published(name: str, words: str) -> None:
    device = dataclasses.replace(gpus.CANNED, certificates=read(f"{gpus.TRUSTEE}/{name}"))
    (found,) = gpus.check(device).devices
    assert isinstance(found, SignatureFailure) and words in found.reason, found


CHAIN = gpu.device_chain(gpu.GPUS[0])


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def issue(number: int, **changes: Any) -> bytes:
    """The honest chain with certificate ``number`` made again with ``changes``."""
    keys = [
        gpupki.private_key(name)
        for name in (gpu.GPUS[0].name, f"{gpu.GPUS[0].name} boot ROM", "GH100 provisioner", "identity", "root")
    ]
    old = CHAIN[number]
    fwid = next((each.value for each in old.extensions if each.oid == chain.FWID_EXTENSION), None)
    given: dict[str, Any] = {
        "subject": old.subject,
        "key": keys[number],
        "issuer": old.issuer,
        "issuer_key": keys[min(number + 1, 4)],
        "ca": None if number == 0 else True,
        "signs_lists": number > 1,
        "extension": fwid,
        **changes,
    }
    made = gpupki.certificate(
        given.pop("subject"), given.pop("key"), given.pop("issuer"), given.pop("issuer_key"), **given
    )
    return pem(*CHAIN[:number], made, *CHAIN[number + 1 :])


def renamed(number: int, text: str) -> x509.Name:
    old = list(CHAIN[number].subject)
    return x509.Name(
        [x509.NameAttribute(part.oid, text) if part.oid == x509.NameOID.COMMON_NAME else part for part in old]
    )


def checked(certificates: bytes, *, allowed: bool = True, now: int = gpus.NOW) -> Any:
    (device,) = gpu.evidence(bytes(32))
    device = dataclasses.replace(device, certificates=certificates)
    anchors = signature.Anchors(gpus.ROOTS if allowed else None)
    (found,) = signature.check(gpus.claims_of([device]), NvidiaCollateral(), now=now, anchors=anchors).devices
    return found


def test_the_simulated_chain_is_accepted_where_it_is_allowed() -> None:
    assert isinstance(checked(pem(*CHAIN)), DeviceFacts)
    assert isinstance(checked(issue(0)), DeviceFacts)  # the control of the cases below
    refused = checked(pem(*CHAIN), allowed=False)
    assert isinstance(refused, SignatureFailure) and refused.claims_simulated


PREFIX = "SIMULATED privml-build "


@pytest.mark.parametrize(
    ("certificates", "words"),
    [
        (b"", "no certificates"),
        (pem(*CHAIN[1:]), "GSP BROM"),
        (pem(*CHAIN, CHAIN[-1]), "6 certificates"),
        (pem(*CHAIN[:3], CHAIN[4]), "4 certificates"),
        (pem(CHAIN[0], CHAIN[2], CHAIN[1], *CHAIN[3:]), "certificate 3 of 5"),
        (b"\n" + pem(*CHAIN), "extra bytes"),
        (pem(*CHAIN) + b"#", "extra bytes"),
        (pem(*CHAIN).replace(b"\n", b"\r\n"), "extra bytes"),
        (issue(0, subject=renamed(0, f"{PREFIX}GH100 A01 GSP FMC XX")), "FMC XX"),
        (issue(1, subject=renamed(1, f"{PREFIX}GH100 A01 FSP BROM")), "FSP BROM"),
        (issue(2, subject=renamed(2, f"{PREFIX}NVIDIA LS_10 Provisioner ICA 1")), "NVIDIA LS_10 Prov"),
        (issue(0, ca=False), "certificate 1 of 5 is one not a CA"),
        (issue(1, signs_lists=True), "certificate 2 of 5 is one a CA for crl_sign, key_cert_sign"),
        (issue(2, signs_lists=False), "certificate 3 of 5"),
        (issue(0, extension=None), "one without FWID"),
        (
            issue(0, extension=x509.UnrecognizedExtension(chain.FWID_EXTENSION, b"\x30\x00")),
            "FWID extension 3000",
        ),
        (
            issue(0, extension=x509.UnrecognizedExtension(chain.FWID_EXTENSION, bytes(189))),
            "FWID extension 0000",
        ),
        (issue(2, issuer_key=gpupki.private_key("a stranger")), "not signed with the key of the next one"),
        (issue(1, not_after=gpupki.NOT_BEFORE.replace(year=2026, month=2)), "valid from 2026-01-01 to 2026-02-01"),
    ],
)
def test_a_chain_of_another_shape_is_refused(certificates: bytes, words: str) -> None:
    found = checked(certificates)
    assert isinstance(found, SignatureFailure), found
    assert found.code == "gpu-chain" and words in f"{found.reason}", found


def test_the_fwid_extension_must_have_the_boot_roms_key() -> None:
    """A leaf of one chip below the boot ROM of another has another key there."""
    other = next(
        each.value for each in gpu.device_chain(gpu.GPUS[1])[0].extensions if each.oid == chain.FWID_EXTENSION
    )
    found = checked(issue(0, extension=other))
    assert isinstance(found, SignatureFailure) and "FWID extension" in found.reason


def test_shared_certificates_are_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 GPUs and 4 switches: 2 certificates each, and 4 that they share."""
    calls = []
    honest = chain.roles.certificates.issued
    monkeypatch.setattr(chain.roles.certificates, "issued", lambda *given: calls.append(given[0]) or honest(*given))
    assert all(isinstance(device, DeviceFacts) for device in gpus.check(*gpus.PPCIE).devices)
    assert len(calls) == len(set(calls)) == 2 * 12 + 4
