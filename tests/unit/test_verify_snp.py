"""What only SNP has: every field of a report, what AMD's certificates say, and real reports."""

from __future__ import annotations

import dataclasses
from typing import Any

import attestation_samples as samples
import pytest
import snp_samples as snp
from tests.published import read

from privml.base.errors import EvidenceError, UsageError
from privml.events.registers import LAUNCH
from privml.evidence.certificates import decode_pem
from privml.evidence.claims import SignatureFailure, Validity
from privml.evidence.snp import claims, signature
from privml.evidence.snp.claims import ReportFacts
from privml.evidence.snp.report import PLATFORM_BITS, POLICY_BITS
from privml.statement.launch import HASHED, OPEN
from privml.verify import policyfield
from privml.verify.policy import Policy
from privml.verify.report import render
from privml.verify.snp import DEMANDS, LOOSENING, NEVER, SnpPolicy, TcbFloor
from privml.verify.verdict import Outcome, Verdict

FACTS = samples.facts_of(snp.document())
SIGNATURE = snp.signature_of(snp.document())
GENUINE = snp.genuine(SIGNATURE)
ONE_48 = b"\1" * 48


def judge(**changes: Any) -> Verdict:
    """The verdict on genuine hardware under the policy that accepts the honest guest."""
    return snp.judge(**{"signature": GENUINE, **changes}).verdict


def codes(verdict: Verdict) -> set[str]:
    return {refusal.code for refusal in verdict.refusals}


def field(name: str, value: bytes) -> dict[str, Any]:
    return {"facts": samples.with_field(FACTS, name, value)}


def policy(**changes: Any) -> dict[str, Any]:
    return {"policy": Policy(snp=dataclasses.replace(snp.WANTED, **changes))}


def checked(**changes: Any) -> dict[str, Any]:
    return {"signature": dataclasses.replace(GENUINE, **changes)}


def failed(code: str, *, simulated: bool = False) -> dict[str, Any]:
    return {"signature": SignatureFailure(code, "bad", "good", claims_simulated=simulated)}


def expecting(boot: str) -> dict[str, Any]:
    made = dataclasses.replace(snp.PREDICATE, launches=(snp.launch(boot=boot),))
    return {"expected": dataclasses.replace(snp.EXPECTED, predicate=made)}


def tcb(name: str, **parts: int) -> dict[str, Any]:
    return checked(tcbs={**GENUINE.tcbs, name: {**GENUINE.tcbs[name], **parts}})


# Each named value of a report, bent: the one refusal that must follow.
FIELDS: dict[str, tuple[bytes, str | None]] = {
    "report-version": (b"\2\0\0\0", "report-version"),
    "guest-svn": (b"\1\0\0\0", "guest-svn"),
    "snp-policy": ((0xB0000).to_bytes(8, "little"), "snp-policy"),
    "family-id": (b"\1" * 16, "family-id"),
    "image-id": (b"\1" * 16, "image-id"),
    "vmpl": (b"\1\0\0\0", "vmpl"),
    "platform-info": (bytes(8), "platform-info"),
    "signing-key": (b"\4\0\0\0", "signing-key"),
    "host-data": (b"\1" * 32, "host-data"),
    "id-key": (ONE_48, "id-key"),
    "author-key": (ONE_48, "author-key"),
    "report-id": (b"\1" * 32, None),  # random, chosen by the firmware at each launch
    "migration-agent": (bytes(32), "migration-agent"),
    "processor": (b"\x1a\2\0", None),  # compared with the certificate's
    "chip": (b"\1" * 64, None),  # compared with the certificate's
    "reported-tcb": (bytes(8), None),  # judged part by part, with the certificate
    "current-tcb": (bytes(8), None),
    "committed-tcb": (bytes(8), None),
    "launch-tcb": (bytes(8), None),
    "current-firmware": (b"\1\x36\xff", "snp-firmware"),
    "committed-firmware": (b"\1\x36\xff", "snp-firmware"),
    "launch-mitigations": (b"\2" + bytes(7), "mitigations"),
    "current-mitigations": (b"\2" + bytes(7), "mitigations"),
}
WITH_MITIGATIONS = samples.with_field(
    samples.with_field(FACTS, "launch-mitigations", b"\3" + bytes(7)), "current-mitigations", b"\7" + bytes(7)
)
ONE = bytes(7) + b"\1"
DEMANDING = policy(min_firmware="1.55.0", mitigations=ONE)

