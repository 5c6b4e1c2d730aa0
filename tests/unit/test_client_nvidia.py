"""NVIDIA's collateral of a document's devices: what is asked for, kept, and used when the services fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gpu_samples
import nvidia_fake
import pytest
from cryptography.x509 import ocsp
from nvidia_fake import Service

from privml.base.errors import UsageError
from privml.cli.main import main
from privml.client import attested, nvidia
from privml.client import collateral as cached
from privml.client import supply as supplies
from privml.client.nvidia import FRESH, Services, Supply
from privml.evidence import devices
from privml.evidence.document import GPU, DeviceEvidence
from privml.evidence.facts import Facts
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.evidence.nvidia.families import HOPPER, LS10
from privml.verify.verdict import Outcome

NOW = gpu_samples.NOW
DOCUMENT = gpu_samples.document(2)
FACTS = gpu_samples.samples.facts_of(DOCUMENT)


@pytest.fixture
def service(no_proxy: None) -> Iterator[Service]:
    with nvidia_fake.running(Service()) as running:
        yield running


def supply(folder: Path, service: Service | None, now: int = NOW) -> Supply:
    where = None if service is None else nvidia.services(service.url, f"{service.url}/ocsp")
    return Supply(where, roots=gpu_samples.ROOTS, directory=folder, clock=lambda: now)


def codes(found: NvidiaCollateral | None, facts: Facts = FACTS, now: int = NOW) -> list[str]:
    """The refusals of the verdict on two GPUs with this collateral."""
    assert found is not None
    checked = devices.check(facts, found, now=now, simulated_roots=gpu_samples.ROOTS)
    return sorted({one.code for one in gpu_samples.judge(2, given=DOCUMENT, checked=checked).refusals})


def test_devices_are_accepted_with_what_was_fetched(tmp_path: Path, service: Service) -> None:
    found = supply(tmp_path, service)(FACTS, own=False)
    assert found is not None
    checked = devices.check(FACTS, found, now=NOW, simulated_roots=gpu_samples.ROOTS)
    assert checked.revocation.unanswered == ()
    verdict = gpu_samples.judge(2, given=DOCUMENT, checked=checked)
    assert verdict.outcome is Outcome.ACCEPTED_SIMULATED
    # Two reference values; two boot ROMs, provisioner and identity authority; three signers of reference values.
    assert service.asked[:2] == [
        "/v1/rim/NV_GPU_DRIVER_GH100_590.12",
        "/v1/rim/NV_GPU_VBIOS_G520_0200_885_9600A50001",
    ]
    assert service.asked[2:] == ["/ocsp application/ocsp-request"] * 7
    assert len(found.ocsp) == 7
    assert len(found.nonces) == 7


def test_a_switch_has_reference_values_of_its_own(tmp_path: Path, service: Service) -> None:
    facts = gpu_samples.samples.facts_of(gpu_samples.document(2, 2))
    found = supply(tmp_path, service)(facts, own=False)
    assert found is not None
    assert len(found.rims) == 3
    assert gpu_samples.judge(2, 2, nvidia=found, given=gpu_samples.document(2, 2)).refusals == ()


def test_what_was_fetched_is_used_for_an_hour(tmp_path: Path, service: Service) -> None:
    supply(tmp_path, service)(FACTS, own=False)
    service.asked.clear()
    again = supply(tmp_path, service, NOW + FRESH - 1)(FACTS, own=False)
    assert (service.asked, codes(again)) == ([], [])
    service.now = NOW + FRESH
    supply(tmp_path, service, NOW + FRESH)(FACTS, own=False)
    assert len(service.asked) == 7  # reference values stay


def test_without_a_network_the_cache_is_used(tmp_path: Path, service: Service) -> None:
    assert codes(supply(tmp_path, None)(FACTS, own=False)) == ["gpu-revocation", "gpu-rim"]
    supply(tmp_path, service)(FACTS, own=False)
    assert codes(supply(tmp_path, None, NOW + 60)(FACTS, own=False), now=NOW + 60) == []


def test_while_the_services_are_down(tmp_path: Path, service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.down = True
    assert codes(supply(tmp_path, service)(FACTS, own=False)) == ["gpu-revocation", "gpu-rim"]
    assert "reference values NV_GPU_DRIVER_GH100_590.12: 127.0.0.1" in caplog.text
    assert "status 503, expected 200" in caplog.text
    assert supply(tmp_path, service)(FACTS, own=True) is None  # the document's are used
    service.down = False
    supply(tmp_path, service)(FACTS, own=False)
    service.down = True
    # The simulated answers are valid for an hour, and then nothing is left.
    assert codes(supply(tmp_path, service, NOW + FRESH)(FACTS, own=False), now=NOW + FRESH) == []
    late = NOW + FRESH + 1
    assert codes(supply(tmp_path, service, late)(FACTS, own=False), now=late) == ["gpu-revocation"]


def test_a_revoked_certificate_is_seen(tmp_path: Path, service: Service) -> None:
    service.status = ocsp.OCSPCertStatus.REVOKED
    assert codes(supply(tmp_path, service)(FACTS, own=False)) == ["gpu-revoked"]


def test_an_answer_to_another_request_is_not_kept(tmp_path: Path, service: Service) -> None:
    service.echo = False
    assert codes(supply(tmp_path, service)(FACTS, own=False)) == ["gpu-revocation"]
    assert not list(tmp_path.glob("*.ocsp"))


def test_reference_values_of_other_firmware_are_not_kept(
    tmp_path: Path, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.rims["NV_GPU_DRIVER_GH100_590.12"] = service.rims["NV_GPU_VBIOS_G520_0200_885_9600A50001"]
    found = supply(tmp_path, service)(FACTS, own=False)
    assert codes(found) == ["gpu-rim"]
    assert "reference values for GH100 96.00.A5.00.01, expected those for GH100 590.12" in caplog.text
    assert [path.name for path in tmp_path.glob("*.xml")] == ["NV_GPU_VBIOS_G520_0200_885_9600A50001.xml"]


def test_altered_files_of_the_cache_are_fetched_again(tmp_path: Path, service: Service) -> None:
    supply(tmp_path, service)(FACTS, own=False)
    service.asked.clear()
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert codes(supply(tmp_path, service)(FACTS, own=False)) == []
    assert len(service.asked) == 9


def test_nvidia_is_not_asked_about_a_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia._Session, "_asking", lambda _: pytest.fail("asked"))
    asking = Supply(nvidia.NVIDIA, roots=gpu_samples.ROOTS, directory=tmp_path, clock=lambda: NOW)
    assert asking(FACTS, own=True) is None
    # Devices of an unknown root, or none, are not asked about anywhere.
    assert Supply(Services("http://x", "http://x"), directory=tmp_path, clock=lambda: NOW)(FACTS, own=False) is None
    without = gpu_samples.samples.facts_of(gpu_samples.samples.document())
    assert asking(without, own=False) is None


def test_the_ids_of_real_devices() -> None:
    """Of published evidence; next to it are reference values with the second and the fifth of these ids."""

    def ids(evidence: DeviceEvidence) -> list[str]:
        ((_, claims),) = gpu_samples.claims_of([evidence])
        return [each.name for each in nvidia.wanted(HOPPER if evidence.kind == GPU else LS10, claims)]

    assert ids(gpu_samples.R535) == ["NV_GPU_DRIVER_GH100_535.86.09", "NV_GPU_VBIOS_1010_0200_882_96005E0001"]
    assert ids(gpu_samples.CANNED) == ["NV_GPU_DRIVER_GH100_550.90.07", "NV_GPU_VBIOS_1010_0200_882_96009F0001"]
    assert ids(gpu_samples.LS10) == ["NV_SWITCH_BIOS_5612_0002_890_9610550001"]
    assert ids(gpu_samples.FOUR[0]) == ["NV_GPU_DRIVER_GH100_590.12", "NV_GPU_VBIOS_G520_0200_885_9600A50001"]


def test_what_is_kept_is_listed(tmp_path: Path, service: Service) -> None:
    supply(tmp_path, service)(FACTS, own=False)
    (tmp_path / "junk.xml").write_text("<junk/>")
    (tmp_path / "junk.ocsp").write_text("junk")
    kept = list(nvidia.kept(tmp_path, now=NOW, roots=gpu_samples.ROOTS))
    assert [row["firmware"] for row in kept if row["kind"] == "rim"] == ["GH100 590.12", "GH100 96.00.A5.00.01"]
    answers = [row for row in kept if row["kind"] == "ocsp"]
    assert len(answers) == 7
    assert {(row["issued"], row["expires"]) for row in answers} == {(NOW, NOW + 3600)}


@pytest.mark.parametrize("address", ["ftp://x", "x", "https://me:secret@x"])
def test_another_address_is_no_service(address: str) -> None:
    with pytest.raises(UsageError) as found:
        nvidia.services(address, None)
    assert "secret" not in found.value.message


def test_a_document_with_devices_is_judged_with_what_is_fetched(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `verify URL` and `proxy` do it: the services' addresses are in the environment."""
    monkeypatch.setenv(nvidia.RIM_SERVICE, service.url)
    monkeypatch.setenv(nvidia.OCSP_SERVICE, f"{service.url}/ocsp")
    source = supplies.Supply(
        None,
        simulated_root=gpu_samples.samples.ROOT,
        device_roots=gpu_samples.ROOTS,
        fetch_devices=True,
        cache=cached.Cache(tmp_path),
        clock=lambda: NOW,
    )

    def judged(collateral: attested.Collateral | None) -> list[str]:
        found = attested.judge(
            DOCUMENT.encode(),
            gpu_samples.expected(2),
            gpu_samples.POLICY,
            now=NOW,
            nonce=gpu_samples.samples.NONCE,
            tls_spki_sha256=gpu_samples.samples.SPKI,
            collateral=collateral,
        )
        return sorted({refusal.code for refusal in found.verdict.refusals})

    assert judged(None) == ["gpu-revocation", "gpu-rim"]
    assert judged(source) == []
    assert sorted(path.suffix for path in (tmp_path / "nvidia").iterdir()) == [".ocsp"] * 7 + [".xml"] * 2


