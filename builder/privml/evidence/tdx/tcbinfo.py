"""Read Intel's TCB info and QE identity: whose platform they are for, their dates, and the levels of a platform.

The QVL checks their signatures, but gives one status for the platform and its TDX module together. This module finds
both levels separately, by the rules of Intel's library (``TcbLevelCheck.cpp`` and ``TdxModuleCheck.cpp`` in
``Src/AttestationLibrary/src/Verifiers/Checks`` of intel/SGX-TDX-DCAP-QuoteVerificationLibrary):

- the platform's level is the first one that no CPUSVN component, PCESVN and TDX component falls below; the first two
  TDX components are compared only for a module of version 0;
- a module of version V (TEE_TCB_SVN[1]) has the identity ``TDX_V``; its level is the highest one with an ISVSVN of at
  most TEE_TCB_SVN[0]. A module of version 0 has no identity, because it is part of the platform's level.

Field names: Intel PCS API v4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import loads
from privml.evidence.claims import Validity
from privml.evidence.tdx.claims import TcbLevel

MAX_LEVELS = 256
COMPONENTS = 16
_KEPT = 8
"""Texts whose reading is remembered: the same ones come with every document of a platform."""


@dataclass(frozen=True)
class TcbInfo:
    """The parts of a TCB info that are read here. ``levels`` and ``identities`` are JSON objects."""

    fmspc: bytes
    pce_id: bytes
    validity: Validity
    levels: tuple[Any, ...]
    identities: tuple[Any, ...]

    def platform(self, cpu_svn: bytes, pce_svn: int, tee_tcb_svn: bytes) -> TcbLevel:
        """The level of a platform with these 16 CPUSVN and TDX components; ``ValueError`` if there is none."""
        first = 0 if tee_tcb_svn[1] == 0 else 2
        for level in self.levels:
            tcb = _field(level, "tcb")
            cpu, tdx = (_components(tcb, name) for name in ("sgxtcbcomponents", "tdxtcbcomponents"))
            reached = [*zip(cpu_svn, cpu, strict=True), *list(zip(tee_tcb_svn, tdx, strict=True))[first:]]
            if all(has >= needs for has, needs in (*reached, (pce_svn, _integer(tcb, "pcesvn")))):
                return level_of(level)
        raise ValueError("tcb_info: no level for this platform")

    def module(self, tee_tcb_svn: bytes) -> TcbLevel | None:
        """The level of the module with this TEE_TCB_SVN; None for version 0. ``ValueError`` if there is none."""
        svn, version = tee_tcb_svn[0], tee_tcb_svn[1]
        if version == 0:
            return None
        name = f"TDX_{version:02X}"
        found = [identity for identity in self.identities if str(identity.get("id", "")).upper() == name]
        if len(found) != 1:
            raise ValueError(f"tcb_info: {len(found)} TDX module identities {name}, expected one")
        reached = [level for level in _objects(found[0], "tcbLevels") if _isvsvn(level) <= svn]
        if not reached:
            raise ValueError(f"tcb_info: TDX module {name} has no level for ISVSVN {svn}")
        return level_of(max(reached, key=_isvsvn))


@lru_cache(_KEPT)
def read(tcb_info: str) -> TcbInfo:
    """Read a TCB info, whose signature may not have been checked yet; ``ValueError`` if it is malformed."""
    value = _object("tcb_info", tcb_info)
    return TcbInfo(
        fmspc=_hex(value, "fmspc", 6),
        pce_id=_hex(value, "pceId", 2),
        validity=_validity("tcb_info", value),
        levels=_objects(value, "tcbLevels"),
        identities=_objects(value, "tdxModuleIdentities") if "tdxModuleIdentities" in value else (),
    )


@lru_cache(_KEPT)
def read_qe_identity(qe_identity: str) -> Validity:
    """The dates of a QE identity; ``ValueError`` if it is malformed."""
    return _validity("qe_identity", _object("qe_identity", qe_identity))


@lru_cache(_KEPT)
def levels_in(tcb_info: str, cpu_svn: bytes, pce_svn: int, tee_tcb_svn: bytes) -> tuple[TcbLevel, TcbLevel | None]:
    """The levels of platform and module in a TCB info; ``ValueError`` if it is malformed or has none."""
    found = read(tcb_info)
    return found.platform(cpu_svn, pce_svn, tee_tcb_svn), found.module(tee_tcb_svn)


def level_of(level: Any) -> TcbLevel:
    """A level of the collateral or of the QVL's claims, which have the same form; ``ValueError`` if malformed."""
    if not isinstance(level, dict):
        raise ValueError("a TCB level is not an object")
    status, date, advisories = level.get("tcbStatus"), level.get("tcbDate"), level.get("advisoryIDs") or []
    if not isinstance(status, str) or not isinstance(date, str) or not isinstance(advisories, list):
        raise ValueError("a TCB level without status or date")
    _seconds(date)
    return TcbLevel(status, date[:10], tuple(str(advisory) for advisory in advisories))


def advisories(levels: Iterable[TcbLevel | None]) -> tuple[str, ...]:
    """All advisories of ``levels``, each once, in their order."""
    return tuple(dict.fromkeys(each for level in levels if level is not None for each in level.advisory_ids))


def _isvsvn(level: Any) -> int:
    return _integer(_field(level, "tcb"), "isvsvn")


def _components(tcb: Any, name: str) -> list[int]:
    components = [_integer(each, "svn") for each in _objects(tcb, name)]
    if len(components) != COMPONENTS:
        raise ValueError(f"tcb_info: {len(components)} {name}, expected {COMPONENTS}")
    return components


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise ValueError(f"tcb_info: an object without {name}")
    return value[name]


def _integer(value: Any, name: str) -> int:
    found = _field(value, name)
    if not isinstance(found, int) or isinstance(found, bool):
        raise ValueError(f"tcb_info: {name} is not an integer")
    return found


def _objects(value: Any, name: str) -> tuple[Any, ...]:
    found = _field(value, name)
    if not isinstance(found, list) or len(found) > MAX_LEVELS or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"tcb_info: {name} is not a list of at most {MAX_LEVELS} objects")
    return tuple(found)


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = loads(text.encode(errors="replace"), what=name)
    except EvidenceError as error:
        raise ValueError(error.message) from error
    if not isinstance(value, dict):
        raise ValueError(f"{name}: not a JSON object")
    return value


def _hex(value: dict[str, Any], name: str, size: int) -> bytes:
    text = value.get(name)
    try:
        data = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise ValueError(f"tcb_info: {name} is not {size} bytes in hex")
    return data


def _validity(name: str, value: dict[str, Any]) -> Validity:
    dates = [value.get("issueDate"), value.get("nextUpdate")]
    try:
        issued, expires = (_seconds(date) for date in dates)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return Validity(name, issued, expires)


def _seconds(text: Any) -> int:
    try:
        return _instant(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a date `{str(text)[:40]}`, expected one like 2026-01-12T15:46:45Z") from error


@lru_cache(64)
def _instant(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
