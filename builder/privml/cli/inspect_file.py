"""`inspect` of a file: judge a bare quote, TDREPORT or token."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start
from privml.base.strictjson import unhex
from privml.base.times import time_text
from privml.cli.anchor import collateral_in
from privml.cli.output import print_json, show
from privml.cli.policy import policy_of
from privml.client import anchors, bare, subject
from privml.client.supply import supply
from privml.events.registers import REGISTERS, RTMR3
from privml.evidence import document
from privml.evidence.bundle import is_bundle
from privml.evidence.document import Document
from privml.evidence.sections import FORMAT as ATTESTATION
from privml.readers import files
from privml.readers.evidence import UNCHECKED, quote_file
from privml.readers.file import File
from privml.statement.launch import MeasuredLaunch
from privml.verify.bare import REPORT_DATA, Finding, Origin, Value, closest
from privml.verify.check import CODES

PROVES = "proves no key and no freshness"
_HEADLINES = {
    Origin.GENUINE: "GENUINE",
    Origin.SIMULATED: "SIMULATED (no hardware vouches for this)",
    Origin.REFUSED: "SIGNATURE REFUSED",
    Origin.UNPROVEN: "NOT PROVEN (no signature was checked)",
}
_SIGNED = (Origin.GENUINE, Origin.SIMULATED)
_EQUAL = {True: "EQUAL to", False: "DIFFERS from"}


@dataclass(frozen=True)
class Expectation:
    """The values that a caller expects of evidence, and where they are from."""

    source: str
    shape: str
    values: Mapping[str, tuple[bytes, ...]]


def inspect_file(
    path: Path,
    *,
    expect: Path | None,
    registers: Path | None,
    report_data: str | None,
    collateral_file: Path | None,
    simulated_root: Path | None,
    at: str | None,
    as_json: bool,
) -> int:
    """Judge the evidence in ``path`` and print the finding; the exit status."""
    now = int(time.time())
    try:
        as_of = now if at is None else subject.time_of(at)
    except ValueError as error:
        raise UsageError(f"--at {at}: expected a time like 2026-11-29T04:00:00Z") from error
    wanted = None if report_data is None else _report_data(report_data)
    inside = _document_in(path)
    file = files.read(path) if inside is None else quote_file(path, inside.evidence)
    if file.claimed is None:
        raise UsageError(
            f"{path} is {file.description.title}: it holds no register values of a TD that could be judged",
            hint=f"`privml-build measure {path}` describes it",
        )
    expected = _expected(file.claimed, expect, registers)
    values = _values(file, expected, wanted)
    policy = policy_of(simulated_root)
    collateral: Mapping[str, str] | None = collateral_in(collateral_file)
    if collateral is None and file.quote is not None and at is None:
        collateral = supply(None, offline=True, policy=policy).for_quote(file.quote, own=inside is not None)
    if collateral is None and inside is not None:
        collateral = (inside.collateral or {}).get(bare.TEE)
    finding = bare.judge(file.quote, values, policy, now=as_of, collateral=collateral)
    if as_json:
        print_json(_to_dict(path, file, finding, expected, as_of))
    else:
        _show(path, file, finding, expected, as_of, now)
    return finding.exit_code


def _report_data(text: str) -> bytes:
    """The 64 bytes that ``text`` stands for."""
    try:
        data = unhex(text, what="--report-data")
    except EvidenceError as error:
        raise UsageError(error.message) from error
    if len(data) not in (32, 64):
        raise UsageError(f"--report-data: {len(data)} bytes, expected 64, or 32 that are followed by zeros")
    return data.ljust(64, b"\0")


def _expected(claimed: Mapping[str, bytes], expect: Path | None, registers: Path | None) -> Expectation | None:
    if expect is not None:
        found = anchors.built(expect)
        return _of_launches(str(found.anchor), found.predicate.launches, claimed)
    if registers is None:
        return None
    file = files.read(registers)
    if file.shapes:
        return _of_launches(str(registers), file.shapes, claimed)
    values: dict[str, tuple[bytes, ...]] = {
        name: (value,) for name, value in (file.claimed or file.description.registers).items()
    }
    if (
        file.claimed is None
        and file.log is not None
        and not any(event.register == RTMR3 for event in file.log.logged)
    ):
        values.pop(RTMR3, None)  # firmware's log has no event of it, which says nothing of its value
    if file.description.mrtd:
        values["mrtd"] = tuple(file.description.mrtd.values())
    if not values:
        raise UsageError(f"--registers {registers}: {file.description.title} has no register values")
    return Expectation(str(registers), "", values)


def _of_launches(source: str, launches: tuple[MeasuredLaunch, ...], claimed: Mapping[str, bytes]) -> Expectation:
    launch = closest(launches, claimed, bare.TEE)
    if launch is None:
        raise UsageError(f"{source} predicts no launch of a TD")
    values = {name: launch.accepted(name) for name in REGISTERS[bare.TEE] if launch.accepted(name)}
    return Expectation(source, launch.label, values)


def _values(file: File, expected: Expectation | None, report_data: bytes | None) -> tuple[Value, ...]:
    assert file.claimed is not None
    values = [
        Value(name, file.claimed[name], expected.values[name])
        for name in REGISTERS[bare.TEE]
        if expected is not None and name in file.claimed and name in expected.values
    ]
    if expected is not None and not values:
        raise UsageError(f"{expected.source} and {file.path} have no register in common")
    if report_data is not None:
        if REPORT_DATA not in file.description.facts:
            raise UsageError(f"--report-data: {file.path} has no report data")
        values.append(Value(REPORT_DATA, bytes.fromhex(file.description.facts[REPORT_DATA]), (report_data,)))
    return tuple(values)


def _document_in(path: Path) -> Document | None:
    """The document in a file that is one, or a bundle, whose collateral then replaces its own; else None."""
    if not path.is_file():
        return None
    data = read_start(path, subject.MAX_FILE)
    if f'"{ATTESTATION}"'.encode() not in data and not is_bundle(data):
        return None
    found = subject.read(data)
    inside = document.parse(found.document)
    kinds = None if found.bundle is None else found.bundle.collateral
    return inside if kinds is None else replace(inside, collateral=kinds)


def _uncompared(finding: Finding, expected: Expectation | None) -> list[str]:
    compared = {value.name for value in finding.values}
    return [name for name in REGISTERS[bare.TEE] if expected is not None and name not in compared]


def _notes(file: File, finding: Finding, expected: Expectation | None) -> list[str]:
    left = _uncompared(finding, expected)
    notes = [note for note in file.description.notes if note != UNCHECKED] + list(finding.notes)
    if left:
        notes.append(f"not compared, because one side has no value: {', '.join(left)}")
    return notes


def _show(path: Path, file: File, finding: Finding, expected: Expectation | None, as_of: int, now: int) -> None:
    outcome = _HEADLINES[finding.origin]
    if finding.refusals and finding.origin in _SIGNED:
        outcome += ", REFUSED by the policy"
    if finding.equal is not None:
        outcome += f", {_EQUAL[finding.equal]} {'the value given' if expected is None else expected.source}"
    show(f"{outcome}: {path}, {file.description.title}; {PROVES}")
    if finding.origin is not Origin.UNPROVEN or finding.refusals:
        when = "now" if as_of == now else "the time you gave, not now"
        show(f"  checked as of {time_text(as_of)} ({when})")
    if expected is not None and expected.shape:
        show(f"  shape: {expected.shape}")
    for refusal in finding.refusals:
        show(f"  {refusal.code}: {CODES[refusal.code]}", f"    got      {refusal.got}")
        show(f"    expected {refusal.expected}")
    for value in finding.values:
        if value.equal:
            show(f"  {value.name}: equal")
        else:
            show(f"  {value.name}: differs", f"    got      {value.got.hex()}")
            show(f"    expected {' or '.join(one.hex() for one in value.expected)}")
    if not finding.values:
        for name, got in (file.claimed or {}).items():
            show(f"  {name}  {got.hex()}")
        for name, text in file.description.facts.items():
            show(f"  {name}: {text}")
    for note in _notes(file, finding, expected):
        show(f"  note: {note}")


def _to_dict(path: Path, file: File, finding: Finding, expected: Expectation | None, as_of: int) -> dict[str, Any]:
    return {
        "file": str(path),
        "kind": file.description.kind,
        "title": file.description.title,
        "origin": finding.origin.value,
        "equal": finding.equal,
        "as_of": as_of,
        "against": None if expected is None else expected.source,
        "shape": "" if expected is None else expected.shape,
        "registers": {name: value.hex() for name, value in (file.claimed or {}).items()},
        "facts": file.description.facts,
        "refusals": [refusal.to_dict() for refusal in finding.refusals],
        "values": [value.to_dict() for value in finding.values],
        "not_compared": _uncompared(finding, expected),
        "notes": _notes(file, finding, expected),
        "proves_key": False,
        "proves_freshness": False,
    }
