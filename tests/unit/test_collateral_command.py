"""`collateral fetch|show|serve`, and what `verify` and `proxy` do with it."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import attestation_samples as samples
import guest_fake
import pcs_fake
import pytest
import uvicorn
from pcs_fake import FEBRUARY_2026, PCK_CRL, QE, TCB, Service
from test_cli_main import image

from privml.base.errors import HostError
from privml.cli import anchor
from privml.cli.main import main
from privml.client import pcs
from privml.client.supply import SERVICE, Supply
from privml.evidence.bundle import Bundle
from privml.evidence.tdx import collateral as nine
from privml.sim import quote as sim
from privml.verify.policy import Policy

NAMED = ("--fmspc", "90c06f000000", "--ca", "platform")
QUOTE = str(samples.VECTORS / "tdx_quote.bin")
SAMPLE = samples.VECTORS / "tdx_quote_collateral.json"
OTHER_TCB = (pcs_fake.PCS / "tcb_info_00a06d080000.json").read_bytes()
LINE = "FMSPC 90C06F000000, platform CA: evaluation 18, expires 2026-02-11 15:46 UTC (TCB info)"


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    before, level, handlers = signal.getsignal(signal.SIGTERM), logging.root.level, logging.root.handlers[:]
    yield
    signal.signal(signal.SIGTERM, before)
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, an empty cache, and a day in February 2026."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SERVICE, raising=False)
    monkeypatch.setattr("privml.client.collateral.cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(time, "time", lambda: float(FEBRUARY_2026))
    return tmp_path


@pytest.fixture
def service(place: Path, no_proxy: None) -> Iterator[Service]:
    with pcs_fake.running(Service()) as running:
        yield running


class Outcome:
    def __init__(
        self, capsys: pytest.CaptureFixture[str], *words: str, verb: tuple[str, ...] = ("collateral",)
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main([*verb, *words])
        self.code = caught.value.code
        self.stdout, self.stderr = capsys.readouterr()


def test_fetch_and_show(place: Path, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "fetch", *NAMED, "--service", service.url)
    assert outcome.code == 0
    assert outcome.stdout.splitlines()[:2] == [LINE, f"  fetched 2026-02-02 02:40 UTC from {service.url}"]
    assert outcome.stderr == f"written to {place / 'cache'}\n"
    shown = Outcome(capsys, "show")
    assert (shown.code, shown.stdout) == (0, outcome.stdout)
    rows = [line for line in shown.stdout.splitlines() if line.startswith("  TCB info: ")]
    assert rows == ["  TCB info: 2026-01-12 15:46 UTC to 2026-02-11 15:46 UTC, by Intel SGX TCB Signing"]
    (found,) = json.loads(Outcome(capsys, "show", "--json").stdout)["tdx"]
    assert (found["fmspc"], found["ca"], found["evaluation_number"]) == ("90c06f000000", "platform", 18)
    assert (found["fetched"], found["expired"]) == (FEBRUARY_2026, False)
    assert found["expires"] == min(part["expires"] for part in found["parts"])


def test_fetch_without_a_source_fetches_all_again(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Outcome(capsys, "fetch", "--service", service.url)
    assert (empty.code, "nothing to fetch: the cache is empty" in empty.stderr) == (2, True)
    Outcome(capsys, "fetch", *NAMED, "--service", service.url)
    service.asked.clear()
    assert Outcome(capsys, "fetch", "--service", service.url).code == 0
    assert len(service.asked) == 4


def test_one_service_that_fails_does_not_lose_the_others(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, "fetch", QUOTE, *NAMED, "--service", service.url)
    assert outcome.code == 8  # the stand-in has the TCB info of one FMSPC only
    assert outcome.stdout.startswith(LINE)
    assert "collateral-platform: got FMSPC 90C06F000000" in outcome.stderr


def test_out_writes_what_verify_reads(place: Path, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fetch", *NAMED, "--service", service.url, "--out", "c.json")
    assert Outcome(capsys, *words, "--update", "standard").code == 0
    assert service.asked[1].endswith("update=standard")
    assert not (place / "cache").exists()
    fields = json.loads((place / "c.json").read_text())
    assert set(fields) == set(nine.FIELDS)
    source = anchor.collateral_of(place / "c.json", None, offline=False, policy=Policy())
    assert isinstance(source, Supply)
    assert source.of_quote("tdx", samples.document()) == fields
    shown = Outcome(capsys, "show", "c.json")
    assert shown.stdout.splitlines()[:2] == [LINE, "  read from c.json"]
    assert json.loads(Outcome(capsys, "show", "c.json", "--json").stdout)["tdx"][0]["fetched"] is None


def test_from_a_directory_without_a_network(
    place: Path, service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Outcome(capsys, "fetch", *NAMED, "--service", service.url, "--out", "a.json")
    (place / "old.json").write_bytes((samples.VECTORS / "tdx_quote_collateral.json").read_bytes())
    (place / "other.json").write_text("[]")
    monkeypatch.setattr(pcs, "fetch", lambda *_, **__: pytest.fail("asked"))
    outcome = Outcome(capsys, "fetch", "--from", ".")
    assert (outcome.code, outcome.stdout.splitlines()[0]) == (0, LINE)
    assert "skipped old.json: collateral-expired: TCB info: valid to 2025-07-19" in outcome.stderr
    assert "skipped other.json: collateral: an array, expected an object" in outcome.stderr
    assert Outcome(capsys, "show").stdout == outcome.stdout
    # A copy of a cache keeps the date of its fetch.
    (place / "cache").rename(place / "copy")
    later = float(FEBRUARY_2026 + 3600)
    monkeypatch.setattr(time, "time", lambda: later)
    assert Outcome(capsys, "fetch", "--from", "copy").stdout == outcome.stdout
    wrong = Outcome(capsys, "fetch", QUOTE, "--from", "copy")
    assert (wrong.code, "no collateral of FMSPC B0C06F000000" in wrong.stderr) == (2, True)


def test_a_quote_and_a_document_name_their_platform(
    place: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    Outcome(capsys, "fetch", QUOTE, "--service", service.url)
    assert "fmspc=B0C06F000000&" in service.asked[1]
    (place / "doc.json").write_bytes(samples.document().encode())
    genuine = dataclasses.replace(samples.document(), evidence=Path(QUOTE).read_bytes())
    (place / "bundle.json").write_bytes(Bundle(genuine.encode(), bytes(32), bytes(32), 0).encode())
    service.asked.clear()
    Outcome(capsys, "fetch", "bundle.json", "--service", service.url)
    assert "fmspc=B0C06F000000&" in service.asked[1]
    simulated = Outcome(capsys, "fetch", "doc.json", "--service", service.url)
    assert (simulated.code, "doc.json: pck-chain" in simulated.stderr) == (8, True)
    (place / "junk").write_bytes(b"junk")
    assert Outcome(capsys, "fetch", "junk").code == 9
    assert Outcome(capsys, "fetch", "nowhere").code == 2


@pytest.mark.parametrize(
    ("path", "status", "body", "code", "message"),
    [
        (TCB, 404, None, 5, "tcb?fmspc=90C06F000000&update=early: status 404, expected 200"),
        (QE, 500, None, 5, "qe/identity?update=early: status 500, expected 200"),
        (PCK_CRL, None, b"<html>", 9, "pck_crl: neither DER nor hex"),
        (TCB, None, OTHER_TCB, 8, "collateral-platform: got FMSPC 00A06D080000"),
    ],
)  # fmt: skip
def test_each_failure_has_its_exit_code(
    service: Service,
    capsys: pytest.CaptureFixture[str],
    path: str,
    status: int | None,
    body: bytes | None,
    code: int,
    message: str,
) -> None:
    service.change(path, status=status, body=body)
    outcome = Outcome(capsys, "fetch", *NAMED, "--service", service.url)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert message in outcome.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fetch", "--fmspc", "90c06f000000"), "--fmspc and --ca belong together"),
        (("fetch", "--fmspc", "x", "--ca", "platform"), "FMSPC `x`: expected 12 hex digits"),
        (("fetch", *NAMED, "--update", "standard"), "needs --out FILE"),
        (("fetch", *NAMED, "--from", ".", "--service", "http://x"), "--from takes what is in a directory"),
        (("fetch", *NAMED, "--service", "http://me:secret@x"), "holds a user or password"),
        (("fetch", QUOTE, *NAMED, "--out", "x"), "2 kinds of platforms, expected one"),
        (("serve", "--listen", "8081"), "expected HOST:PORT"),
        (("fetch", "--from", "."), "no collateral in its files"),
    ],
)
def test_wrong_usage(place: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    outcome = Outcome(capsys, *words)
    assert outcome.code == 2
    assert message in outcome.stderr
    assert "secret" not in outcome.stderr


def test_an_empty_cache_says_how_to_fill_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "show")
    assert (outcome.code, outcome.stdout) == (0, "")
    assert "nothing is cached" in outcome.stderr
    assert json.loads(Outcome(capsys, "show", "--json").stdout) == {"tdx": [], "snp": [], "nvidia": []}


def test_the_environment_names_the_service(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVICE, f"{service.url}/tdx/certification/v4/")
    assert Outcome(capsys, "fetch", *NAMED).code == 0
    assert len(service.asked) == 4


def test_verify_and_proxy_ask_the_service_unless_offline(place: Path, service: Service) -> None:
    """The supply that both give to the judge; a file goes before it."""
    policy = Policy()
    for address, offline, expected in ((None, False, pcs.INTEL_PCS), (service.url, False, service.url)):
        found = anchor.collateral_of(None, address, offline=offline, policy=policy)
        assert isinstance(found, Supply)
        assert found.where is not None
        assert found.where.base == expected
    offline_supply = anchor.collateral_of(None, service.url, offline=True, policy=policy)
    assert isinstance(offline_supply, Supply)
    assert offline_supply.where is None
    # As of another time, what is cached or fetched now would be from the future.
    assert anchor.collateral_of(None, service.url, offline=False, policy=policy, past=True) is None
    assert anchor.collateral_of(SAMPLE, None, offline=False, policy=policy, past=True) == json.loads(
        SAMPLE.read_bytes()
    )


def test_verify_fetches_what_a_guest_does_not_send(
    place: Path, no_proxy: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: float(samples.NOW))
    guest = guest_fake.Guest()

    def bare(nonce: bytes) -> bytes:
        made = samples.document(guest.items, nonce=nonce, spki=guest.spki)
        return dataclasses.replace(made, collateral=None).encode()

    guest.document = bare
    (place / "root.pem").write_bytes(sim.root_pem())
    anchored = ("--expect", str(image(place)), "--allow-simulated", "root.pem")
    with guest_fake.running(guest), pcs_fake.running(Service(pcs_fake.answers_of(sim.collateral()))) as service:
        words = ("verify", guest.url, *anchored)
        offline = Outcome(capsys, *words, "--offline", "--collateral-service", service.url, verb=())
        assert (offline.code, "collateral-missing" in offline.stdout, service.asked) == (8, True, [])
        fetched = Outcome(capsys, *words, "--collateral-service", service.url, "--save", "b.json", verb=())
        assert fetched.code == 10, fetched.stdout + fetched.stderr
        asked = len(service.asked)
        again = Outcome(capsys, *words, "--offline", verb=())  # from the cache
        assert (again.code, len(service.asked)) == (10, asked)
        # A bundle has what was fetched, and needs neither cache nor service when it is judged as of its time.
        (place / "cache").rename(place / "away")
        saved = Outcome(capsys, "verify", "b.json", *anchored, "--at", "bundle", verb=())
        assert (saved.code, len(service.asked)) == (10, asked), saved.stdout
        (place / "away").rename(place / "cache")
        service.answers.clear()
        (place / "cache" / "tdx-53494d554c41-processor.json").unlink()
        nothing = Outcome(capsys, *words, "--collateral-service", service.url, verb=())
        assert (nothing.code, nothing.stdout) == (5, "")
        assert "no collateral of FMSPC 53494D554C41, processor CA" in nothing.stderr


def test_verify_of_a_file_asks_nobody_unless_a_service_is_named(
    place: Path, service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(where: pcs.Service, *_: object, **__: object) -> dict[str, str]:
        asked.append(where.base)
        raise HostError("no network")

    monkeypatch.setattr(pcs, "fetch", fetch)
    genuine = dataclasses.replace(samples.document(), evidence=Path(QUOTE).read_bytes(), collateral=None)
    (place / "doc.json").write_bytes(genuine.encode())
    words = ("verify", "doc.json", "--expect", str(image(place)))
    outcome = Outcome(capsys, *words, verb=())
    assert (outcome.code, "collateral-missing" in outcome.stdout, asked) == (8, True, [])
    outcome = Outcome(capsys, *words, "--collateral-service", service.url, verb=())
    assert (outcome.code, asked) == (5, [service.url])
    monkeypatch.setenv(SERVICE, service.url)
    assert Outcome(capsys, *words, verb=()).code == 5
    assert Outcome(capsys, *words, "--offline", verb=()).code == 8


def test_inspect_judges_a_bare_quote_with_what_is_cached(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_750_420_000.0)
    assert Outcome(capsys, "inspect", QUOTE, verb=()).stdout.startswith("NOT PROVEN")
    (place / "c.json").write_bytes((samples.VECTORS / "tdx_quote_collateral.json").read_bytes())
    assert Outcome(capsys, "fetch", "--from", ".").code == 0
    assert Outcome(capsys, "inspect", QUOTE, verb=()).stdout.startswith("GENUINE")


def test_serve_says_where_and_what(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda _, sockets: sockets[0].getsockname())
    outcome = Outcome(capsys, "serve", "--listen", "127.0.0.1:0")
    assert outcome.code == 0
    assert re.fullmatch(rf"serving {re.escape(str(place / 'cache'))} on 127\.0\.0\.1:[1-9][0-9]*\n", outcome.stderr)
