"""The simulated SNP guest: it reports the launcher's digest, and is chosen by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import snp_samples as snp

from privml.agent.layout import Layout
from privml.agent.tee import Tee
from privml.base.errors import EvidenceError, HostError
from privml.events.registers import ZERO
from privml.events.replay import extend
from privml.evidence.snp import collateral as collaterals
from privml.evidence.snp import report, signature
from privml.evidence.snp.claims import ReportFacts
from privml.sim import attestor, launcher, snpreport
from privml.sim.snptee import SimulatedSnpTee
from privml.sim.tee import SimulatedTee


def platform(top: Path, text: str = snp.DIGEST.hex() + "\n") -> SimulatedSnpTee:
    (top / "raw").write_text(text)
    return SimulatedSnpTee(launch=top / "raw")


def test_a_report_has_the_launcher_s_digest_and_verifies_with_its_collateral(tmp_path: Path) -> None:
    tee: Tee = platform(tmp_path)
    made = tee.quote(bytes(range(64)))
    found = report.parse(made)
    assert (found.measurement, found.report_data) == (snp.DIGEST, bytes(range(64)))
    given = collaterals.decode(tee.collateral())
    checked = signature.check(made, (), given, now=snp.samples.NOW, simulated_root=snpreport.root_der())
    assert isinstance(checked, ReportFacts)
    assert checked.revocation is not None


def test_it_has_no_register_and_tracks_the_value(tmp_path: Path) -> None:
    tee = platform(tmp_path)
    tee.extend(b"\7" * 48)
    assert tee.rtmr3() == extend(ZERO, b"\7" * 48)
    assert (tee.name, tee.kind, tee.has_register, tee.boot_log()) == ("simulated", "snp", False, b"")


@pytest.mark.parametrize("text", ["", "00" * 47, "AB" * 48, "zz" * 48, "00" * 48 + " 00"])
def test_a_malformed_digest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(EvidenceError):
        platform(tmp_path, text)


def test_the_launcher_chooses_what_is_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tmp_path / "sim-launch/raw"
    monkeypatch.setattr(launcher, "SIM_LAUNCH", chosen)
    made: list[dict[str, object]] = []
    monkeypatch.setattr(attestor, "SimulatedTee", lambda **given: made.append(given))
    attestor.simulated(Layout())
    assert made == [{"register": Layout().attestor_place.with_name("simulated-rtmr3")}]
    chosen.parent.mkdir()
    chosen.write_text(snp.DIGEST.hex())
    assert isinstance(attestor.simulated(Layout()), SimulatedSnpTee)
    chosen.unlink()
    with pytest.raises(HostError, match="the launcher's digest"):
        SimulatedSnpTee(launch=chosen)
    assert SimulatedTee.kind == "tdx"
