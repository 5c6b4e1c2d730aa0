"""Where the collateral of a document comes from: cache, service, document; and what is served from the cache."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attestation_samples as samples
import guest_fake
import pcs_fake
import pytest
from pcs_fake import FEBRUARY_2026, INTEL, Service

from privml.base.errors import EvidenceError, HostError, Refused, UsageError
from privml.base.strictjson import canonical
from privml.client import attested, pccs, pcs
from privml.client import collateral as cached
from privml.client.collateral import DAY, HOUR, Cache, Entry
from privml.client.listening import port_sockets
from privml.client.supply import Supply
from privml.evidence.tdx.platform import Platform
from privml.sim import pki
from privml.sim import quote as sim
from privml.verify.verdict import Outcome

PLATFORM = Platform(pki.FMSPC.hex(), "processor")
SIMULATED = cached.anchors(samples.ROOT)[1]
NOW = samples.NOW
DOCUMENT = samples.document()
BARE = dataclasses.replace(DOCUMENT, collateral=None)


@pytest.fixture
def service(no_proxy: None) -> Iterator[Service]:
    with pcs_fake.running(Service(pcs_fake.answers_of(sim.collateral()))) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "collateral")


def entry(fetched: int = NOW, fields: dict[str, str] | None = None) -> Entry:
    return cached.judged(fields or sim.collateral(), (SIMULATED,), fetched=fetched, source="https://pccs.example")


def supply(cache: Cache, service: Service | None, now: int = NOW) -> Supply:
    where = None if service is None else pcs.service(service.url)
    return Supply(where, simulated_root=samples.ROOT, cache=cache, clock=lambda: now)


def signed_again(**members: object) -> dict[str, str]:
    """Collateral of the simulation whose TCB info and QE identity say something else."""
    found = dict(sim.collateral())
    for name, value in (("tcb_info", pki.tcb_info_json()), ("qe_identity", pki.qe_identity_json())):
        found[name] = json.dumps({**value, **members})
        found[f"{name}_signature"] = sim.sign(sim.private_key("tcb signing"), found[name].encode()).hex()
    return found


LATER = signed_again(tcbEvaluationDataNumber=1001)
SHORT = signed_again(nextUpdate="2026-02-01T00:00:00Z")
SHORT_END = 1_769_904_000


# --- the cache ------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_found_again_with_its_date(cache: Cache) -> None:
    cache.put(entry(NOW - 5))
    assert cache.find(PLATFORM, SIMULATED) == entry(NOW - 5)
    assert list(cache.entries(cached.anchors(samples.ROOT))) == [entry(NOW - 5)]
    assert cache.find(INTEL, cached.INTEL) is None
    assert [path.name for path in cache.directory.iterdir()] == ["tdx-53494d554c41-processor.json"]


def test_a_cache_file_of_somebody_else_is_ignored(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """The folder needs no trust: each file is checked when it is read."""
    cache.put(entry())
    assert cache.find(PLATFORM, cached.INTEL) is None  # the simulation's root is not Intel's
    path = next(cache.directory.iterdir())
    text = path.read_text()
    path.write_text(text.replace('DataNumber\\":1000', 'DataNumber\\":1001'))
    assert cache.find(PLATFORM, SIMULATED) is None
    assert "collateral-signature: tcb_info" in caplog.text
    path.write_text(text.replace("privml-collateral/v1", "privml-collateral/v2"))
    assert cache.find(PLATFORM, SIMULATED) is None
    path.write_text(text)
    path.rename(path.with_name(f"tdx-{INTEL.fmspc}-{INTEL.ca}.json"))
    assert cache.find(INTEL, SIMULATED) is None


@pytest.mark.parametrize(
    ("fetched", "now", "due"),
    [
        (NOW, NOW + HOUR, False),
        (NOW, NOW + DAY - 1, False),
        (NOW, NOW + DAY, True),
        (NOW, NOW - 1, True),  # the clock was set back, so the date means nothing
    ],
)
def test_collateral_is_due_after_a_day(fetched: int, now: int, *, due: bool) -> None:
    assert entry(fetched).due(now) is due


def test_collateral_is_due_before_it_expires() -> None:
    """TCB info of 30 days is fetched again in its last quarter, at most once an hour."""
    with pcs_fake.running(Service()) as running:
        found = cached.fetch(pcs.service(running.url), INTEL, cached.INTEL, now=FEBRUARY_2026)
    expires = found.contents.expires_first.expires
    early, late = expires - 8 * DAY, expires - 7 * DAY
    assert not dataclasses.replace(found, fetched=early - 2 * HOUR).due(early)
    assert dataclasses.replace(found, fetched=late - 2 * HOUR).due(late)
    assert not dataclasses.replace(found, fetched=late - HOUR + 1).due(late)


def test_older_collateral_does_not_replace_newer(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    later = entry(NOW - 9, LATER)
    cache.put(later)
    kept = cache.newest(entry(NOW), SIMULATED, now=NOW)
    assert (kept.fields, kept.fetched) == (later.fields, NOW)
    assert "sent older collateral" in caplog.text
    cache.put(entry(NOW - 9))
    assert cache.newest(later, SIMULATED, now=NOW) is later


# --- the supply of a document ---------------------------------------------------------------------------------------


def test_collateral_is_fetched_once_and_then_cached(cache: Cache, service: Service) -> None:
    for _ in range(2):
        assert supply(cache, service).of_quote("tdx", BARE) == sim.collateral()
    assert len(service.asked) == 4
    assert supply(cache, service, NOW + DAY).of_quote("tdx", BARE) == sim.collateral()
    assert len(service.asked) == 8
    found = cache.find(PLATFORM, SIMULATED)
    assert found is not None
    assert found.fetched == NOW + DAY


def test_without_a_network_the_cache_is_used(cache: Cache) -> None:
    assert supply(cache, None).of_quote("tdx", BARE) is None
    cache.put(entry())
    assert supply(cache, None, NOW + 300 * DAY).of_quote("tdx", BARE) == sim.collateral()


def test_what_the_caller_fetched_goes_before_the_documents_own(cache: Cache, service: Service) -> None:
    service.answers.update(pcs_fake.answers_of(LATER))
    assert DOCUMENT.collateral is not None
    assert supply(cache, service).of_quote("tdx", DOCUMENT) == LATER


def test_while_the_service_is_down_the_old_one_is_used(
    cache: Cache, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(entry(NOW - 2 * DAY))
    service.change(pcs_fake.TCB, status=500)
    asking = supply(cache, service)
    assert asking.of_quote("tdx", BARE) == sim.collateral()
    assert "status 500, expected 200; using what is cached, good until 2049-12-31" in caplog.text
    asked = len(service.asked)
    assert asking.of_quote("tdx", BARE) == sim.collateral()
    assert len(service.asked) == asked  # the next try is a minute later


def test_while_the_service_is_down_the_documents_own_is_used(
    cache: Cache, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.change(pcs_fake.QE, status=404)
    assert supply(cache, service).of_quote("tdx", DOCUMENT) is None
    assert "using the collateral in the document" in caplog.text


def test_with_none_from_anywhere_nothing_can_be_judged(cache: Cache, service: Service) -> None:
    service.change(pcs_fake.QE, status=404)
    with pytest.raises(HostError, match=r"no collateral of FMSPC 53494D554C41, processor CA: .* status 404") as found:
        supply(cache, service).of_quote("tdx", BARE)
    assert "--update standard" in (found.value.hint or "")


def test_expired_collateral_is_not_used(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    cache.put(entry(NOW, SHORT))
    assert supply(cache, None, SHORT_END).of_quote("tdx", BARE) is not None
    assert supply(cache, None, SHORT_END + 1).of_quote("tdx", BARE) is None
    assert "expired" in caplog.text


def test_intel_is_not_asked_about_a_simulation(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcs, "fetch", lambda *_, **__: pytest.fail("asked"))
    asking = Supply(pcs.service(), simulated_root=samples.ROOT, cache=cache, clock=lambda: NOW)
    assert asking.of_quote("tdx", BARE) is None
    assert (
        Supply(pcs.service(), cache=cache, clock=lambda: NOW).of_quote("tdx", BARE) is None
    )  # its chain is not Intel's
    assert asking.of_quote("snp", BARE) is None


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert supply(Cache(tmp_path / "file" / "cache"), service).of_quote("tdx", BARE) == sim.collateral()
    assert "cannot be written" in caplog.text


def test_a_guest_without_collateral_is_judged_with_what_is_fetched(cache: Cache, service: Service) -> None:
    """As `verify URL` and `proxy` do it."""
    guest = guest_fake.Guest()

    def bare(nonce: bytes) -> bytes:
        made = samples.document(guest.items, nonce=nonce, spki=guest.spki)
        return dataclasses.replace(made, collateral=None).encode()

    guest.document = bare
    with guest_fake.running(guest):
        arguments = (guest.url, samples.EXPECTED, samples.SIMULATED)
        without = attested.attest(*arguments, now=NOW, collateral=supply(cache, None))
        assert [one.code for one in without.judgement.verdict.refusals] == ["collateral-missing"]
        found = attested.attest(*arguments, now=NOW, collateral=supply(cache, service))
    assert found.judgement.verdict.outcome is Outcome.ACCEPTED_SIMULATED


# --- files of a person ----------------------------------------------------------------------------------------------


def test_a_file_has_the_nine_fields_or_is_of_a_cache(cache: Cache, tmp_path: Path) -> None:
    among = cached.anchors(samples.ROOT)
    plain = tmp_path / "plain.json"
    plain.write_bytes(canonical(sim.collateral()))
    found = cached.read_file(plain, among)
    assert (found.fields, found.fetched, found.source) == (sim.collateral(), None, str(plain))
    cache.put(entry())
    assert cached.read_file(next(cache.directory.iterdir()), among) == entry()
    assert cached.read_directory(tmp_path, among) == ([found], [])


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"{}", EvidenceError, "collateral.pck_crl_issuer_chain: missing"),
        (b"[]", EvidenceError, "expected an object"),
        (b'{"format": "x"}', EvidenceError, "expected one of privml-collateral/v1"),
        (canonical({**sim.collateral(), "tcb_info": "{}"}), Refused, "collateral-signature"),
    ],
)
def test_another_file_is_named(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as found:
        cached.read_file(path, (SIMULATED,))
    assert str(path) in str(found.value)


def test_no_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        cached.read_file(tmp_path / "none", cached.anchors())


# --- serving the cache ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(cache: Cache, now: int = NOW) -> Iterator[str]:
    """The server of `collateral serve` on a free port."""
    server = pccs.server(cache, cached.anchors(samples.ROOT), clock=lambda: now)
    (bound,) = port_sockets("127.0.0.1", 0)
    port = bound.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        end = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def get(url: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_what_is_served_can_be_fetched_unchanged(cache: Cache, no_proxy: None) -> None:
    cache.put(entry())
    with serving(cache) as url:
        found = cached.fetch(pcs.service(url), PLATFORM, SIMULATED, now=NOW)
        assert found.fields == sim.collateral()
        crl = f"{pcs.SGX}/pckcrl?ca=processor"
        assert get(url, crl) == (200, sim.collateral()["pck_crl"].encode())
        assert get(url, f"{crl}&encoding=der") == (200, bytes.fromhex(sim.collateral()["pck_crl"]))
        assert get(url, f"{pcs.SGX}/pckcrl?ca=platform")[0] == 404
        status, text = get(url, f"{pcs.TDX}/tcb?fmspc=90C06F000000")
        assert (status, b"no TCB info of FMSPC 90C06F000000" in text) == (404, True)
        assert get(url, f"{pcs.TDX}/tcb?fmspc=x")[0] == 400
        assert get(url, "/")[0] == 404


def test_expired_collateral_is_not_served(cache: Cache) -> None:
    cache.put(entry(NOW, SHORT))
    with serving(cache) as url:
        for path in (f"{pcs.SGX}/rootcacrl", f"{pcs.TDX}/qe/identity", f"{pcs.SGX}/pckcrl?ca=processor"):
            assert get(url, path)[0] == 404


def test_the_port_of_another_is_named(cache: Cache) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"cannot listen on 127.0.0.1:{port}"):
            pccs.serve(("127.0.0.1", port), cache, cached.anchors())


def test_requests_are_logged(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="privml"), serving(cache) as url:
        get(url, f"{pcs.SGX}/rootcacrl?x=%1b")
    assert "/sgx/certification/v4/rootcacrl x=%1b: 404" in caplog.text
