"""Collateral from AMD's key distribution service: fetched, kept, checked at each use, and never taken on trust."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import attestation_samples as samples
import pcs_fake
import pytest
import snp_samples as snp
from pcs_fake import Sent, Service
from test_collateral_command import Outcome
from tests.published import read

from privml.base.errors import UsageError
from privml.cli import anchor
from privml.client import kds
from privml.client import supply as supplies
from privml.client.collateral import Cache
from privml.client.kds import Supply
from privml.evidence.certificates import decode_pem
from privml.evidence.claims import SignatureFailure
from privml.evidence.document import Document
from privml.evidence.snp import signature
from privml.evidence.snp.claims import ReportFacts
from privml.sim import snppki
from privml.sim import snpreport as sim

LEAF, ISSUER, ROOT = sim.certificates()
CRL = bytes.fromhex(sim.collateral()["crl"])
BARE = dataclasses.replace(snp.document(), certificates=(), collateral=None)
LEAF_PATH = f"/vcek/v1/Genoa/{snppki.CHIP_ID.hex()}"
QUERY = "blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84"
CHAIN, LIST = "/vcek/v1/Genoa/cert_chain", "/vcek/v1/Genoa/crl"


def pem(*certificates: bytes) -> str:
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates))


WHOLE = {"certificates": pem(LEAF, ISSUER, ROOT), "crl": CRL.hex()}


def answers() -> dict[str, Sent]:
    """What AMD's service would send of the simulated chip, its chain with Windows' line ends."""
    chain = pem(ISSUER, ROOT).replace("\n", "\r\n").encode()
    return {LEAF_PATH: (200, {}, LEAF), CHAIN: (200, {}, chain), LIST: (200, {}, CRL)}


@pytest.fixture
def service(no_proxy: None) -> Iterator[Service]:
    with pcs_fake.running(Service(answers())) as running:
        yield running


def supply(where: str | None, folder: Path, now: float = samples.NOW) -> Supply:
    return Supply(where, simulated_root=snp.ROOT, directory=folder, clock=lambda: now)


def test_everything_is_fetched_once_and_the_list_each_day(service: Service, tmp_path: Path) -> None:
    assert supply(service.url, tmp_path)(BARE) == WHOLE
    assert service.asked == [CHAIN, f"{LEAF_PATH}?{QUERY}", LIST]
    for path in tmp_path.iterdir():
        os.utime(path, (samples.NOW, samples.NOW))
    service.asked.clear()
    assert supply(service.url, tmp_path, samples.NOW + 3600)(BARE) == WHOLE
    assert service.asked == []
    assert supply(service.url, tmp_path, samples.NOW + 90_000)(BARE) == WHOLE
    assert service.asked == [LIST]
    assert supply(None, tmp_path, samples.NOW + 900_000)(BARE) == WHOLE


def test_what_the_guest_sent_is_not_asked_for(service: Service, tmp_path: Path) -> None:
    assert supply(service.url, tmp_path)(snp.document()) == WHOLE
    assert service.asked == [LIST]
    assert supply(None, tmp_path / "empty")(snp.document()) == WHOLE  # its own list
    service.asked.clear()
    only_leaf = dataclasses.replace(BARE, certificates=(LEAF,))
    assert supply(service.url, tmp_path / "other")(only_leaf) == WHOLE
    assert service.asked == [CHAIN, f"{LEAF_PATH}?{QUERY}", LIST][::2]


def test_a_certificate_of_another_tcb_version_is_replaced(service: Service, tmp_path: Path) -> None:
    old = snppki.chain(snppki.Variation(tcb={**snppki.TCB, "ucode": 1}))
    assert supply(service.url, tmp_path)(dataclasses.replace(BARE, certificates=old)) == WHOLE
    assert f"{LEAF_PATH}?{QUERY}" in service.asked


WRONG: dict[str, tuple[str, Sent, str]] = {
    "no certificate": (LEAF_PATH, (404, {}, b""), "status 404"),
    "too often": (LEAF_PATH, (429, {}, b""), "status 429"),
    "another certificate": (LEAF_PATH, (200, {}, ISSUER), "report certificate"),
    "too large": (LEAF_PATH, (200, {}, bytes(5000)), "larger than 4096 bytes"),
    "another chain": (CHAIN, (200, {}, pem(ROOT, ISSUER).encode()), "2 certificates, expected the issuer's"),
    "no chain": (CHAIN, (200, {}, b"nothing"), "expected PEM certificates"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named_and_not_kept(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path, answer, words = WRONG[name]
    service.answers[path] = answer
    asking = supply(service.url, tmp_path)
    assert asking(BARE) is None
    assert words in caplog.text
    assert not list(tmp_path.glob("*.der"))
    asked = len(service.asked)
    assert asking(BARE) is None
    assert len(service.asked) == asked  # a minute passes before the next try


@pytest.mark.parametrize(
    "data",
    [b"nothing", snppki.revocation_list(snppki.Variation(product="Turin")),
     snppki.revocation_list(snppki.Variation(list_dates=(snppki.NOT_BEFORE, snppki.NOT_BEFORE)))],
)  # fmt: skip
def test_a_list_that_is_not_valid_is_left_out(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    service.answers[LIST] = (200, {}, data)
    assert supply(service.url, tmp_path)(BARE) == {"certificates": WHOLE["certificates"]}
    assert "crl" in caplog.text
    assert not list(tmp_path.glob("*.crl"))


def test_a_kept_file_is_checked_again(service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    supply(service.url, tmp_path)(BARE)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert supply(None, tmp_path)(BARE) is None
    assert "ignoring cached VCEK-Genoa-chain.pem" in caplog.text
    assert supply(service.url, tmp_path)(BARE) == WHOLE


def test_a_report_without_a_product_or_a_key_asks_nothing(service: Service, tmp_path: Path) -> None:
    masked = dataclasses.replace(BARE, evidence=sim.make_report(bytes(48), bytes(64), {0x48: b"\2"}))
    assert supply(service.url, tmp_path)(masked) is None
    assert supply(service.url, tmp_path)(dataclasses.replace(BARE, evidence=b"x")) is None
    assert service.asked == []
    old = dataclasses.replace(BARE, evidence=sim.make_report(bytes(48), bytes(64), {0x00: b"\2", 0x188: bytes(3)}))
    found = supply(service.url, tmp_path)(old)  # version 2: every product is tried
    assert found == WHOLE
    assert "/vcek/v1/Milan/cert_chain" in service.asked


def test_a_fleet_s_certificate_is_the_guest_s(service: Service, tmp_path: Path) -> None:
    leaf, issuer, root = snppki.chain(snppki.Variation(fleet="CN=a.cloud"))
    evidence = sim.make_report(bytes(48), bytes(64), {0x48: b"\4", 0x1A0: bytes(64)})
    fleet = dataclasses.replace(BARE, evidence=evidence)
    service.answers["/vlek/v1/Genoa/cert_chain"] = (200, {}, pem(issuer, root).encode())
    service.answers["/vlek/v1/Genoa/crl"] = (200, {}, CRL)
    assert supply(service.url, tmp_path)(fleet) is None
    found = supply(service.url, tmp_path)(dataclasses.replace(fleet, certificates=(leaf,)))
    assert found == {"certificates": pem(leaf, issuer, root), "crl": CRL.hex()}


def test_amd_is_not_asked_about_a_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kds, "Requests", lambda *_, **__: pytest.fail("asked"))
    asking = supply(kds.AMD, tmp_path)
    assert asking(dataclasses.replace(snp.document(), collateral=None)) == {"certificates": WHOLE["certificates"]}


def test_the_verdict_s_supply_fetches_for_a_report(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kds.SERVICE, service.url)
    asking = supplies.Supply(
        None, simulated_root=snp.ROOT, cache=Cache(tmp_path), clock=lambda: samples.NOW, fetch_reports=True
    )
    found = asking.of_quote("snp", BARE)
    assert found == WHOLE and asking.used == {"snp": WHOLE}
    assert (tmp_path / "snp" / "VCEK-Genoa.crl").exists()
    given = supplies.Supply(None, given=WHOLE, cache=Cache(tmp_path))
    assert given.of_quote("snp", BARE) == WHOLE
    assert asking.of_quote("sgx", BARE) is None


def test_the_address_of_a_service_is_checked() -> None:
    assert kds.service(None) == "https://kdsintf.amd.com"
    with pytest.raises(UsageError, match="expected https"):
        kds.service("kdsintf.amd.com")


def test_a_turin_chip_is_asked_for_by_eight_bytes_and_its_fmc() -> None:
    from privml.evidence.snp import report as reports

    data = sim.make_report(
        bytes(48), bytes(64),
        {0x188: b"\x1a\2\1", 0x1A0: bytes(range(1, 9)) + bytes(56), 0x180: bytes([1, 10, 0, 23, 0, 0, 0, 84])},
    )  # fmt: skip
    machine = kds.machine_of(reports.parse(data), None)
    assert machine is not None
    assert machine.leaf_route == ("vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service) -> Iterator[Path]:
    """An empty folder to work in, an empty cache, and a service that vouches for the simulation."""
    before, handlers = logging.root.level, logging.root.handlers[:]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(kds.SERVICE, service.url)
    monkeypatch.setattr("privml.client.collateral.cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(time, "time", lambda: float(samples.NOW))
    made = Supply.__init__
    monkeypatch.setattr(
        Supply, "__init__", lambda self, where, **given: made(self, where, **{"simulated_root": snp.ROOT, **given})
    )
    yield tmp_path
    logging.root.setLevel(before)
    logging.root.handlers[:] = handlers


def test_fetch_show_and_out_of_a_report_and_a_document(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "report.bin").write_bytes(BARE.evidence)
    (place / "document.json").write_bytes(BARE.encode())
    outcome = Outcome(capsys, "fetch", "report.bin", "document.json")
    assert outcome.code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("AMD certificate of a Genoa chip: VCEK-Genoa-")
    assert lines[1] == "AMD revocations of ARK-Genoa (VCEK): 2026-01-01 00:00 UTC to 2049-12-31 23:59 UTC"
    assert Outcome(capsys, "show").stdout == outcome.stdout
    shown = json.loads(Outcome(capsys, "show", "--json").stdout)
    assert [row["kind"] for row in shown["snp"]] == ["certificate", "revocations"]
    assert (shown["tdx"], shown["nvidia"]) == ([], [])
    assert Outcome(capsys, "fetch", "report.bin", "--out", "c.json").code == 0
    assert anchor.collateral_in(place / "c.json") == WHOLE
    assert Outcome(capsys, "fetch", "report.bin", "document.json", "--out", "c.json").code == 2


def test_fetch_says_what_is_missing(place: Path, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "report.bin").write_bytes(BARE.evidence)
    del service.answers[LIST]
    outcome = Outcome(capsys, "fetch", "report.bin")
    assert outcome.code == 5
    assert "AMD's collateral of the report is not complete" in outcome.stderr


def test_the_fields_of_a_file_replace_the_document_s() -> None:
    def check(document: Document, given: dict[str, str]) -> ReportFacts | SignatureFailure:
        return signature.check(
            document.evidence, document.certificates, given, now=samples.NOW, simulated_root=snp.ROOT
        )

    assert isinstance(check(BARE, WHOLE), ReportFacts)
    assert decode_pem(WHOLE["certificates"].encode(), limit=1 << 16) == (LEAF, ISSUER, ROOT)
    assert isinstance(check(BARE, {"crl": CRL.hex()}), SignatureFailure)


def test_the_certificates_of_a_real_report_are_asked_for_and_found(service: Service, tmp_path: Path) -> None:
    data = bytes.fromhex(read("attestation/virtee_sev/report_milan.hex").decode())
    leaf = read("attestation/virtee_sev/vcek_milan.der")
    chip = data[0x1A0:0x1E0].hex()
    service.answers = {
        f"/vcek/v1/Milan/{chip}": (200, {}, leaf),
        "/vcek/v1/Milan/cert_chain": (200, {}, read("attestation/google_go-sev-guest/ask_ark_milan.pem")),
    }
    found = Supply(service.url, directory=tmp_path, clock=lambda: samples.NOW)(
        dataclasses.replace(BARE, evidence=data)
    )
    assert found is not None and found["certificates"].startswith(pem(leaf))
    assert f"/vcek/v1/Milan/{chip}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115" in service.asked
