"""Files of AMD's service that somebody downloaded: put together by content, checked, kept, and judged with."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import attestation_samples as samples
import pytest
import snp_samples as snp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from test_client_collateral import get, serving
from test_collateral_command import Outcome, as_found  # noqa: F401 - fixtures
from tests.published import read

from privml.base.errors import EvidenceError
from privml.base.strictjson import pretty
from privml.client import kdsfiles
from privml.client.collateral import Cache
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
    "lists",
    [(listed(2025),), (listed(2030),), (listed(2020, 2021),), (CRL + b"\0",), (listed(2025), listed(2030))],
)
def test_an_older_or_invalid_list_does_not_replace_the_cached_one(lists: tuple[bytes, ...], tmp_path: Path) -> None:
    cache(Files((ISSUER, ROOT), (CRL,)), tmp_path)
    cache(Files((ISSUER, ROOT), lists), tmp_path)
    assert (tmp_path / "VCEK-Genoa.crl").read_bytes() == CRL


def test_a_later_list_replaces_the_cached_one(tmp_path: Path) -> None:
    cache(Files((ISSUER, ROOT), (listed(2025),)), tmp_path)
    assert cache(Files((ISSUER, ROOT), (CRL,)), tmp_path)[-1] == "VCEK-Genoa.crl"
    assert (tmp_path / "VCEK-Genoa.crl").read_bytes() == CRL


def test_a_later_list_alone_is_kept_for_cached_issuers(tmp_path: Path) -> None:
    cache(Files((ISSUER, ROOT), (listed(2025),)), tmp_path)
    assert cache(Files((), (CRL,)), tmp_path) == ("VCEK-Genoa.crl",)
    assert (tmp_path / "VCEK-Genoa.crl").read_bytes() == CRL
    assert Files((), (CRL,)).rootless(tmp_path) == ()
    assert Files((), (CRL,)).rootless(tmp_path / "other") == ("ARK-Genoa",)
    assert [name[-4:] for name in cache(Files((LEAF,)), tmp_path)] == [".der"]


# -- roots of others -------------------------------------------------------------------------------------------------


@functools.cache
def foreign(number: int) -> tuple[bytes, bytes]:
    """An issuer with AMD's names and the simulation's key under a stranger's root, and that root."""
    middle, top = x509.load_der_x509_certificate(ISSUER), x509.load_der_x509_certificate(ROOT)
    key = stranger()

    def made(subject: x509.Name, public: rsa.RSAPublicKey, serial: int) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(top.subject)
            .public_key(public)
            .serial_number(serial)
            .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2049, 1, 1, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(True, None), True)
        )
        signed = builder.sign(key, hashes.SHA384(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA384()), 48))
        return signed.public_bytes(Encoding.DER)

    own = middle.public_key()
    assert isinstance(own, rsa.RSAPublicKey)
    return made(middle.subject, own, 100 + number), made(top.subject, key.public_key(), 1000 + number)


@functools.cache
def stranger() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("order", ["a.pem", "z.pem"])
def test_a_stranger_s_root_beside_the_right_files_changes_nothing(order: str, tmp_path: Path) -> None:
    files = {order: pem(*foreign(0)).encode(), "chain.pem": pem(ISSUER, ROOT).encode(), "crl": CRL, "vcek": LEAF}
    found, errors = kdsfiles.read((put(tmp_path, files),))
    assert not errors
    assert found.fields(BARE.evidence, simulated_root=ROOT) == WHOLE