def test_the_verb_fetches_and_shows_it(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the simulation's roots in place of the real ones, which no evidence in the repository leads to today."""
    both = cached.anchors(gpu_samples.samples.ROOT)
    monkeypatch.setattr(cached, "anchors", lambda *_: both)
    monkeypatch.setattr(cached, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(cached, "fetch", lambda *_, **__: simulated())
    monkeypatch.setattr(nvidia, "Supply", partial(Supply, roots=gpu_samples.ROOTS))
    monkeypatch.setattr(nvidia, "kept", partial(nvidia.kept, roots=gpu_samples.ROOTS))
    monkeypatch.setattr(time, "time", lambda: float(NOW))
    monkeypatch.setenv(nvidia.RIM_SERVICE, service.url)
    monkeypatch.setenv(nvidia.OCSP_SERVICE, f"{service.url}/ocsp")
    document = tmp_path / "doc.json"
    document.write_bytes(DOCUMENT.encode())
    assert run("collateral", "fetch", str(document)) == 0
    capsys.readouterr()
    assert run("collateral", "show") == 0
    shown = capsys.readouterr().out
    assert "NVIDIA reference values NV_GPU_DRIVER_GH100_590.12: GH100 590.12\n" in shown
    assert shown.count(": good, answered for 2026-11-18 11:06 UTC to 2026-11-18 12:06 UTC\n") == 7
    service.rims.clear()
    for path in (tmp_path / "cache" / "nvidia").iterdir():
        path.unlink()
    assert run("collateral", "fetch", str(document)) == 5
    assert "NVIDIA's collateral of the document's devices is not complete" in capsys.readouterr().err


def simulated() -> cached.Entry:
    given = gpu_samples.samples.sim.collateral()
    return cached.judged(given, cached.anchors(), fetched=NOW, source="https://pccs.example")


def run(*words: str) -> object:
    with pytest.raises(SystemExit) as found:
        main(words)
    return found.value.code
