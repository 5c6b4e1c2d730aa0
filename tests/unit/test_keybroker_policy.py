"""Owners' policies: who signed, which serial, and what the broker's own decision says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attestation_samples
import broker_samples as samples
import pytest
import snp_samples
from broker_samples import BROKER, OWNERS, RESOURCE, desk, policy, role, signed

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import canonical, loads
from privml.keybroker import decision, resources
from privml.keybroker.decision import Asking, SnpPlatform, TdxPlatform, Wanted, decide
from privml.keybroker.policy import Owners, ReleasePolicy, accept, sign
from privml.keybroker.snprelease import SnpRelease
from privml.verify.verdict import Outcome

REPOSITORY = Path(__file__).parents[2]
PPID, OTHER = bytes(16), b"\1" * 16


def snp_platform(chip: bytes | None = None) -> SnpPlatform:
    """The simulated SNP machine, or one with another chip."""
    made = snp_samples.document()
    facts = snp_samples.signature_of(made)
    return SnpPlatform(chip or snp_samples.sim.CHIP_ID, facts)


FULL = policy(
    denied=(PPID,),
    platforms=(OTHER,),
    min_tcb_evaluation=18,
    advisories_denied=("INTEL-SA-00837",),
    max_releases=3,
)

FLOOR = snp_samples.FLOOR
SNP = snp_platform()
SOME_SNP = SnpRelease((FLOOR,), allow_unmeasured_acpi=True)
HIGHER = dataclasses.replace(SOME_SNP, min_tcb=(dataclasses.replace(FLOOR, snp=24),))
MEASURED = dataclasses.replace(SOME_SNP, allow_unmeasured_acpi=False)


@pytest.mark.parametrize("document", [policy(), FULL, policy(snp=SOME_SNP), Owners(RESOURCE, BROKER, 2, role(3, 2))])
def test_a_document_is_read_as_it_was_written(document: ReleasePolicy | Owners) -> None:
    assert type(document).decode(document.encode()) == document


def with_(name: str, value: Any) -> bytes:
    fields = loads(FULL.encode())
    fields[name] = value
    return canonical(fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "privml-release-policy/v2"),
        ("resource", "Model"),
        ("broker", "11" * 31),
        ("serial", 0),
        ("images", []),
        ("images", [{"predicate_sha256": "11" * 31}]),
        ("images", [{"predicate_sha256": "22" * 32}, {"predicate_sha256": "11" * 32}]),
        ("images", [{"predicate_sha256": "11" * 32, "name": "x"}]),
        ("denied", ["11" * 15]),
        ("denied", ["22" * 16, "22" * 16]),
        ("platforms", "any"),
        ("min_tcb_evaluation", -1),
        ("advisories_denied", ["b", "a"]),
        ("advisories_denied", [""]),
        ("not_after", 0),
        ("not_after", 253402300800),
        ("max_releases", -1),
        ("max_releases", "3"),
        ("simulated", 1),
        ("more", 1),
    ],
)
def test_another_value_of_a_field_is_refused(name: str, value: Any) -> None:
    with pytest.raises(EvidenceError):
        ReleasePolicy.decode(with_(name, value))


def test_a_document_of_another_encoding_or_kind_is_refused() -> None:
    with pytest.raises(EvidenceError, match="not canonical JSON"):
        ReleasePolicy.decode(FULL.encode() + b"\n")
    with pytest.raises(EvidenceError, match="format"):
        Owners.decode(FULL.encode())
    envelope = dataclasses.replace(signed(policy()), payload_type=dsse.IN_TOTO)
    with pytest.raises(EvidenceError, match="envelope of type"):
        accept(envelope, RESOURCE, role(), 0, broker=BROKER)


@pytest.mark.parametrize(
    ("code", "envelope"),
    [
        ("policy-signatures", lambda: signed(policy(), 0)),
        ("policy-signatures", lambda: signed(policy(), 2)),
        ("policy-signatures", lambda: dataclasses.replace(signed(policy(), 0, 1), payload=policy(serial=5).encode())),
        ("policy-signatures", lambda: twice(signed(policy(), 0))),
        ("policy-resource", lambda: signed(policy(resource="data/other"), 0, 1)),
        ("policy-broker", lambda: signed(policy(serial=5, broker=bytes(32)), 0, 1)),
        ("policy-broker", lambda: signed(Owners(RESOURCE, bytes(32), 5, role(2)), 0, 1)),
        ("policy-serial", lambda: signed(policy(serial=4), 0, 1)),
        ("policy-serial", lambda: signed(policy(serial=3), 0, 1)),
    ],
)
def test_a_policy_needs_enough_owners_its_resource_and_a_higher_serial(
    code: str, envelope: Callable[[], dsse.Envelope]
) -> None:
    with pytest.raises(Refused, match=f"^{code}: "):
        accept(envelope(), RESOURCE, role(2), 4, broker=BROKER)
    good = signed(policy(serial=5), 0, 1)
    assert accept(good, RESOURCE, role(2), 4, broker=BROKER).document == policy(serial=5)


def twice(envelope: dsse.Envelope) -> dsse.Envelope:
    """The first signature, once more under the name of the second owner."""
    (first,) = envelope.signatures
    return dataclasses.replace(envelope, signatures=(first, dataclasses.replace(first, keyid=OWNERS[1].public.keyid)))


def test_two_of_three_owners_are_enough(tmp_path: Path) -> None:
    with desk(tmp_path, owners=role(3, 2)) as made:
        with pytest.raises(Refused, match="policy-signatures: signed by too few of the present owners"):
            resources.set_policy(made.store, signed(policy(), 1))
        accepted = resources.set_policy(made.store, signed(policy(), 0, 2))
        assert len(accepted.signers) == 2


def test_a_lower_serial_never_comes_back(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        resources.set_policy(made.store, signed(policy(serial=7, simulated=False)))
        with pytest.raises(Refused, match="policy-serial: got serial 1, expected more than 7"):
            resources.set_policy(made.store, signed(policy()))
        assert samples.codes(made.ask(samples.guest(samples.X25519))) == ["refused", "release-simulated"]


def test_owners_are_changed_by_the_present_and_the_next_ones(tmp_path: Path) -> None:
    next_owners = Owners(RESOURCE, BROKER, 2, role(3, 2))
    with desk(tmp_path) as made:
        with pytest.raises(Refused, match="too few of the next owners"):
            resources.set_policy(made.store, signed(next_owners, 0))
        with pytest.raises(Refused, match="too few of the present owners"):
            resources.set_policy(made.store, signed(next_owners, 1, 2))
        resources.set_policy(made.store, signed(next_owners, 0, 1))
        assert made.ask(samples.guest(samples.X25519))[0] == 200, "the policy before still counts"
        with pytest.raises(Refused, match="policy-signatures"):
            resources.set_policy(made.store, signed(policy(serial=3), 0))
        resources.set_policy(made.store, signed(policy(serial=3), 1, 2))
        assert [each["codes"] for each in made.entries() if each["kind"] == "admin"][-2:] == [["owners"], ["policy"]]


def test_an_unsigned_envelope_is_not_a_policy() -> None:
    with pytest.raises(Refused, match="policy-signatures"):
        accept(sign(policy()), RESOURCE, role(), 0, broker=BROKER)


def asking(**changes: Any) -> Asking:
    """A key and a guest for which nothing is objected to; ``changes`` are fields of either record."""
    wanted = {name: changes.pop(name) for name in list(changes) if name in Wanted.__dataclass_fields__}
    key = dataclasses.replace(Wanted(RESOURCE, 1, known=True, policy=FULL), **wanted)
    fields: dict[str, Any] = {
        "wanted": key,
        "outcome": Outcome.ACCEPTED,
        "image": samples.IMAGE,
        "platform": TdxPlatform(OTHER, 18, ("INTEL-SA-00001",)),
        "now": attestation_samples.NOW,
        "development": False,
        **changes,
    }
    return Asking(**fields)


DECISIONS: dict[str, dict[str, Any]] = {
    "release-resource": {"known": False, "policy": None},
    "release-retired": {"retired": True},
    "release-policy": {"policy": None},
    "release-expired": {"now": FULL.not_after + 1},
    "release-image": {"image": bytes(32)},
    "release-platform": {"platform": TdxPlatform(b"\2" * 16, 18, ())},
    "release-tcb-evaluation": {"platform": TdxPlatform(OTHER, 17, ())},
    "release-advisory": {"platform": TdxPlatform(OTHER, 18, ("INTEL-SA-00837",))},
    "release-tcb": {"platform": SNP, "policy": dataclasses.replace(FULL, snp=HIGHER)},
    "release-acpi": {"platform": SNP, "policy": dataclasses.replace(FULL, snp=MEASURED)},
    "release-limit": {"released": 3},
    "release-simulated": {"outcome": Outcome.ACCEPTED_SIMULATED},
}


@pytest.mark.parametrize("code", DECISIONS)
def test_each_objection_has_its_own_code(code: str) -> None:
    """And says what the guest is, but not what the policy has in its lists."""
    found = decide(asking(**DECISIONS[code]))
    assert [each.code for each in found] == [code]
    assert decide(asking()) == ()
    said = found[0].expected
    listed = (samples.IMAGE.hex(), PPID.hex(), OTHER.hex(), "least 18", "00837", "most 3", "snp 24")
    assert not any(each in said.replace(FULL.sha256.hex(), "") for each in listed)


def test_a_denied_machine_gets_nothing_even_if_any_machine_may() -> None:
    open_to_all = dataclasses.replace(FULL, platforms=None)
    assert decide(asking(policy=open_to_all)) == ()
    (found,) = decide(asking(policy=open_to_all, platform=TdxPlatform(PPID, 18, ())))
    assert (found.code, found.got) == ("release-platform", PPID.hex())


def test_a_simulation_needs_both_the_policy_and_a_development_store() -> None:
    simulated = {"outcome": Outcome.ACCEPTED_SIMULATED}
    assert FULL.simulated
    assert decide(asking(**simulated, development=True)) == ()
    strict = dataclasses.replace(FULL, simulated=False)
    (found,) = decide(asking(**simulated, development=True, policy=strict))
    assert found.code == "release-simulated"


def test_every_code_is_given_by_some_case_and_is_in_the_guide() -> None:
    assert set(DECISIONS) == set(decision.CODES)
    guide = (REPOSITORY / "docs" / "KEYS.md").read_text()
    for code, meaning in decision.CODES.items():
        assert f"| `{code}` | {meaning} |" in guide