def test_many_certificates_of_one_name_are_checked_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key with each issuer and each root would be 150 chains of three signatures."""
    number, tried, checked = 5, list[object](), list[object]()
    read, issued_by = kdsfiles.chains.read, kdsfiles._issued_by
    monkeypatch.setattr(kdsfiles.chains, "read", lambda one: (tried.append(one), read(one))[1])
    monkeypatch.setattr(kdsfiles, "_issued_by", lambda *two: (checked.append(two), issued_by(*two))[1])
    leaves = [snppki.chain(snppki.Variation(chip_id=bytes([each]) * 64))[0] for each in range(number)]
    others = [one for each in range(number) for one in foreign(each)]
    found = Files((*leaves, *others, ISSUER, ROOT))
    digest = hashlib.sha256(ROOT).hexdigest()
    assert len(list(found.chains((digest,)))) == len(tried) == number
    assert len(checked) == number + 1
    tried.clear()
    assert list(Files((*leaves, *others)).chains((digest,))) == tried == []
    assert len(list(Files((*leaves, *others)).foreign_chains())) <= number * kdsfiles.MAX_FOREIGN


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in and an empty cache; the simulation's root counts as AMD's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("privml.client.collateral.cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(time, "time", lambda: float(samples.NOW))
    made = Files.keep
    monkeypatch.setattr(Files, "keep", lambda self, folder, now: made(self, folder, now=now, simulated_root=snp.ROOT))
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
    put(place, {"c.json": pretty(WHOLE), "m.pem": pem(VCEK).encode() + MILAN, "crl": CRL})
    assert Outcome(capsys, "show", "m.pem").stdout.splitlines() == ["AMD certificate of a Milan chip: m.pem"]
    simulated = Outcome(capsys, "show", "c.json")
    assert (simulated.code, simulated.stdout) == (9, "")
    assert "c.json: the root of its certificates is not AMD's, whatever its name says" in simulated.stderr
    alone = Outcome(capsys, "show", "crl")
    assert (alone.code, "no chain of a VCEK" in alone.stderr) == (9, True)


def test_what_a_file_s_lists_are_of_is_shown() -> None:
    found = list(kdsfiles.rows(Files((LEAF, ISSUER, ROOT), (CRL,)), "c.json", simulated_root=snp.ROOT))
    assert [(row["kind"], row["product"]) for row in found] == [("certificate", "Genoa"), ("revocations", "Genoa")]
    assert found[1]["issued"] == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


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
    assert "the revocation list of ARK-Genoa needs its certificate: no file here" in outcome.stderr
    put(place / "kds", {"chain.pem": pem(ISSUER, ROOT).encode()})
    outcome = Outcome(capsys, "fetch", "--from", "kds")
    assert "no revocation list of a root of AMD's that is valid now" in outcome.stderr


# -- serving them ----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path, no_proxy: None) -> Iterator[tuple[str, Path]]:
    """A server over a cache with everything of the simulated chip; its address, and the folder of AMD's files."""
    cache(Files((LEAF, ISSUER, ROOT), (CRL,)), tmp_path / "snp")
    with serving(Cache(tmp_path), samples.NOW) as address:
        yield address, tmp_path / "snp"


def test_another_machine_gets_everything_from_the_server(served: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = served
    asking = Supply(address, simulated_root=snp.ROOT, directory=tmp_path / "other", clock=lambda: samples.NOW)
    assert asking(BARE) == WHOLE


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("vcek/v1/Genoa/cert_chain", 200),
        ("vcek/v1/Genoa/crl", 200),
        ("vcek/v1/Milan/crl", 404),
        ("vlek/v1/Genoa/cert_chain", 404),
        ("vlek/v1/Genoa/" + "00" * 64, 404),
        ("vcek/v1/Naples/crl", 404),
        ("xcek/v1/Genoa/crl", 404),
        ("vcek/v1/Genoa/" + "00" * 63 + "?blSPL=1&teeSPL=0&snpSPL=1&ucodeSPL=1", 400),
        ("vcek/v1/Genoa/" + "00" * 64 + "?blSPL=1&teeSPL=0&snpSPL=1", 400),
        ("vcek/v1/Genoa/" + "00" * 64 + "?blSPL=256&teeSPL=0&snpSPL=1&ucodeSPL=1", 400),
        ("vcek/v1/Genoa/" + "00" * 64 + "?blSPL=-1&teeSPL=0&snpSPL=1&ucodeSPL=1", 400),
        ("vcek/v1/Genoa/" + "00" * 64 + "?blSPL=1&teeSPL=0&snpSPL=1&ucodeSPL=1", 404),
        ("vcek/v1/Genoa/..%2f..%2fetc", 404),
    ],
)
def test_what_is_asked_for_is_sent_or_not(path: str, status: int, served: tuple[str, Path]) -> None:
    assert get(served[0], f"/{path}")[0] == status


def test_an_expired_list_is_not_served(served: tuple[str, Path]) -> None:
    address, folder = served
    for bad in (listed(2020, 2021), b"x"):
        (folder / "VCEK-Genoa.crl").write_bytes(bad)
        assert get(address, "/vcek/v1/Genoa/crl")[0] == 404
