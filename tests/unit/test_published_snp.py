"""Published versions with launches under SEV-SNP: verified under a root, looked up, and shown."""

from __future__ import annotations

import dataclasses
import json
import ssl
from pathlib import Path

import attestation_samples as samples
import pytest
import snp_samples
from html_page import Page
from published_fake import NAME, NOW, Fake
from published_whole import build, whole
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures

from privml.publish import site
from privml.statement.launch import HASHED, OPEN
from privml.statement.predicate import Predicate

BASE = ("verify", "doc.json", "--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex(), "--json")
WORDS = (*BASE, "--trust", "measurements/root.json", NAME, "--allow-simulated", "ark.pem")
POLICY = {
    "format": "privml-policy/v1",
    "snp": {
        "allow_unmeasured_acpi": True,
        "min_tcb": [{"product": "Genoa", "fmc": 0, "bl": 10, "tee": 0, "snp": 23, "ucode": 84}],
    },
}
SNP_ONLY = dataclasses.replace(
    samples.PREDICATE, launches=(snp_samples.launch(), snp_samples.launch(4, digest=bytes(48)))
)


def published(*predicates: Predicate) -> Fake:
    fake = whole()
    for number, predicate in enumerate(predicates):
        fake.publish(f"1.{number}", build(NAME, number, predicate))
    return fake


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A document of the honest SNP guest, and a version that predicts its launch."""
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: NOW)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    (place / "state").mkdir()
    (place / "ark.pem").write_text(ssl.DER_cert_to_PEM_cert(snp_samples.ROOT))
    (place / "doc.json").write_bytes(snp_samples.document().encode())
    (place / "policy.json").write_text(json.dumps(POLICY))
    return place


def verdict(here: Path, fake: Fake, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, set[str]]:
    fake.write(here / "measurements")
    (here / "measurements" / "root.json").write_bytes(fake.trusted)
    done = Outcome(capsys, *WORDS, *more)
    return done.code, {each["code"] for each in json.loads(done.stdout)["refusals"]}


def test_an_snp_guest_is_accepted_by_a_published_version(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = published(samples.PREDICATE, snp_samples.PREDICATE)
    assert verdict(here, fake, capsys, "--policy", "policy.json") == (10, set())
    assert verdict(here, fake, capsys) == (8, {"reported-tcb", "acpi-unmeasured"})


@pytest.mark.parametrize(
    ("predicate", "refusals"),
    [
        (samples.PREDICATE, {"shapes"}),
        (dataclasses.replace(SNP_ONLY, launches=(snp_samples.launch(digest=bytes(48)),)), {"launch"}),
        (dataclasses.replace(SNP_ONLY, launches=(snp_samples.launch(boot=HASHED),)), {"snp-boot-unbound"}),
        (dataclasses.replace(SNP_ONLY, launches=(snp_samples.launch(boot=OPEN),)), {"snp-boot-unbound"}),
    ],
)
def test_a_version_without_its_launch_refuses_it(
    predicate: Predicate, refusals: set[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict(here, published(predicate), capsys, "--policy", "policy.json") == (8, refusals)


def test_a_launch_digest_is_looked_up(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = published(snp_samples.PREDICATE)
    fake.write(here / "measurements")
    digits = snp_samples.DIGEST.hex()
    done = Outcome(capsys, "lookup", digits, "--trust", "measurements/tuf/1.root.json", "--index", "measurements")
    assert "qemu-11-q35-snp, 2 vcpus, CPU 0xa10f10" in done.stdout


@pytest.mark.parametrize("predicate", [SNP_ONLY, snp_samples.PREDICATE])
def test_the_site_shows_the_launches_of_each_tee(predicate: Predicate, tmp_path: Path) -> None:
    published(predicate).write(tmp_path / "measurements")
    files = site.site(tmp_path / "measurements")
    text = files[f"images/{NAME}/1.0.html"].decode()
    Page(text)
    assert "qemu-11-q35-snp, 2 vcpus, CPU 0xa10f10" in text
    assert snp_samples.DIGEST.hex() in text
    assert "0xfffffffff000" in text, "the address of a vCPU's page"
    both = len({launch.tee for launch in predicate.launches}) == 2
    assert ("Measured events under AMD SEV-SNP" in text) is both
    assert ("<svg" in text) is both, "only events of TDs are drawn"
    digits = snp_samples.DIGEST.hex()
    assert digits in files[f"by/{digits[:2]}.html"].decode()
