"""Challenges and releases: what reaches a guest, what does not, and that the log knows before anybody else."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attestation_samples
import broker_samples as samples
import pytest
from broker_samples import EXPECTED, RESOURCE, VERIFYING, Desk, codes, desk, guest, judge, policy, signed

from privml.base.errors import HostError
from privml.channel.kem import X25519, X_WING, usable
from privml.channel.release import LogHead, Request
from privml.channel.suites import CannotOpen
from privml.client import attested
from privml.client.anchors import Recent
from privml.evidence.document import Document
from privml.evidence.facts import Facts
from privml.evidence.sections import CHANNEL_KEY, TLS_KEY
from privml.keybroker import broker as module
from privml.keybroker import challenges, entry, head, refusallimit, resources, store
from privml.keybroker.challenges import Challenges
from privml.keybroker.policy import Owners
from privml.keybroker.tree import Tree
from privml.verify.anchor import Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy
from privml.verify.verdict import Binding


def test_an_honest_guest_gets_the_key_and_nobody_else_can_open_it(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        one = guest(X25519)
        status, _, body = made.ask(one)
        assert status == 200
        said, keys = one.opened(body, made.store.public)
        assert keys == (made.key.key,)
        (released,) = said.resources
        assert (released.resource, released.generation, released.check) == (RESOURCE, 1, made.key.check)
        assert released.policy_sha256 == policy().sha256
        with pytest.raises(CannotOpen):
            guest(X25519).opened(body, made.store.public)


@pytest.mark.skipif(X_WING not in usable(), reason="this machine has no ML-KEM-768")
def test_the_post_quantum_key_is_preferred(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        both = guest(X25519, X_WING)
        said, keys = both.opened(made.ask(both)[2], made.store.public)
        assert (said.kem, keys) == ("x-wing", (made.key.key,))


def test_a_release_names_the_document_and_the_head_of_the_log_with_its_entry(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        one = guest(X25519)
        nonce = made.nonce()
        document = one.document(nonce).encode()
        _, _, body = made.send(Request(nonce, document, ((RESOURCE, 1),)))
        said, _ = one.opened(body, made.store.public)
        facts = judge(document, nonce).facts
        assert said.report_data == facts.report_data
        last = made.entries()[-1]
        assert said.log == made.store.tree.head == Tree(made.store.lines()).head
        assert head.read(made.store.head_path).log == said.log
        assert (last["kind"], last["resource"], last["codes"]) == ("release", RESOURCE, [])
        assert last["quote_sha256"] == facts.claims.evidence_sha256
        assert last["image"] == samples.IMAGE.hex()
        assert last["policy_sha256"] == policy().sha256.hex()
        assert len(last["ppid"]) == 32


def test_several_keys_are_released_together_or_not_at_all(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        other = resources.add(made.store, "data/claims", samples.role())
        wanted = ((RESOURCE, 1), ("data/claims", 1))
        assert codes(made.ask(guest(X25519), *wanted)) == ["refused", "release-policy"]
        resources.set_policy(made.store, signed(policy(resource="data/claims")))
        one = guest(X25519)
        said, keys = one.opened(made.ask(one, *wanted)[2], made.store.public)
        assert keys == (made.key.key, other.key)
        assert [each.resource for each in said.resources] == [RESOURCE, "data/claims"]
        logged = [(each["kind"], each["resource"]) for each in made.entries()]
        assert logged[-2:] == [("release", RESOURCE), ("release", "data/claims")]
        assert [name for kind, name in logged if kind == "refuse"] == ["data/claims"], "the one that was not released"


def test_a_nonce_is_good_once_and_for_its_own_broker_and_document(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        one = guest(X25519)
        nonce = made.nonce()
        request = Request(nonce, one.document(nonce).encode(), ((RESOURCE, 1),))
        assert made.send(request)[0] == 200
        assert codes(made.send(request)) == ["challenge"]
        never = Request(bytes(32), one.document(bytes(32)).encode(), ((RESOURCE, 1),))
        assert codes(made.send(never)) == ["challenge"]
        others = Request(made.nonce(), one.document(made.nonce()).encode(), ((RESOURCE, 1),))
        assert codes(made.send(others)) == ["evidence"]
        assert len(made.entries()) == 4, "only the release is logged"


def test_a_nonce_ends_after_two_minutes(tmp_path: Path) -> None:
    now = [0.0]
    with desk(tmp_path) as made:
        made.broker.challenges = Challenges(lambda: now[0])
        one, nonce = guest(X25519), made.nonce()
        now[0] = 120.0
        request = Request(nonce, one.document(nonce).encode(), ((RESOURCE, 1),))
        assert codes(made.send(request)) == ["challenge"]
        nonce = made.nonce()
        now[0] = 239.0
        assert made.send(Request(nonce, one.document(nonce).encode(), ((RESOURCE, 1),)))[0] == 200


def test_a_challenge_of_another_process_or_another_time_is_none() -> None:
    now = [1000.0]
    found = Challenges(lambda: now[0])
    nonce = found.new()
    assert found.open(nonce)
    assert not Challenges(lambda: now[0]).open(nonce)
    for position in (0, 7, 8, 15, 16, 31):
        bent = bytearray(nonce)
        bent[position] ^= 1
        assert not found.open(bytes(bent)), position
    assert found.take(nonce)
    assert not found.take(nonce)
    now[0] = 1120.0
    assert not found.take(nonce)


def test_used_challenges_are_forgotten_with_their_time_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(challenges, "MAX_USED", 2)
    found = Challenges(lambda: now[0])
    nonces = [found.new() for _ in range(3)]
    assert [found.take(each) for each in nonces] == [True, True, False]
    now[0] = 119.0
    assert not found.take(nonces[0]), "still remembered"
    late = found.new()
    now[0] = 120.0
    assert found.take(late)
    assert len(found._used) == 1


def test_a_document_without_proof_uses_no_nonce_up(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        one, nonce = guest(X25519), made.nonce()
        others = Request(nonce, one.document(bytes(32)).encode(), ((RESOURCE, 1),))
        assert codes(made.send(others)) == ["evidence"]
        assert made.send(Request(nonce, one.document(nonce).encode(), ((RESOURCE, 1),)))[0] == 200


def test_one_nonce_is_good_once_even_for_two_at_the_same_time(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)

    def together(document: bytes, nonce: bytes) -> Judgement:
        both.wait()
        return judge(document, nonce)

    with desk(tmp_path) as made:
        made.broker.judge = together
        nonce = made.nonce()
        body = Request(nonce, guest(X25519).document(nonce).encode(), ((RESOURCE, 1),)).encode()
        with ThreadPoolExecutor(2) as pool:
            statuses = [each.status for each in pool.map(made.broker.release, [body, body])]
        assert sorted(statuses) == [200, 403]
        assert [each["kind"] for each in made.entries()].count("release") == 1


def test_a_nonce_is_given_back_when_the_store_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path) as made:
        nonce = made.nonce()
        request = Request(nonce, guest(X25519).document(nonce).encode(), ((RESOURCE, 1),))
        with monkeypatch.context() as patch:
            patch.setattr(head, "write", lambda *_: (_ for _ in ()).throw(HostError("store-full: no space")))
            assert made.send(request)[0] == 503
        assert made.send(request)[0] == 200
        assert codes(made.send(request)) == ["challenge"]


def test_a_genuine_machine_of_another_tee_is_refused_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if TDX were the other TEE: the verdict accepts the guest, but no policy can name its machine."""
    monkeypatch.setattr(module, "PLATFORMS", {})
    with desk(tmp_path) as made:
        assert codes(made.ask(guest(X25519))) == ["refused", "release-platform"]
        last = made.entries()[-1]
        assert (last["kind"], last["codes"], last["ppid"]) == ("refuse", ["release-platform"], "")


