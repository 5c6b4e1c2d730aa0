"""TCB info: the levels of platform and TDX module by Intel's rules, and every malformed text refused."""

from __future__ import annotations

import json
from typing import Any

import attestation_samples as samples
import pytest
from sim_platforms import DATE, Platform, level, module

from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx import quote, tcbinfo
from privml.evidence.tdx.claims import TcbLevel
from privml.sim import pki

INTEL = samples.VECTORS / "intel_pcs"
LEVELS = [
    level("UpToDate", tdxtcbcomponents=[{"svn": 9}, {"svn": 0}, {"svn": 7}, *({"svn": 0},) * 13]),
    level("OutOfDate"),
]


def read(**changes: Any) -> tcbinfo.TcbInfo:
    return tcbinfo.read(json.dumps({**pki.tcb_info_json(), **changes}))


def status(info: tcbinfo.TcbInfo, tee_tcb_svn: bytes, cpu: bytes = pki.CPU_SVN, pce: int = pki.PCE_SVN) -> str:
    return info.platform(cpu, pce, tee_tcb_svn + bytes(13)).status


def test_a_module_of_version_0_is_compared_with_the_platforms_level_and_a_later_one_is_not() -> None:
    info = read(tcbLevels=LEVELS)
    assert status(info, bytes([9, 0, 7])) == "UpToDate"
    assert status(info, bytes([8, 0, 7])) == "OutOfDate"
    assert status(info, bytes([5, 1, 7])) == "UpToDate"
    for low in ({"cpu": bytes([3]) + pki.CPU_SVN[1:]}, {"pce": pki.PCE_SVN - 1}):
        with pytest.raises(ValueError, match="no level for this platform"):
            status(info, bytes([9, 0, 7]), **low)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no level for this platform"):
        status(info, bytes([9, 1, 6]))


@pytest.mark.parametrize("name", ["tcb_info_90c06f000000.json", "tcb_info_00a06d080000.json"])
def test_modules_in_an_answer_of_intels_service(name: str) -> None:
    info = tcbinfo.read(json.dumps(json.loads((INTEL / name).read_bytes())["tcbInfo"]))
    svn = quote.parse((samples.VECTORS / "tdx_quote_v5.bin").read_bytes()).body.tee_tcb_svn
    assert svn[:2] == bytes([5, 1])
    assert info.module(svn) == TcbLevel("OutOfDate", "2024-03-13", ("INTEL-SA-01036", "INTEL-SA-01099"))
    assert info.module(bytes([6, 1])) == TcbLevel("UpToDate", "2024-11-13")
    assert info.module(bytes([3, 3])) == TcbLevel("UpToDate", "2024-11-13")
    assert info.module(bytes([3, 0])) is None
    for none in (bytes([1, 1]), bytes([9, 2])):
        with pytest.raises(ValueError, match="TDX_0"):
            info.module(none)
    assert (info.validity.expires - info.validity.issued) // 86400 == 30


MALFORMED: dict[str, dict[str, Any]] = {
    "fmspc": {"fmspc": "00"},
    "no fmspc": {"fmspc": None},
    "fmspc not in hex": {"fmspc": "zz" * 6},
    "pceId": {"pceId": "000000"},
    "no date": {"issueDate": None},
    "date with an offset": {"nextUpdate": "2026-01-01T00:00:00+01:00"},
    "day that does not exist": {"nextUpdate": "2026-02-30T00:00:00Z"},
    "levels": {"tcbLevels": {}},
    "level": {"tcbLevels": [1]},
    "too many levels": {"tcbLevels": [{}] * 257},
    "identities": {"tdxModuleIdentities": None},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_tcb_info_is_no_tcb_info(name: str) -> None:
    with pytest.raises(ValueError, match=r"^tcb_info: "):
        read(**MALFORMED[name])


LEVEL = level("UpToDate")
MALFORMED_LEVELS: dict[str, Any] = {
    "no tcb": {**LEVEL, "tcb": None},
    "no status": {**LEVEL, "tcbStatus": 1},
    "no day": {**LEVEL, "tcbDate": "yesterday"},
    "advisories": {**LEVEL, "advisoryIDs": "INTEL-SA-1"},
    "component": level("UpToDate", sgxtcbcomponents=[{"svn": True}] * 16),
    "15 components": level("UpToDate", tdxtcbcomponents=[{"svn": 0}] * 15),
    "pcesvn": level("UpToDate", pcesvn="13"),
}


@pytest.mark.parametrize("name", MALFORMED_LEVELS)
def test_a_malformed_level_is_no_level(name: str) -> None:
    info = read(tcbLevels=[MALFORMED_LEVELS[name]])
    with pytest.raises(ValueError):
        status(info, bytes([9, 0, 7]))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"fmspc": 1, "fmspc": 1}', "\udcff"])
def test_what_is_no_json_object(text: str) -> None:
    for reader in (tcbinfo.read, tcbinfo.read_qe_identity):
        with pytest.raises(ValueError):
            reader(text)


def test_two_identities_of_a_module_are_refused() -> None:
    twice = read(tdxModuleIdentities=[module((1, "UpToDate")), module((1, "OutOfDate"))])
    with pytest.raises(ValueError, match="2 TDX module identities TDX_01, expected one"):
        twice.module(bytes([1, 1]))


def test_advisories_are_listed_once() -> None:
    levels = [TcbLevel("OutOfDate", DATE, ("A", "B")), None, TcbLevel("OutOfDate", DATE, ("B", "C"))]
    assert tcbinfo.advisories(levels) == ("A", "B", "C")


def test_a_malformed_tcb_info_that_intel_signed_is_still_refused() -> None:
    failure = Platform(pki.Variation(tcb_info={"issueDate": "2026-01-01"})).check()
    assert isinstance(failure, SignatureFailure)
    assert failure.code == "quote-signature"
