"""The simulated platform: it quotes this boot's measurements, and refuses unreadable ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_guest import MRTD, SHA384, TPM_LOG

from privml.agent.tee import Tee
from privml.base.errors import EvidenceError, HostError
from privml.events.registers import RTMR0, RTMR1, RTMR2, ZERO
from privml.events.replay import extend, replay_tpm_as_rtmrs
from privml.events.tcg import LogEntry, encode_log, parse_log
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import quote
from privml.sim import attestor
from privml.sim.tee import SimulatedTee


def platform(top: Path, *, log: bytes = TPM_LOG, mrtd: str = MRTD.hex() + "\n") -> SimulatedTee:
    (top / "log").write_bytes(log)
    (top / "mrtd").write_text(mrtd)
    return SimulatedTee(tpm_log=top / "log", mrtd=top / "mrtd")


def test_a_quote_contains_the_boot_s_registers_and_the_launcher_s_mrtd(tmp_path: Path) -> None:
    tee: Tee = platform(tmp_path)
    tee.extend(b"\x07" * 48)
    body = quote.parse(tee.quote(bytes(range(64)))).body
    replayed = replay_tpm_as_rtmrs(parse_log(TPM_LOG))
    assert body.mr_td == MRTD
    assert body.rtmrs[:3] == tuple(replayed[r] for r in (RTMR0, RTMR1, RTMR2))
    assert all(value != ZERO for value in body.rtmrs[:3])
    assert body.rtmrs[3] == tee.rtmr3() == extend(ZERO, b"\x07" * 48)
    assert body.report_data == bytes(range(64))
    assert tee.boot_log() == TPM_LOG
    assert set(tee.collateral() or {}) == set(collaterals.FIELDS)


def test_a_different_boot_gives_a_different_quote(tmp_path: Path) -> None:
    other = encode_log([*parse_log(TPM_LOG), LogEntry(9, 0x00000006, {SHA384: b"\x09" * 48}, b"another initrd")])
    body = quote.parse(platform(tmp_path, log=other).quote(bytes(64))).body
    assert body.rtmrs[2] != replay_tpm_as_rtmrs(parse_log(TPM_LOG))[RTMR2]


@pytest.mark.parametrize("mrtd", ["", "00" * 47, "AB" * 48, "zz" * 48, "00" * 48 + " 00"])
def test_a_malformed_mrtd_is_refused(tmp_path: Path, mrtd: str) -> None:
    with pytest.raises(EvidenceError):
        platform(tmp_path, mrtd=mrtd)


def test_an_unreadable_boot_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError):
        platform(tmp_path, log=b"")
    with pytest.raises(EvidenceError):
        platform(tmp_path, log=TPM_LOG[:-1])


def test_a_machine_without_a_tpm_is_reported(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="the TPM's log"):
        SimulatedTee(tpm_log=tmp_path / "none", mrtd=tmp_path / "none")


def test_development_attestor_says_why_it_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(**_: object) -> SimulatedTee:
        raise HostError("simulation: no log")

    monkeypatch.setattr(attestor, "SimulatedTee", absent)
    assert attestor.main() == 1
    assert capsys.readouterr().err == "privml: attestor: simulation: no log\n"
