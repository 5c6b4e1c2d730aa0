"""Key release to SEV-SNP guests: what broker and owners must both name, each by itself."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attestation_samples
import broker_samples
import pytest
import snp_samples
from broker_samples import BROKER, RESOURCE, Desk, codes, desk, policy
from snp_samples import FLOOR, WANTED

from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical, loads
from privml.channel.kem import X25519
from privml.evidence.document import Document
from privml.keybroker import decision, refusallimit, resources
from privml.keybroker.decision import SnpPlatform
from privml.keybroker.policy import ReleasePolicy
from privml.keybroker.snprelease import SnpRelease
from privml.statement import predicate
from privml.verify.anchor import Built, Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy
from privml.verify.snp import SnpPolicy
from privml.verify.snptcb import TcbFloor

PREDICATE = dataclasses.replace(
    broker_samples.PREDICATE, launches=(*broker_samples.PREDICATE.launches, snp_samples.launch())
)
IMAGE = hashlib.sha256(predicate.encode(PREDICATE)).digest()
CHIP = snp_samples.sim.CHIP_ID
OTHER = b"\1" * 64
RELEASE = SnpRelease((FLOOR,), allow_unmeasured_acpi=True)


class SnpGuest(broker_samples.Guest):
    """An SNP guest at stage `keys`, with its release keys; ``changes`` are bytes of its report."""

    def document(self, nonce: bytes, **changes: Any) -> Document:
        return snp_samples.document(
            changes.get("report"),
            nonce=nonce,
            keys=self.keys,
            agent_events=attestation_samples.AGENT_EVENTS[:1],
            purpose="key-release",
        )


def with_snp(made: Desk, snp: SnpPolicy = WANTED) -> Desk:
    """The broker of ``made``, that judges SNP guests by this policy."""
    criteria = Policy(purpose="key-release", allow_simulated=snp_samples.ROOT, snp=snp)

    def judge(document: bytes, nonce: bytes) -> Judgement:
        return broker_samples.judge(document, nonce, Expected(PREDICATE, Built("out/demo-cpu")), criteria)

    made.broker.judge = judge
    return made


@pytest.fixture
def snp_desk(tmp_path: Path) -> Iterator[Desk]:
    """A broker whose owners release to simulated SNP guests."""
    with desk(tmp_path, images=(IMAGE,), snp=RELEASE) as made:
        yield with_snp(made)


def guest() -> SnpGuest:
    return SnpGuest([X25519.generate()])


def test_an_honest_snp_guest_gets_the_key(snp_desk: Desk) -> None:
    one = guest()
    status, _, body = snp_desk.ask(one)
    assert status == 200
    _, keys = one.opened(body, snp_desk.store.public)
    assert keys == (snp_desk.key.key,)
    last = snp_desk.entries()[-1]
    assert (last["kind"], last["ppid"], last["codes"]) == ("release", CHIP.hex(), [])


@pytest.mark.parametrize(
    ("snp", "code"),
    [
        (None, "release-platform"),
        (dataclasses.replace(RELEASE, chips=(OTHER,)), "release-platform"),
        (dataclasses.replace(RELEASE, denied=(CHIP,)), "release-platform"),
        (dataclasses.replace(RELEASE, min_tcb=(TcbFloor("Turin"),)), "release-tcb"),
        *(
            (dataclasses.replace(RELEASE, min_tcb=(dataclasses.replace(FLOOR, **{part: value}),)), "release-tcb")
            for part, value in (("bl", 11), ("tee", 1), ("snp", 24), ("ucode", 85), ("fmc", 1))
        ),
        (dataclasses.replace(RELEASE, allow_unmeasured_acpi=False), "release-acpi"),
    ],
)
def test_the_owners_must_name_the_guest_themselves(tmp_path: Path, snp: SnpRelease | None, code: str) -> None:
    """Whatever the broker's own policy accepts."""
    with desk(tmp_path, images=(IMAGE,), snp=snp) as made:
        answer = with_snp(made).ask(guest())
        assert set(codes(answer)[1:]) == {code}
        entry = made.entries()[-1]
        assert (entry["kind"], entry["codes"], entry["ppid"]) == ("refuse", [code], CHIP.hex())


@pytest.mark.parametrize(
    ("snp", "code"),
    [
        (dataclasses.replace(WANTED, min_tcb=frozenset()), "reported-tcb"),
        (dataclasses.replace(WANTED, allow_unmeasured_acpi=False), "acpi-unmeasured"),
        (dataclasses.replace(WANTED, products=frozenset({"Turin"})), "product"),
    ],
)
def test_the_brokers_policy_must_accept_the_guest_too(snp_desk: Desk, snp: SnpPolicy, code: str) -> None:
    assert codes(with_snp(snp_desk, snp).ask(guest())) == ["refused", code]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({0x90: bytes(48)}, "launch"),
        ({0x08: (0xB0000).to_bytes(8, "little")}, "snp-policy"),
        ({0x30: b"\1"}, "vmpl"),
        ({0xC0: b"\1"}, "host-data"),
        ({0x40: b"\1"}, "platform-info"),
        ({0x1E0: bytes([9, 0, 0, 0, 0, 0, 23, 84])}, "reported-tcb"),
    ],
)
def test_another_report_gets_nothing(snp_desk: Desk, changes: dict[int, bytes], code: str) -> None:
    answer = snp_desk.ask(guest(), report=changes)
    assert (answer[0], codes(answer)) == (403, ["refused", code])


