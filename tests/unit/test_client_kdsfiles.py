"""Files of AMD's service that somebody downloaded: put together by content, checked, kept, and judged with."""

from __future__ import annotations

import dataclasses
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import attestation_samples as samples
import pytest
import snp_samples as snp
from test_collateral_command import Outcome, as_found  # noqa: F401 - fixtures
from tests.published import read

from privml.base.errors import EvidenceError
from privml.base.strictjson import pretty
from privml.client import kdsfiles
from privml.client.kds import Supply
from privml.client.kdsfiles import Files
from privml.sim import snppki
from privml.sim import snpreport as sim

LEAF, ISSUER, ROOT = sim.certificates()
CRL = bytes.fromhex(sim.collateral()["crl"])
BARE = dataclasses.replace(snp.document(), certificates=(), collateral=None)
V2 = bytes.fromhex(read("attestation/virtee_sev/report_milan.hex").decode())
VCEK = read("attestation/virtee_sev/vcek_milan.der")
MILAN = read("attestation/google_go-sev-guest/ask_ark_milan.pem")
TRUSTEE = "attestation/confidential-containers_trustee/snp"


def pem(*certificates: bytes) -> str:
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates))


WHOLE = {"certificates": pem(LEAF, ISSUER, ROOT), "crl": CRL.hex()}
FORMS: dict[str, dict[str, bytes]] = {
    "as the service has them": {"vcek": LEAF, "cert_chain": pem(ISSUER, ROOT).encode(), "crl": CRL},
    "PEM with other text": {
        "a.pem": b"Subject: SEV-VCEK\r\n" + pem(ROOT, LEAF).replace("\n", "\r\n").encode(),
        "b.pem": pem(ISSUER).encode(),
        "c.crl": CRL,
    },
    "DER": {"1.crt": ROOT, "2.der": ISSUER, "3.cer": LEAF, "4.CRL": CRL},
    "what --out wrote": {"c.json": pretty(WHOLE)},
    "an older list, too": {"v.der": LEAF, "chain.pem": pem(ISSUER, ROOT).encode(), "1.crl": CRL, "2.crl": b""},
}


def listed(year: int, until: int = 2049) -> bytes:
    dates = (datetime(year, 1, 1, tzinfo=UTC), datetime(until, 12, 31, tzinfo=UTC))
    return snppki.revocation_list(snppki.Variation(list_dates=dates))


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_files_are_put_together_whatever_their_names_and_forms_are(name: str, tmp_path: Path) -> None:
    files = {**FORMS[name], "notes.txt": b"not looked at"}
    if name == "an older list, too":
        files["2.crl"] = listed(2020)
    found, errors = kdsfiles.read((put(tmp_path, files),))
    assert not errors
    assert found.fields(BARE.evidence) == WHOLE
    assert len(found.paths) == len(files) - 1


def test_a_document_s_own_certificate_needs_issuers_only(tmp_path: Path) -> None:
    found, _ = kdsfiles.read((put(tmp_path, {"chain.pem": pem(ISSUER, ROOT).encode(), "crl": CRL}),))
    assert found.fields(BARE.evidence) == {}
    assert found.fields(BARE.evidence, (LEAF,)) == WHOLE


def test_of_several_chips_the_one_that_signed_is_taken(tmp_path: Path) -> None:
    """The other certificate has the same names and the same chip, and another TCB version."""
    other = read(f"{TRUSTEE}/vcek.pem")
    found, errors = kdsfiles.read((put(tmp_path, {"a.pem": other, "b.der": VCEK, "c.pem": MILAN}),))
    assert not errors
    assert len(list(found.chains())) == 2
    assert found.fields(V2)["certificates"].startswith(pem(VCEK))


def test_what_is_neither_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    bad = {"a.der": b"x", "b.pem": b"-----BEGIN CERTIFICATE-----\nAA\n", "c.json": b"{}", "d.crl": bytes(2 << 20)}
    found, errors = kdsfiles.read((put(tmp_path, {**bad, "v.der": LEAF}),))
    assert found.certificates == (LEAF,)
    assert [Path(str(error).partition(": ")[0]).name for error in errors] == sorted(bad)
    with pytest.raises(EvidenceError, match="not hex"):
        kdsfiles.from_fields({"crl": "xx"})


# -- the cache -------------------------------------------------------------------------------------------------------


def cache(found: Files, folder: Path, now: int = samples.NOW) -> tuple[str, ...]:
    return found.keep(folder, now=now, simulated_root=snp.ROOT)


def offline(folder: Path) -> Supply:
    return Supply(None, simulated_root=snp.ROOT, directory=folder, clock=lambda: samples.NOW)


def test_what_was_kept_judges_a_report_without_a_network(tmp_path: Path) -> None:
    names = cache(Files((LEAF, ISSUER, ROOT), (CRL,)), tmp_path)
    assert [name.partition("-")[0] for name in names] == ["VCEK"] * 3
    assert offline(tmp_path)(BARE) == WHOLE


def test_issuers_and_list_alone_are_kept(tmp_path: Path) -> None:
    assert cache(Files((ISSUER, ROOT), (CRL,)), tmp_path) == ("VCEK-Genoa-chain.pem", "VCEK-Genoa.crl")
    assert offline(tmp_path)(dataclasses.replace(BARE, certificates=(LEAF,))) == WHOLE


