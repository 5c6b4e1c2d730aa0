"""What strangers can make a broker ask of AMD's service: a few requests a minute, one at a time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import attestation_samples as samples
import pcs_fake
import pytest
import snp_samples as snp
import test_client_kds as fetched
import test_keybroker_snp as broker
from broker_samples import Desk, desk
from pcs_fake import Service

from privml.base.errors import HostError
from privml.channel.release import Request
from privml.client import attested, kds, kdslimit
from privml.client import supply as supplies
from privml.client.collateral import Cache
from privml.client.kdslimit import RETRY, Limit, LimitError
from privml.client.requests import UnansweredError
from privml.evidence.document import Document
from privml.sim import snpreport as sim
from privml.verify.anchor import Built, Expected
from privml.verify.policy import Policy

NOW = float(samples.NOW)


@pytest.fixture
def service(no_proxy: None) -> Iterator[Service]:
    with pcs_fake.running(Service(fetched.answers())) as running:
        yield running


def invented(number: int, document: Document = fetched.BARE) -> Document:
    """A document whose report nobody signed, of a chip that is not."""
    own = bytearray(document.evidence)
    own[0x1A0:0x1E0] = (number + 1).to_bytes(64)
    own[0x2A0:] = (b"\1" * 48 + bytes(24)) * 2 + bytes(len(own) - 0x2A0 - 144)
    return dataclasses.replace(document, evidence=bytes(own), certificates=(), collateral=None)


def test_unsigned_documents_ask_a_broker_s_service_six_times_a_minute(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kds.SERVICE, service.url)
    clock = [NOW]
    source = supplies.Supply(
        None, simulated_root=snp.ROOT, cache=Cache(tmp_path / "cache"), clock=lambda: clock[0], fetch_reports=True
    )
    criteria = Policy(purpose="key-release", allow_simulated=snp.ROOT, snp=snp.WANTED)
    expected = Expected(broker.PREDICATE, Built("a"))

    def send(made: Desk, number: int) -> int:
        nonce = made.nonce()
        document = invented(number, broker.guest().document(nonce))
        return made.send(Request(nonce, document.encode(), ((broker.RESOURCE, 1),)))[0]

    with desk(tmp_path, images=(broker.IMAGE,), snp=broker.RELEASE) as made:
        made.broker.judge = lambda data, nonce: attested.judge(
            data,
            expected,
            criteria,
            now=samples.NOW,
            nonce=nonce,
            tls_spki_sha256=None,
            collateral=source,
            carried=True,
        )
        assert {send(made, number) for number in range(20)} == {403}
        assert len(service.asked) == 1 + kdslimit.PER_MINUTE
        clock[0] += 60
        send(made, 20)
        assert len(service.asked) == 2 + kdslimit.PER_MINUTE
        clock[0] += 60
        assert made.ask(broker.guest())[0] == 200, "an honest guest"


def test_a_document_with_its_chain_needs_no_request_when_all_are_used(service: Service, tmp_path: Path) -> None:
    source = fetched.supply(service.url, tmp_path)
    for number in range(10):
        assert source(invented(number), carried=True) is None
    own = dataclasses.replace(fetched.BARE, certificates=sim.certificates())
    assert source(own, carried=True) == fetched.WHOLE
    assert source(fetched.BARE, carried=True) is None
    assert source(fetched.BARE) == fetched.WHOLE, "one that the caller asked about has no share"


def test_no_answer_holds_up_every_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, now = [], [NOW]

    def refuse(self: object, url: str) -> object:
        asked.append(url)
        raise UnansweredError("timed out")

    monkeypatch.setattr("privml.client.requests.Requests.get", refuse)
    source = kds.Supply("http://127.0.0.1:1", directory=tmp_path, clock=lambda: now[0])
    milan = sim.make_report(bytes(48), bytes(64), {0x188: b"\x19\1\1"})
    others = dataclasses.replace(fetched.BARE, evidence=milan)
    for document in (fetched.BARE, others):
        assert source(document) is None
    assert len(asked) == 1
    now[0] += RETRY
    assert source(others) is None
    assert len(asked) == 2


@pytest.mark.parametrize(("status", "asked_again"), [(429, 0), (404, 1)])
def test_too_many_requests_is_about_the_service(
    status: int, asked_again: int, service: Service, tmp_path: Path
) -> None:
    source = fetched.supply(service.url, tmp_path)
    service.answers[fetched.LEAF_PATH] = (status, {}, b"")
    assert source(fetched.BARE) is None
    before = len(service.asked)
    assert source(invented(1)) is None
    assert len(service.asked) - before == asked_again


def test_one_request_for_carried_documents_at_a_time() -> None:
    limit = Limit()
    with limit.turn(leaf=True, carried=True, now=NOW):
        with pytest.raises(LimitError, match="under way"), limit.turn(leaf=False, carried=True, now=NOW):
            pass
        with limit.turn(leaf=True, carried=False, now=NOW):
            pass
    with contextlib.suppress(HostError), limit.turn(leaf=True, carried=True, now=NOW):
        raise HostError("failed")
    with limit.turn(leaf=False, carried=True, now=NOW):
        pass


def test_failed_routes_are_remembered_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody's report says which certificate is asked for."""
    monkeypatch.setattr(kdslimit, "_MAX_FAILED", 2)
    limit = Limit()
    for route in ("a", "b", "c"):
        limit.note_failure(route, NOW, answered=True)
    assert [limit.holds(route, NOW) for route in ("a", "b", "c", "d")] == [False, True, True, False]