# What is bent -> the refusals that must follow, and no other.
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    **{
        name: ({"facts": samples.with_field(WITH_MITIGATIONS, name, value), **DEMANDING}, {code} if code else set())
        for name, (value, code) in FIELDS.items()
    },
    "launch digest": ({"facts": samples.with_register(FACTS, LAUNCH, ONE_48)}, {"launch"}),
    "debug": (field("snp-policy", (0xB0000).to_bytes(8, "little")), {"snp-policy"}),
    "migration": (field("snp-policy", (0x70000).to_bytes(8, "little")), {"snp-policy"}),
    "cxl": (field("snp-policy", (0x230000).to_bytes(8, "little")), {"snp-policy"}),
    "cxl, accepted": (
        {**field("snp-policy", (0x230000).to_bytes(8, "little")), **policy(policy_may=frozenset({"cxl", "smt"}))},
        set(),
    ),
    "smt, not accepted": (policy(policy_may=frozenset()), {"snp-policy"}),
    "single socket, demanded": (policy(policy_must=frozenset({"single socket"})), {"snp-policy"}),
    "single socket": (field("snp-policy", (0x130000).to_bytes(8, "little")), set()),
    "abi": (policy(min_abi="1.51"), {"snp-abi"}),
    "abi, reached": ({**field("snp-policy", (0x30133).to_bytes(8, "little")), **policy(min_abi="1.51")}, set()),
    "masked key": (field("signing-key", b"\2\0\0\0"), {"signing-key"}),
    "no key": (field("signing-key", b"\x1c\0\0\0"), {"signing-key"}),
    "author key without a digest": (field("signing-key", b"\1\0\0\0"), {"author-key"}),
    "smt of the platform": (policy(platform_must_not=frozenset({"smt"})), {"platform-info"}),
    "no ecc": (policy(platform_must=frozenset({"ecc"})), {"platform-info"}),
    "chip": (policy(chips=frozenset({bytes(64)})), {"chip"}),
    "chip in the list": (policy(chips=frozenset({FACTS.claims.fields["chip"]})), set()),
    "mitigations before version 5": (policy(mitigations=ONE), {"mitigations"}),
    "firmware, reached": (policy(min_firmware="1.55.39"), set()),
    "product": (checked(product="Milan"), {"product", "reported-tcb"}),
    "fleet": (
        {**checked(role="VLEK", csp="CN=other"), **policy(fleets=frozenset({"CN=mine"}))},
        {"fleet"},
    ),
    "fleet in the list": ({**checked(role="VLEK", csp="CN=mine"), **policy(fleets=frozenset({"CN=mine"}))}, set()),
    "no floor": (policy(min_tcb=frozenset()), {"reported-tcb"}),
    "another product's floor": (policy(min_tcb=frozenset({TcbFloor("Turin")})), {"reported-tcb"}),
    "a part that the product has not": (
        policy(min_tcb=frozenset({dataclasses.replace(snp.FLOOR, fmc=1)})),
        {"reported-tcb"},
    ),
    **{
        f"{part} of the {name} tcb": (tcb(name, **{part: getattr(snp.FLOOR, part) - 1}), {"reported-tcb"})
        for name in claims.TCBS
        for part in ("bl", "snp", "ucode")
    },
    "a later tcb": (tcb("current", ucode=85), set()),
    "no revocation list": (checked(revocation=None), {"revocation-missing"}),
    "no revocation list, accepted": ({**checked(revocation=None), **policy(require_revocation=False)}, set()),
    "age": (
        checked(revocation=Validity("revocation list", samples.NOW - 401 * 86400, samples.NOW + 1)),
        {"collateral-age"},
    ),
    "signature": (failed("report-signature"), {"report-signature"}),
    "signature simulated": (failed("report-signature", simulated=True), {"simulated"}),
    **{
        code: (failed(code), {code})
        for code in (
            "snp-chain", "report-certificate", "revocation-list", "collateral-missing", "collateral-expired",
            "collateral-future", "revoked",
        )
    },
    "another report's signature": (checked(evidence_sha256="00" * 32), {"report-signature"}),
    "another root": (checked(root_sha256="00" * 32), {"root"}),
    "a digest without kernel hashes": (expecting(OPEN), {"snp-boot-unbound"}),
    "a digest without kernel hashes, whatever the policy": (
        {**expecting(OPEN), **policy(boots=frozenset({HASHED, "bound"}))},
        {"snp-boot-unbound"},
    ),
    "stock firmware": (expecting(HASHED), {"snp-boot-unbound"}),
    "stock firmware, accepted": ({**expecting(HASHED), **policy(boots=frozenset({HASHED}))}, set()),
    "acpi": (policy(allow_unmeasured_acpi=False), {"acpi-unmeasured"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_changed_part_has_its_own_refusal(name: str) -> None:
    changes, wanted = CASES[name]
    assert codes(judge(**changes)) == wanted


def test_every_field_of_a_report_is_judged() -> None:
    assert set(FIELDS) == set(FACTS.claims.fields)


def test_the_honest_guest_is_accepted_only_by_a_policy_that_names_what_amd_does_not_say() -> None:
    assert judge().accepted
    assert codes(judge(policy=Policy())) == {"reported-tcb", "acpi-unmeasured"}
    assert [each.code for each in judge().relaxed] == ["acpi-unmeasured"]
    text = render(judge())
    assert "  shape: qemu-11-q35-snp, 2 vcpus, CPU 0xa10f10\n" in text
    assert "  note: Genoa SIMULATED, VCEK, chip " in text
    assert "  note: SNP has no run-time registers: only the report data covers the agent's log\n" in text


def test_a_simulation_is_refused_by_default_and_never_more_than_a_simulation() -> None:
    assert codes(judge(signature=SIGNATURE)) == {"simulated"}
    allowed = judge(signature=SIGNATURE, policy=snp.SIMULATED)
    assert (allowed.outcome, allowed.exit_code) == (Outcome.ACCEPTED_SIMULATED, 10)


def test_a_document_for_another_tee_is_not_compared_with_its_launches() -> None:
    assert codes(judge(expected=samples.EXPECTED)) == {"shapes"}


@pytest.mark.parametrize("bit", range(64))
def test_every_bit_of_the_guest_s_policy_is_judged(bit: int) -> None:
    """Bits that allow something are refused, bits that demand something are not; the others are malformed."""
    flipped = int.from_bytes(FACTS.claims.fields["snp-policy"], "little") ^ 1 << bit
    names = {number: name for name, number in POLICY_BITS.items()}
    loosens = names.get(bit) in NEVER | LOOSENING - {"smt"}
    assert codes(judge(**field("snp-policy", flipped.to_bytes(8, "little")))) == (
        {"snp-policy"} if loosens else set()
    )


def test_each_bit_of_a_policy_is_of_one_kind() -> None:
    assert {*NEVER, *LOOSENING, *DEMANDS} == set(POLICY_BITS)
    assert len(NEVER) + len(LOOSENING) + len(DEMANDS) == len(POLICY_BITS)


def test_every_policy_field_is_used() -> None:
    """A policy that nobody can meet in one field refuses the honest guest for that field."""
    impossible: dict[str, Any] = {
        "products": frozenset({"Turin"}),
        "min_report_version": 5,
        "signing_keys": frozenset(),
        "chips": frozenset({bytes(64)}),
        "min_tcb": frozenset({TcbFloor("Genoa", ucode=255)}),
        "min_firmware": "255.0.0",
        "min_abi": "255.0",
        "platform_must": frozenset(PLATFORM_BITS),
        "platform_must_not": frozenset({"alias check"}),
        "mitigations": ONE,
        "policy_may": frozenset(),
        "policy_must": DEMANDS,
        "vmpl": 1,
        "host_data": b"\1" * 32,
        "id_key": ONE_48,
        "author_key": ONE_48,
        "family_id": b"\1" * 16,
        "image_id": b"\1" * 16,
        "guest_svn": 1,
        "max_collateral_age_days": 1,
        "boots": frozenset(),
        "allow_unmeasured_acpi": False,
    }
    # A fleet is named by a VLEK only, and the honest guest has a list: CASES has them.
    assert {*impossible, "fleets", "require_revocation"} == set(policyfield.settings(SnpPolicy))
    settings = policyfield.settings(SnpPolicy)
    aged = checked(revocation=Validity("revocation list", samples.NOW - 3 * 86400, samples.NOW + 1))
    for name, value in impossible.items():
        found = codes(judge(**aged, **policy(**{name: value})))
        assert found & (settings[name].relaxes | settings[name].sets), name


def test_a_policy_file_round_trips_its_floors() -> None:
    made = policyfield.read(
        SnpPolicy,
        {
            "min_tcb": [{"product": "Genoa", "fmc": 0, "bl": 10, "tee": 0, "snp": 23, "ucode": 84}],
            "allow_unmeasured_acpi": True,
        },
    )
    assert made == snp.WANTED
    assert policyfield.strict(made) == dataclasses.replace(made, allow_unmeasured_acpi=False)
    with pytest.raises(ValueError, match=r"min_firmware: got `1\.55`, expected MAJOR\.MINOR\.BUILD"):
        SnpPolicy(min_firmware="1.55")
    with pytest.raises(ValueError, match="numbers below 256"):
        SnpPolicy(min_abi="1.256")
    stricter = policyfield.strict(SnpPolicy(platform_must=frozenset({"ecc"}), vmpl=3))
    assert (stricter.platform_must, stricter.vmpl) == (frozenset({"ecc", "alias check"}), 0)


SEV = "attestation/google_go-sev-guest"
TRUSTEE = "attestation/confidential-containers_trustee/snp"
# A public report: its bytes, its chain, when it was made, and what the strict policy says of its platform.
REAL: dict[str, tuple[bytes, bytes, str, int, set[str]]] = {
    "Milan, VCEK, version 2": (
        bytes.fromhex(read("attestation/virtee_sev/report_milan.hex").decode()),
        read("attestation/virtee_sev/vcek_milan.der"),
        f"{SEV}/ask_ark_milan.pem",
        1_750_000_000,
        {"report-version", "product", "reported-tcb", "platform-info", "revocation-missing"},
    ),
    "Milan, VLEK, version 3": (
        read(f"{TRUSTEE}/test-vlek-report.bin"),
        read(f"{TRUSTEE}/test-vlek.der"),
        f"{SEV}/ask_ark_milan_vlek.pem",
        1_750_000_000,
        {"product", "signing-key", "vmpl", "reported-tcb", "revocation-missing"},
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_report_is_genuine_and_refused_for_exactly_what_it_is(name: str) -> None:
    """A genuine report over our document is refused for what it measures and binds, and for its platform."""
    data, leaf, issuers, now, wanted = REAL[name]
    chain = [leaf, *decode_pem(read(issuers), limit=1 << 16)]
    signed = signature.check(data, chain, None, now=now)
    assert isinstance(signed, ReportFacts), signed
    facts = dataclasses.replace(FACTS, claims=claims.read(data, chain))
    found = judge(facts=facts, signature=signed, policy=Policy())
    assert codes(found) == wanted | {"launch", "report-data", "acpi-unmeasured", "sample-evidence"}
    parts = {**signed.tcbs["reported"]}
    accepting = Policy(
        snp=SnpPolicy(
            products=frozenset({"Milan"}),
            min_report_version=2,
            signing_keys=frozenset({"VCEK", "VLEK"}),
            platform_must=frozenset(),
            vmpl=int.from_bytes(facts.claims.fields["vmpl"], "little"),
            min_tcb=frozenset({TcbFloor("Milan", **{**parts, "fmc": 0})}),
            require_revocation=False,
            allow_unmeasured_acpi=True,
        )
    )
    assert codes(judge(facts=facts, signature=signed, policy=accepting)) == {
        "launch",
        "report-data",
        "sample-evidence",
    }
    later = signature.check(data, chain, None, now=samples.NOW)
    if "VLEK" in name:
        assert isinstance(later, SignatureFailure) and later.code == "collateral-expired"
        assert later.reason.startswith("certificate of VLEK valid to 2025-12-10")


def test_no_changed_field_of_an_honest_document_s_report_is_accepted() -> None:
    """The report is signed again after the change, so only the checks of its fields can refuse it."""
    honest = snp.document()
    changes = {
        0x00: b"\2", 0x04: b"\1", 0x08: b"\0\0\x0b", 0x10: b"\1", 0x20: b"\1", 0x30: b"\1", 0x34: b"\2", 0x38: b"\0",
        0x40: b"\0", 0x48: b"\1", 0x4C: b"\1", 0x50: b"\0\1\2", 0x90: b"\0\1", 0xC0: b"\1", 0xE0: b"\1", 0x110: b"\1",
        0x160: b"\0", 0x180: b"\x0b", 0x188: b"\x1a\2", 0x18B: b"\1", 0x1A0: b"\0\1", 0x1E0: b"\0", 0x1F0: b"\0",
        0x1F8: b"\1", 0x208: b"\1",
    }  # fmt: skip
    for at, value in changes.items():
        made = snp.document({at: value})
        try:
            facts = samples.facts_of(made)
        except EvidenceError:
            continue
        assert made.collateral is not None
        checked = signature.check(
            made.evidence, made.certificates, made.collateral["snp"], now=samples.NOW, simulated_root=snp.ROOT
        )
        verdict = judge(facts=facts, signature=checked, policy=snp.SIMULATED)
        assert verdict.outcome is Outcome.REFUSED, hex(at)
    assert judge(facts=samples.facts_of(honest), signature=SIGNATURE, policy=snp.SIMULATED).refusals == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy_may", ["debug"]),
        ("policy_may", ["migration agent"]),
        ("policy_must", ["smt"]),
        ("products", ["Naples"]),
        ("signing_keys", ["none"]),
        ("min_report_version", 1),
        ("min_report_version", 6),
        ("vmpl", 4),
        ("boots", ["open"]),
        ("min_tcb", [{"product": "Genoa", "bl": 1}]),
        ("min_tcb", [{"product": "Genoa", "fmc": 0, "bl": 256, "tee": 0, "snp": 0, "ucode": 0}]),
        ("min_firmware", "1.55"),
        ("mitigations", 1),
    ],
)
def test_what_no_policy_may_accept(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^snp.{field}"):
        policyfield.read(SnpPolicy, {field: value}, "snp")
