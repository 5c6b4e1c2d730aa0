"""Reports of SNP guests and their certificates: real ones pass, and no other byte of them does."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest
from tests.published import read

from privml.base.errors import EvidenceError
from privml.evidence.certificates import decode_pem
from privml.evidence.snp import chain, leaf, report
from privml.evidence.snp.der import Der
from privml.evidence.snp.tcb import GENOA, MILAN, TURIN, product_of

V2 = bytes.fromhex(read("attestation/virtee_sev/report_milan.hex").decode())
V3 = read("attestation/confidential-containers_trustee/snp/test-vlek-report.bin")
VCEK = read("attestation/virtee_sev/vcek_milan.der")
VLEK = read("attestation/confidential-containers_trustee/snp/test-vlek.der")
MILAN_CHAIN = decode_pem(read("attestation/google_go-sev-guest/ask_ark_milan.pem"), limit=1 << 16)
VLEK_CHAIN = decode_pem(read("attestation/google_go-sev-guest/ask_ark_milan_vlek.pem"), limit=1 << 16)
GENOA_CHAIN = decode_pem(read("attestation/google_go-sev-guest/ask_ark_genoa.pem"), limit=1 << 16)


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def test_the_fields_of_real_reports() -> None:
    old, new = report.parse(V2), report.parse(V3)
    assert (old.version, old.product, old.policy, old.policy_words, old.vmpl) == (2, None, 0x30000, ("smt",), 0)
    assert (new.version, new.product, new.stepping, new.vmpl, new.signing_key) == (3, MILAN, 1, 1, report.VLEK)
    assert new.platform_words == ("smt", "tsme", "ecc", "alias check")
    assert str(new.current) == "1.55.29"
    assert MILAN.tcb(new.reported_tcb) == {"bl": 4, "tee": 0, "snp": 24, "ucode": 217}
    assert new.chip_id == bytes(64) and new.measurement == V3[0x90:0xC0] and new.report_data == V3[0x50:0x90]


REFUSED: dict[str, tuple[bytes, str]] = {
    "a byte less": (V3[:-1], "1183 bytes"),
    "a byte more": (V3 + b"\0", "1185 bytes"),
    "version 1": (changed(V3, 0, b"\1"), "version 1"),
    "version 6": (changed(V3, 0, b"\6"), "version 6"),
    "another algorithm": (changed(V3, 0x34, b"\2"), "signature algorithm 2"),
    "a policy without its bit": (changed(V3, 0x0A, b"\1"), "bit 17"),
    "an unknown bit of the policy": (changed(V3, 0x0B, b"\4"), "policy has unknown bits"),
    "an unknown bit of the platform": (changed(V3, 0x40, b"\x40"), "platform_info has unknown bits"),
    "vmpl 4": (changed(V3, 0x30, b"\4"), "vmpl 4"),
    "an unknown signing key": (changed(V3, 0x48, b"\x0c"), "signing key 3"),
    "an unknown bit of the key": (changed(V3, 0x48, b"\x24"), "unknown bits"),
    "another processor": (changed(V3, 0x188, b"\x17"), "family 0x17"),
    "a processor before version 3": (changed(V2, 0x188, b"\x19"), "0x188 to 0x18b"),
    "mitigations before version 5": (changed(V3, 0x1F8, b"\1"), "0x1f8 to 0x208"),
    "r of zero": (changed(V3, 0x2A0, bytes(72)), "r of its signature"),
    "s above P-384": (changed(V3, 0x2E8 + 48, b"\1"), "s of its signature"),
    **{
        f"a byte at 0x{at:x}": (changed(V3, at, b"\1"), "are not zero")
        for at in (0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x208, 0x29F, 0x330, 0x49F)
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_report_is_refused(case: str) -> None:
    data, why = REFUSED[case]
    with pytest.raises(EvidenceError, match=why):
        report.parse(data)


def test_a_report_of_version_5_has_mitigations() -> None:
    found = report.parse(changed(changed(V3, 0, b"\5"), 0x1F8, b"\7" + bytes(7) + b"\3"))
    assert (found.launch_mitigations, found.current_mitigations) == (7, 3)


@pytest.mark.parametrize(("data", "certificates"), [(V2, [VCEK, *MILAN_CHAIN]), (V3, [VLEK, *VLEK_CHAIN])])
def test_no_changed_bit_of_a_report_verifies(data: bytes, certificates: list[bytes]) -> None:
    assert chain.verify(report.parse(data), certificates)[1] == chain.ROOTS["Milan"]
    chance = random.Random(1)
    for place in (*range(0x60), *chance.sample(range(0x60, report.SIZE), 80)):
        with pytest.raises(EvidenceError):
            chain.verify(report.parse(changed(data, place, bytes([data[place] ^ 1 << place % 8]))), certificates)


@pytest.mark.parametrize(
    ("data", "certificates"), [(V2, [VCEK, *MILAN_CHAIN]), (V3, [VLEK, *VLEK_CHAIN])], ids=["vcek", "vlek"]
)
def test_no_changed_byte_of_a_key_s_certificate_verifies(data: bytes, certificates: list[bytes]) -> None:
    parsed, key = report.parse(data), certificates[0]
    for place in range(0, len(key), 3):
        other = changed(key, place, bytes([key[place] ^ 1 << place % 8]))
        with pytest.raises(EvidenceError):
            chain.verify(parsed, [other, *certificates[1:]])


def verify(certificates: list[bytes]) -> Callable[[], object]:
    return lambda: chain.verify(report.parse(V2), certificates)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (verify([VCEK, MILAN_CHAIN[0]]), "2, expected 3"),
        (verify([VCEK, *MILAN_CHAIN, MILAN_CHAIN[1]]), "4, expected 3"),
        (verify([VCEK, MILAN_CHAIN[1], MILAN_CHAIN[1]]), "one of `ARK-Milan`, expected `SEV-Milan`"),
        (verify([VCEK, MILAN_CHAIN[0], MILAN_CHAIN[0]]), "signed by itself"),
        (verify([VCEK, *GENOA_CHAIN]), "one of `ARK-Genoa`, expected `ARK-Milan`"),
        (verify([VCEK, MILAN_CHAIN[0], GENOA_CHAIN[1]]), "ARK-Milan"),
        (verify([VCEK, *VLEK_CHAIN]), "SEV-VLEK-Milan"),
        (verify([VLEK, *VLEK_CHAIN]), "report: not signed by the VLEK"),
        (verify([VLEK, *MILAN_CHAIN]), "one of `SEV-Milan`, expected `SEV-VLEK-Milan`"),
        (verify([VCEK + b"\0", *MILAN_CHAIN]), "1 bytes after"),
        (verify([bytes(5000), *MILAN_CHAIN]), "at most 4096"),
        (verify([b"", *MILAN_CHAIN]), "in the middle"),
    ],
)
def test_what_is_no_chain_of_amd_s_is_refused(run: Callable[[], object], why: str) -> None:
    with pytest.raises(EvidenceError, match=why):
        run()


def test_the_certificates_say_what_they_are_for() -> None:
    key, fleet = leaf.parse(VCEK), leaf.parse(VLEK)
    assert (key.role, key.product, key.stepping, key.csp) == ("VCEK", MILAN, "B0", None)
    assert key.chip_id == report.parse(V2).chip_id
    assert (fleet.role, fleet.chip_id, fleet.csp) == ("VLEK", None, "CN=cc-us-east-2.amazonaws.com")
    assert (fleet.not_after - fleet.not_before).days == 365 and fleet.not_after.year == 2025


def test_the_parts_of_a_tcb_version_lie_differently() -> None:
    data = bytes([1, 2, 0, 0, 0, 0, 3, 4])
    assert MILAN.tcb(data) == GENOA.tcb(data) == {"bl": 1, "tee": 2, "snp": 3, "ucode": 4}
    assert TURIN.tcb(bytes([1, 2, 3, 4, 0, 0, 0, 5])) == {"fmc": 1, "bl": 2, "tee": 3, "snp": 4, "ucode": 5}
    with pytest.raises(EvidenceError, match="byte 6 is 3"):
        TURIN.tcb(data)
    with pytest.raises(EvidenceError, match="7 bytes"):
        MILAN.tcb(data[:7])


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0, MILAN),
        (0x19, 0x11, GENOA),
        (0x19, 0xA0, GENOA),
        (0x1A, 2, TURIN),
        (0x1A, 0x12, None),
        (0x18, 1, None),
    ],
)
def test_processors_by_family_and_model(family: int, model: int, product: object) -> None:
    if product is None:
        with pytest.raises(EvidenceError, match="is not known"):
            product_of(family, model)
    else:
        assert product_of(family, model) is product


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "in the middle"), ("02", "in the middle"), ("0201", "in the middle"), ("0200", "shortest"),
        ("020180", "negative"), ("02020001", "shortest"), ("02810101", "a DER length"),
        ("0282000101", "a DER length"),
        ("0280", "a DER length"), ("02840000000101", "a DER length"), ("030101", "tag 0x03"),
    ],
)  # fmt: skip
def test_a_value_has_one_encoding(data: str, why: str) -> None:
    with pytest.raises(EvidenceError, match=why):
        Der(bytes.fromhex(data), "x").integer()


def test_numbers_above_127_have_two_bytes() -> None:
    assert Der(bytes.fromhex("020200d9"), "x").integer() == 217
    assert Der(b"\x04\x81\x80" + bytes(128), "x").take(4) == bytes(128)


def test_the_roots_are_those_of_the_vectors() -> None:
    assert hashlib.sha256(MILAN_CHAIN[1]).hexdigest() == chain.ROOTS["Milan"]
    assert hashlib.sha256(GENOA_CHAIN[1]).hexdigest() == chain.ROOTS["Genoa"]
