"""Reports of SNP guests and their certificates: real ones pass, and no other byte of them does."""

from __future__ import annotations

import hashlib
import random
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
from tests.published import read

from privml.base.errors import EvidenceError
from privml.evidence.certificates import decode_pem
from privml.evidence.claims import SignatureFailure
from privml.evidence.snp import chain, claims, leaf, report, signature
from privml.evidence.snp import collateral as collaterals
from privml.evidence.snp.claims import ReportFacts
from privml.evidence.snp.der import Der
from privml.evidence.snp.tcb import GENOA, MILAN, TURIN, product_of
from privml.sim import snppki
from privml.sim import snpreport as sim

NOW = 1_795_000_000
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
    assert chain.verify(report.parse(data), certificates).root_sha256 == MILAN.root_sha256
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
    assert hashlib.sha256(MILAN_CHAIN[1]).hexdigest() == MILAN.root_sha256
    assert hashlib.sha256(GENOA_CHAIN[1]).hexdigest() == GENOA.root_sha256


def check(
    made: bytes | None = None,
    certificates: Sequence[bytes] | None = None,
    collateral: dict[str, str] | None = None,
    now: int = NOW,
    root: bytes | None = None,
) -> ReportFacts | SignatureFailure:
    """The check of the honest simulated report, changed."""
    return signature.check(
        HONEST if made is None else made,
        sim.certificates() if certificates is None else certificates,
        sim.collateral() if collateral is None else collateral,
        now=now,
        simulated_root=sim.root_der() if root is None else root,
    )


def pem(*certificates: bytes) -> str:
    return "".join(ssl.DER_cert_to_PEM_cert(one) for one in certificates)


EARLY = datetime(2025, 1, 1, tzinfo=UTC)
LATE = datetime(2049, 1, 1, tzinfo=UTC)
FLEET = snppki.Variation(fleet="CN=a.cloud")
TURIN_CHIP = snppki.Variation(product="Turin", chip_id=bytes(range(1, 9)), tcb={**snppki.TCB, "fmc": 1})
OF_FLEET = {0x48: b"\4", 0x1A0: bytes(64)}
OF_TURIN = {
    0x188: b"\x1a\2\1",
    0x1A0: bytes(range(1, 9)) + bytes(56),
    **dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), bytes([1, 10, 0, 23, 0, 0, 0, 84])),
}


def report_with(changes: dict[int, bytes]) -> bytes:
    return sim.make_report(bytes(48), bytes(64), changes)


HONEST = report_with({})
CRL = sim.collateral()["crl"]


def crl(how: snppki.Variation) -> dict[str, str]:
    return {"crl": snppki.revocation_list(how).hex()}


def bent(data: str, at: int) -> dict[str, str]:
    """A revocation list with one byte changed."""
    raw = bytearray.fromhex(data)
    raw[at] ^= 1
    return {"crl": raw.hex()}