class Asked:
    """Collateral of a service, which was asked ``times`` times."""

    used = None
    times = 0

    def of_quote(self, tee: str, parsed: Document, *, carried: bool = False) -> None:
        assert carried
        self.times += 1

    def of_devices(self, found: Facts, *, own: bool) -> None:
        return None


def test_no_service_is_asked_about_a_document_that_is_refused_without_it() -> None:
    one, nonce, asked = guest(X25519), bytes(range(32)), Asked()

    def judged(document: Document, expected: Expected = EXPECTED) -> set[str]:
        found = attested.judge(
            document.encode(), expected, VERIFYING, now=attestation_samples.NOW, nonce=nonce, tls_spki_sha256=None,
            collateral=asked, carried=True,
        )  # fmt: skip
        return {each.code for each in found.verdict.refusals}

    assert "nonce" in judged(one.document(bytes(32)))
    assert "report-data" in judged(dataclasses.replace(one.document(nonce), keys=guest(X25519).keys.encode()))
    others = dataclasses.replace(samples.PREDICATE, launches=())
    assert "shapes" in judged(one.document(nonce), dataclasses.replace(EXPECTED, predicate=others))
    assert asked.times == 0
    assert judged(one.document(nonce)) == set()
    assert asked.times == 1


def test_published_measurements_are_fetched_once_in_some_seconds() -> None:
    now, asked = [0.0], []

    def source(at: int) -> Expected:
        asked.append(at)
        if at == 2:
            raise HostError("no repository")
        return EXPECTED

    recent = Recent(source, lambda: now[0])
    assert [recent(1), recent(1)] == [EXPECTED] * 2
    now[0] = 10.0
    for _ in range(2):
        with pytest.raises(HostError, match="no repository"):
            recent(2)
    now[0] = 20.0
    assert recent(3) == EXPECTED
    assert asked == [1, 2, 3]


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a serving guest": (
        {"purpose": "serve", "agent_events": attestation_samples.AGENT_EVENTS},
        ["refused", "rtmr3", "agent-events", "purpose", "stage"],
    ),
    "another image": (
        {"items": attestation_samples.extends(4 << 30, "console=ttyS0 init=/bin/sh")},
        ["refused", "rtmr2"],
    ),
    "further in its boot": (
        {"agent_events": attestation_samples.AGENT_EVENTS[:2]},
        ["refused", "rtmr3", "agent-events"],
    ),
    "no release key": ({"keys": attestation_samples.tls_keys(attestation_samples.SPKI)}, ["refused", "release-key"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_guest_that_is_another_one_is_refused_with_every_reason_and_logged(name: str, tmp_path: Path) -> None:
    changes, wanted = REFUSED[name]
    with desk(tmp_path) as made:
        answer = made.ask(guest(X25519), **changes)
        assert answer[0] == 403
        assert sorted(codes(answer)) == sorted(wanted)
        last = made.entries()[-1]
        assert (last["kind"], last["resource"]) == ("refuse", RESOURCE)
        assert sorted(last["codes"]) == sorted(wanted[1:])


def test_a_guest_that_is_another_one_learns_no_policy_and_writes_one_line(tmp_path: Path) -> None:
    """Anybody has a genuine machine: names, policies and the log are not for whoever has no more than that."""
    strange = {"items": attestation_samples.extends(4 << 30, "console=ttyS0 init=/bin/sh")}
    with desk(tmp_path, images=(bytes(32),), max_releases=0) as made:
        before = len(made.entries())
        names = [(f"model/none-{number}", 1) for number in range(31)]
        assert codes(made.ask(guest(X25519), *names, **strange)) == ["refused", "rtmr2"]
        assert codes(made.ask(guest(X25519), *names, (RESOURCE, 1), **strange)) == ["refused", "rtmr2"]
        assert [each["resource"] for each in made.entries()[before:]] == ["", RESOURCE]


def test_refusals_of_one_machine_are_logged_as_often_as_one_may_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusallimit, "PER_MACHINE", 2)
    with desk(tmp_path, max_releases=1) as made:
        now = [attestation_samples.NOW]
        made.broker.refusals = refusallimit.RefusalLimit(lambda: now[0])
        assert [made.ask(guest(X25519))[0] for _ in range(4)] == [200, 403, 403, 403]
        assert [each["kind"] for each in made.entries()[3:]] == ["release", "refuse", "refuse"]
        assert made.broker.refusals.unlogged == 1
        now[0] += 3600
        assert codes(made.ask(guest(X25519))) == ["refused", "release-limit"]
        assert len(made.entries()) == 7, "in the next hour again"


def test_machines_beyond_those_that_are_counted_share_one_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusallimit, "MACHINES", 3)
    limit = refusallimit.RefusalLimit(lambda: 0.0)
    admitted = sum(limit.admits(number.to_bytes(16, "big")) for number in range(1000))
    assert admitted == 3 + refusallimit.PER_MACHINE