def test_only_what_leads_to_a_known_root_is_kept(tmp_path: Path) -> None:
    own = Files((LEAF, ISSUER, ROOT), (CRL,))
    assert own.keep(tmp_path, now=samples.NOW) == ()
    assert list(tmp_path.iterdir()) == []
    forged = Files((read(f"{TRUSTEE}/test-vcek-invalid-legacy.der"), *Files().certificates)) + kdsfiles.from_fields(
        {"certificates": MILAN.decode()}
    )
    assert forged.keep(tmp_path, now=samples.NOW) == ("VCEK-Milan-chain.pem",)
    genuine = kdsfiles.from_fields({"certificates": pem(VCEK) + MILAN.decode()})
    assert len(genuine.keep(tmp_path, now=samples.NOW)) == 2


def test_an_issuer_that_only_has_the_name_is_not_kept(tmp_path: Path) -> None:
    """It would take the place of AMD's."""
    fake = snppki.chain(snppki.Variation(product="Milan"))
    root = kdsfiles.from_fields({"certificates": MILAN.decode()}).certificates[1]
    assert Files((fake[1], root)).keep(tmp_path, now=samples.NOW) == ()


@pytest.mark.parametrize(
    ("lists", "kept"),
    [
        ((listed(2025),), CRL),
        ((listed(2026, 2026),), None),
        ((listed(2030),), CRL),
        ((listed(2020, 2021),), CRL),
        ((CRL + b"\0",), CRL),
    ],
)
def test_an_older_or_invalid_list_does_not_replace_the_cached_one(
    lists: tuple[bytes, ...], kept: bytes | None, tmp_path: Path
) -> None:
    cache(Files((ISSUER, ROOT), (CRL,)), tmp_path)
    cache(Files((ISSUER, ROOT), lists), tmp_path)
    assert (tmp_path / "VCEK-Genoa.crl").read_bytes() in ({kept} if kept else {CRL, *lists})


def test_a_later_list_replaces_the_cached_one(tmp_path: Path) -> None:
    cache(Files((ISSUER, ROOT), (listed(2025),)), tmp_path)
    assert cache(Files((ISSUER, ROOT), (CRL,)), tmp_path)[-1] == "VCEK-Genoa.crl"
    assert (tmp_path / "VCEK-Genoa.crl").read_bytes() == CRL


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in and an empty cache; the simulation's root counts as AMD's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("privml.client.collateral.cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(time, "time", lambda: float(samples.NOW))
    made, check = Files.keep, kdsfiles.chains.verify
    monkeypatch.setattr(Files, "keep", lambda self, folder, now: made(self, folder, now=now, simulated_root=snp.ROOT))
    assert check
    return tmp_path


def test_fetch_from_a_folder_and_show(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place / "kds", FORMS["as the service has them"])
    outcome = Outcome(capsys, "fetch", "--from", "kds")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.splitlines()[0].startswith("AMD certificate of a Genoa chip: VCEK-Genoa-")
    assert "AMD revocations of ARK-Genoa (VCEK): 2026-01-01 00:00 UTC" in outcome.stdout
    assert Outcome(capsys, "show").stdout == outcome.stdout
    (place / "cache").rename(place / "copy")
    again = Outcome(capsys, "fetch", "--from", "copy")
    assert (again.code, again.stdout) == (0, outcome.stdout), "a copy of another machine's cache"


def test_show_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place, {"c.json": pretty(WHOLE), "crl": CRL})
    lines = Outcome(capsys, "show", "c.json").stdout.splitlines()
    assert lines[0] == "AMD certificate of a Genoa chip: c.json"
    assert lines[1].startswith("AMD revocations of ARK-Genoa (VCEK): 2026-01-01")
    alone = Outcome(capsys, "show", "crl")
    assert (alone.code, "no chain of a VCEK" in alone.stderr) == (9, True)


def test_a_real_report_s_collateral_lacks_a_list(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place / "kds", {"vcek.der": VCEK, "chain.pem": MILAN})
    (place / "report.bin").write_bytes(V2)
    outcome = Outcome(capsys, "fetch", "report.bin", "--from", "kds", "--out", "c.json")
    assert (outcome.code, "kds: no revocation list of AMD's root for the report" in outcome.stderr) == (2, True)
    outcome = Outcome(capsys, "fetch", "report.bin", "--from", "kds", "--out", "c.json")
    (place / "kds" / "vcek.der").unlink()
    outcome = Outcome(capsys, "fetch", "report.bin", "--from", "kds")
    assert (outcome.code, "no chain of the key that signed it and no revocation list" in outcome.stderr) == (2, True)


def test_a_report_that_the_files_do_not_vouch_for_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place / "kds", FORMS["DER"])
    (place / "report.bin").write_bytes(BARE.evidence)
    outcome = Outcome(capsys, "fetch", "report.bin", "--from", "kds", "--out", "c.json")
    assert outcome.code == 8
    assert "snp-chain: got report certificates: root" in outcome.stderr, "its root is a simulation's"
    assert not (place / "c.json").exists()


def test_what_is_not_kept_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forged = {"v.der": read(f"{TRUSTEE}/test-vcek-invalid-legacy.der"), "old.crl": listed(2020, 2021), "x.pem": b"x"}
    put(place / "kds", forged)
    outcome = Outcome(capsys, "fetch", "--from", "kds")
    assert outcome.code == 2
    assert "skipped kds/x.pem: neither certificates nor a revocation list" in outcome.stderr
    assert "no certificate that leads to a root of AMD's" in outcome.stderr
    assert "no revocation list of a root of AMD's that is valid now" in outcome.stderr