FAILURES: dict[str, tuple[Callable[[], ReportFacts | SignatureFailure], str, str]] = {
    "no certificates": (lambda: check(certificates=()), "collateral-missing", "none"),
    "another root": (lambda: check(root=b"another"), "snp-chain", "root f1ef6bf1"),
    "a report of another key": (lambda: check(made=V2), "report-signature", "not signed by the VCEK"),
    "a certificate less": (lambda: check(certificates=sim.certificates()[:2]), "snp-chain", "certificates: 2"),
    "text that is no chain": (lambda: check(collateral={"certificates": "x"}), "snp-chain", "extra bytes"),
    "a chip that is not shown": (lambda: check(report_with({0x1A0: bytes(64)})), "report-certificate", "of chip "),
    "another chip": (lambda: check(report_with({0x1A0: b"\0"})), "report-certificate", "of chip "),
    "another tcb": (lambda: check(report_with({0x187: b"\x55"})), "report-certificate", "TCB bl 10, tee 0, snp 23"),
    "a tcb with another byte": (lambda: check(report_with({0x3A: b"\1"})), "report-certificate", "byte 2 is 1"),
    "another processor": (lambda: check(report_with({0x188: b"\x19\1"})), "report-certificate", "of a Genoa"),
    "the key of a fleet": (lambda: check(report_with({0x48: b"\4"})), "report-certificate", "a VCEK"),
    "a masked key": (lambda: check(report_with({0x48: b"\2"})), "report-certificate", "a VCEK"),
    "the key of a chip": (lambda: check(certificates=snppki.chain(FLEET)), "report-certificate", "a VLEK"),
    "an old certificate": (
        lambda: check(certificates=snppki.chain(snppki.Variation(dates=(EARLY, snppki.NOT_BEFORE)))),
        "collateral-expired",
        "certificate of VCEK valid to 2026-01-01T00:00:00Z",
    ),
    "a certificate of tomorrow": (
        lambda: check(certificates=snppki.chain(snppki.Variation(dates=(LATE, snppki.NOT_AFTER)))),
        "collateral-future",
        "certificate of VCEK issued 2049-01-01T00:00:00Z",
    ),
    "before the root": (lambda: check(now=1), "collateral-future", "certificate of VCEK issued"),
    "an old list": (
        lambda: check(collateral=crl(snppki.Variation(list_dates=(EARLY, snppki.NOT_BEFORE)))),
        "collateral-expired",
        "revocation list valid to",
    ),
    "a list of tomorrow": (
        lambda: check(collateral=crl(snppki.Variation(list_dates=(LATE, snppki.NOT_AFTER)))),
        "collateral-future",
        "revocation list issued",
    ),
    "a revoked issuer": (
        lambda: check(collateral=crl(snppki.Variation(revoked=(7, snppki.ISSUER_SERIAL)))),
        "revoked",
        "the revoked certificate of SEV-Genoa, serial number 10001",
    ),
    "a revoked root": (lambda: check(collateral=crl(snppki.Variation(revoked=(1,)))), "revoked", "ARK-Genoa"),
    "another product's list": (
        lambda: check(collateral=crl(snppki.Variation(product="Turin"))),
        "revocation-list",
        "ARK-Turin",
    ),
    "a list in capitals": (lambda: check(collateral={"crl": CRL.upper()}), "revocation-list", "encoding"),
    "a list that is no hex": (lambda: check(collateral={"crl": "x"}), "revocation-list", "encoding"),
    "no list": (lambda: check(collateral={"crl": "3000"}), "revocation-list", "unreadable"),
    "a list with another signature": (
        lambda: check(collateral=bent(CRL, -1)),
        "revocation-list",
        "not signed by it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_of_a_signature_has_its_code(name: str) -> None:
    run, code, words = FAILURES[name]
    found = run()
    assert isinstance(found, SignatureFailure), found
    assert found.code == code
    assert words in found.reason
    assert found.claims_simulated is (name not in ("no certificates", "text that is no chain"))


def test_an_honest_report_is_signed_by_a_chip_or_a_fleet_of_any_product() -> None:
    honest = check()
    assert isinstance(honest, ReportFacts)
    assert (honest.product, honest.role, honest.csp, honest.claims_simulated) == ("Genoa", "VCEK", None, True)
    assert [part.name for part in honest.validity] == [
        "certificate of VCEK", "certificate of SEV-Genoa", "certificate of ARK-Genoa", "revocation list",
    ]  # fmt: skip
    fleet = check(report_with(OF_FLEET), snppki.chain(FLEET))
    assert isinstance(fleet, ReportFacts) and (fleet.role, fleet.csp) == ("VLEK", "CN=a.cloud")
    chain_of = snppki.chain(TURIN_CHIP)
    turin = check(report_with(OF_TURIN), chain_of, {}, root=chain_of[2])
    assert isinstance(turin, ReportFacts), turin
    assert turin.tcbs["launch"] == {"fmc": 1, "bl": 10, "tee": 0, "snp": 23, "ucode": 84}
    assert turin.revocation is None


def test_the_caller_s_certificates_replace_the_document_s() -> None:
    given = {"certificates": pem(*sim.certificates())}
    assert isinstance(check(certificates=(), collateral=given), ReportFacts)
    wrong = check(certificates=sim.certificates(), collateral={"certificates": pem(VCEK, *MILAN_CHAIN)})
    assert isinstance(wrong, SignatureFailure) and wrong.code == "report-signature"


@pytest.mark.parametrize("value", [{}, {"crl": ""}, {"certificates": ""}, {"crl": "00", "other": ""}, {"crl": 1}, []])
def test_malformed_collateral_is_refused(value: object) -> None:
    with pytest.raises(EvidenceError):
        collaterals.decode(value)
    assert collaterals.decode({"crl": "00"}) == {"crl": "00"}


def test_claims_come_with_at_most_a_chain() -> None:
    with pytest.raises(EvidenceError, match=r"document\.certificates: 4, expected at most 3"):
        claims.read(HONEST, [b""] * 4)


def test_the_committed_simulation_is_regenerated_byte_for_byte() -> None:
    generated = snppki.generate()
    assert {path.name for path in snppki.FILES.iterdir()} == set(generated)
    for name, data in generated.items():
        assert (snppki.FILES / name).read_bytes() == data, f"{name}: run `python -m privml.sim.snppki`"
    assert all(b"SIMULATED" in generated[name] for name in ("vcek.der", "ark.der", "crl.der"))


@pytest.mark.parametrize(("size", "report_data"), [(47, bytes(64)), (48, bytes(63))])
def test_a_simulated_report_has_its_sizes(size: int, report_data: bytes) -> None:
    with pytest.raises(EvidenceError, match="simulated report"):
        sim.make_report(bytes(size), report_data)