def test_a_document_without_proof_is_one_code_and_not_logged(tmp_path: Path) -> None:
    """Whoever sends it may be anybody: neither the log nor the answer serves him."""
    with desk(tmp_path) as made:
        before = made.entries()
        one = guest(X25519)
        for bend in (
            lambda found: dataclasses.replace(found, keys=guest(X25519).keys.encode()),  # report-data
            lambda found: dataclasses.replace(found, evidence=found.evidence[:700] + b"x" + found.evidence[701:]),
            lambda found: dataclasses.replace(found, evidence=b""),
        ):
            nonce = made.nonce()
            bent = bend(one.document(nonce)).encode()
            answer = made.send(Request(nonce, bent, ((RESOURCE, 1),)))
            assert (answer[0], codes(answer)) == (403, ["evidence"])
        made.broker.judge = lambda document, nonce: judge(document, nonce, criteria=Policy(purpose="key-release"))
        assert codes(made.ask(one)) == ["evidence"], "a simulation where none is allowed"
        assert made.entries() == before


def test_what_the_owner_did_not_allow_is_refused(tmp_path: Path) -> None:
    with desk(tmp_path, images=(bytes(32),), max_releases=0, not_after=attestation_samples.NOW - 1) as made:
        answer = made.ask(guest(X25519))
        assert codes(answer) == ["refused", "release-expired", "release-image", "release-limit"]
        assert answer[1]["refusals"][0]["where"] == f"{RESOURCE} generation 1"
        assert codes(made.ask(guest(X25519), (RESOURCE, 2))) == [
            "refused", "release-resource", "release-expired", "release-image", "release-limit",
        ]  # fmt: skip
        assert codes(made.ask(guest(X25519), ("model/none", 1))) == ["refused", "release-resource"]