def test_a_report_of_another_chip_or_key_proves_nothing(snp_desk: Desk) -> None:
    for changes in ({0x1A0: OTHER}, {0x48: b"\4"}):
        before = len(snp_desk.entries())
        assert codes(snp_desk.ask(guest(), report=changes)) == ["evidence"]
        assert len(snp_desk.entries()) == before


def test_a_td_gets_the_key_under_the_same_policy(tmp_path: Path) -> None:
    with desk(tmp_path, snp=RELEASE) as made:
        assert made.ask(broker_samples.guest(X25519))[0] == 200


def test_lists_of_tdx_machines_do_not_count_for_snp_guests(snp_desk: Desk) -> None:
    lists = {"platforms": (bytes(16),), "denied": (bytes(16),), "min_tcb_evaluation": 99, "advisories_denied": ("X",)}
    changed = policy(serial=2, broker=snp_desk.store.public, images=(IMAGE,), snp=RELEASE, **lists)
    resources.set_policy(snp_desk.store, broker_samples.signed(changed))
    assert snp_desk.ask(guest())[0] == 200


@pytest.mark.parametrize(("chips", "denied"), [((CHIP,), ()), (None, (OTHER,))])
def test_a_hidden_chip_is_refused_where_chips_are_named(
    chips: tuple[bytes, ...] | None, denied: tuple[bytes, ...]
) -> None:
    facts = snp_samples.signature_of(snp_samples.document())
    wanted = policy(snp=dataclasses.replace(RELEASE, chips=chips, denied=denied))
    assert not [*SnpPlatform(CHIP, facts).objections(wanted)]
    (found,) = SnpPlatform(bytes(64), facts).objections(wanted)
    assert (found.code, found.got) == ("release-platform", "a chip that the host hides")
    assert not [*SnpPlatform(bytes(64), facts).objections(policy(snp=RELEASE))]


def test_refusals_of_one_chip_are_limited(snp_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusallimit, "PER_MACHINE", 2)
    before = len(snp_desk.entries())
    for _ in range(4):
        snp_desk.ask(guest(), report={0x30: b"\1"})
    assert len(snp_desk.entries()) == before + 2


FULL = ReleasePolicy(
    RESOURCE, BROKER, 1, (IMAGE,), 2_000_000_000,
    snp=SnpRelease((FLOOR, TcbFloor("Turin", fmc=1)), allow_unmeasured_acpi=True, chips=(CHIP,), denied=(OTHER,)),
)  # fmt: skip


def test_a_policy_without_snp_is_written_as_before() -> None:
    """So that what owners signed still counts."""
    assert b"snp" not in policy().encode()
    assert ReleasePolicy.decode(policy().encode()).snp is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_tcb", []),
        ("min_tcb", [{"product": "Genoa"}]),
        ("min_tcb", FULL.snp.to_dict()["min_tcb"][::-1]),  # type: ignore[union-attr, index]
        ("min_tcb", [{"product": "Naples", "fmc": 0, "bl": 0, "tee": 0, "snp": 0, "ucode": 0}]),
        ("min_tcb", [{"product": "Genoa", "fmc": 0, "bl": 256, "tee": 0, "snp": 0, "ucode": 0}]),
        ("min_tcb", [{"product": "Genoa", "fmc": 0, "bl": 0, "tee": 0, "snp": 0, "ucode": 0, "more": 0}]),
        ("chips", [CHIP.hex()[:-2]]),
        ("chips", "any"),
        ("denied", None),
        ("denied", [OTHER.hex(), OTHER.hex()]),
        ("allow_unmeasured_acpi", 1),
        ("allow_unmeasured_acpi", None),
        ("more", 1),
    ],
)
def test_another_value_of_a_field_is_refused(name: str, value: object) -> None:
    fields = loads(FULL.encode())
    assert ReleasePolicy.decode(canonical(fields)) == FULL
    fields["snp"][name] = value
    with pytest.raises(EvidenceError, match=r"policy\.snp"):
        ReleasePolicy.decode(canonical(fields))


def test_null_for_snp_is_refused() -> None:
    fields = {**loads(FULL.encode()), "snp": None}
    with pytest.raises(EvidenceError, match=r"policy\.snp"):
        ReleasePolicy.decode(canonical(fields))


def test_every_tee_has_machines_that_policies_can_name() -> None:
    assert decision.PLATFORMS.keys() == {"tdx", "snp"}