def test_a_retired_generation_is_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        second = resources.rotate(made.store, RESOURCE)
        resources.retire(made.store, RESOURCE, 1)
        assert codes(made.ask(guest(X25519))) == ["refused", "release-retired"]
        one = guest(X25519)
        said, keys = one.opened(made.ask(one, (RESOURCE, 2))[2], made.store.public)
        assert (said.resources[0].generation, keys) == (2, (second.key,))


def test_releases_are_counted_for_each_policy(tmp_path: Path) -> None:
    with desk(tmp_path, max_releases=2) as made:
        assert [made.ask(guest(X25519))[0] for _ in range(3)] == [200, 200, 403]
        resources.set_policy(made.store, signed(policy(serial=2, max_releases=1)))
        assert [made.ask(guest(X25519))[0] for _ in range(2)] == [200, 403]


def test_a_production_store_releases_to_no_simulation(tmp_path: Path) -> None:
    with desk(tmp_path, development=False) as made:
        assert codes(made.ask(guest(X25519))) == ["refused", "release-simulated"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 100, b" " * (1024 * 1024 + 1)])
def test_a_malformed_request_is_a_bad_request(body: bytes, tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        answer = made.broker.release(body)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "release-request")


def test_a_verifier_that_cannot_judge_is_503(tmp_path: Path) -> None:
    def fails(document: bytes, nonce: bytes) -> Judgement:
        raise HostError("no collateral of this platform")

    with desk(tmp_path) as made:
        made.broker.judge = fails
        answer = made.ask(guest(X25519))
        assert (answer[0], codes(answer)) == (503, ["verdict"])


def test_a_crash_between_log_and_answer_leaves_an_entry_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with desk(tmp_path, max_releases=2) as made, monkeypatch.context() as patch:
        patch.setattr(module, "seal", crash)
        with pytest.raises(KeyboardInterrupt):
            made.ask(guest(X25519))
    with store.opened(made.path, made.kek) as again:
        assert json.loads(list(again.lines())[-1])["kind"] == "release"
        assert resources.released(again, RESOURCE, policy(max_releases=2)) == 1
        made = Desk(
            made.path, made.kek, again, module.Broker(again, judge, lambda: attestation_samples.NOW), made.key
        )
        assert [made.ask(guest(X25519))[0] for _ in range(2)] == [200, 403], "it counts"


def test_nothing_is_answered_when_the_entry_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: with the entry written, the same request is answered."""
    with desk(tmp_path) as made:
        with monkeypatch.context() as patch:
            patch.setattr(head, "write", lambda *_: (_ for _ in ()).throw(HostError("store-full: no space")))
            assert made.ask(guest(X25519))[0] == 503
        with monkeypatch.context() as patch:
            patch.setattr(store.Store, "_log", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
            assert made.ask(guest(X25519))[0] == 503
        assert made.ask(guest(X25519))[0] == 200
        assert made.store.db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_release_key_that_cannot_be_sealed_to_is_refused(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        bad = guest(X25519)
        for each in bad.private:
            each.public = bytes(32)  # type: ignore[misc]
        assert codes(made.ask(bad)) == ["refused", "release-key"]


def test_root_resource_and_owner_keys_change_while_guests_run(tmp_path: Path) -> None:
    """A guest of the first generation gets its key after each of the changes."""
    with desk(tmp_path) as made:
        old = guest(X25519)
        made.store.rotate()
        resources.rotate(made.store, RESOURCE)
        resources.set_policy(made.store, signed(Owners(RESOURCE, samples.BROKER, 2, samples.role(2)), 0, 1))
        resources.set_policy(made.store, signed(policy(serial=3), 0, 1))
        assert old.opened(made.ask(old)[2], made.store.public)[1] == (made.key.key,)
    with store.opened(made.path, made.kek) as again:
        assert entry.check(again.lines(), [again.tree.head]).counts == {"admin": 7, "release": 1, "refuse": 0}


def test_a_verdict_on_the_release_key_proves_no_other_key() -> None:
    one, nonce = guest(X25519), bytes(range(32))
    keys = judge(one.document(nonce).encode(), nonce).keys
    assert keys is not None
    assert keys.binding is Binding.RELEASE_KEY
    assert keys.find("release", "x25519") == one.private[0].public
    assert keys.find(*TLS_KEY) is None
    assert keys.find(*CHANNEL_KEY) is None
    with pytest.raises(ValueError, match="a carried document for purpose `serve`"):
        judge(one.document(nonce).encode(), nonce, criteria=Policy())


def test_a_log_of_many_entries_is_checked_in_time() -> None:
    """Benchmarks measure how long 100,000 take; here a twentieth must not take what only a square would."""
    lines, prev = [], entry.START
    made = entry.Entry(entry.RELEASE, RESOURCE, 1, (), "11" * 32, "22" * 32, "33" * 16, "44" * 32, "55" * 32)
    for seq in range(5000):
        lines.append(made.line(seq, prev))
        prev = entry.digest(lines[-1])
    start = time.process_time()
    assert entry.check(lines).head.size == 5000
    assert time.process_time() - start < 10
    assert entry.check([]).head == LogHead(0, Tree().head.root)
