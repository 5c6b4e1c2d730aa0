"""`inspect` of a file: judge a bare quote, SNP report, TDREPORT or token."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start
from privml.base.steps import complain
from privml.base.strictjson import unhex
from privml.base.times import time_text
from privml.cli.anchor import collateral_in
from privml.cli.output import print_json, show
from privml.cli.policy import policy_of
from privml.client import anchors, bare, subject
from privml.client.bare import Evidence
from privml.client.supply import supply
from privml.events.registers import LAUNCH, REGISTERS, RTMR3
from privml.evidence import document
from privml.evidence.bundle import is_bundle
from privml.evidence.cca import token as tokens
from privml.evidence.document import Document
from privml.evidence.sections import FORMAT as ATTESTATION
from privml.evidence.sections import Header
from privml.evidence.snp import claims as snp
from privml.evidence.tdx import claims as tdx
from privml.readers import ccatoken, files, snpreport
from privml.readers.evidence import UNCHECKED, quote_file
from privml.readers.file import File
from privml.statement.launch import MeasuredLaunch
from privml.verify import cca
from privml.verify.bare import REPORT_DATA, Finding, Origin, Value, closest
from privml.verify.check import CODES

PROVES = "proves no key and no freshness"
_HEADLINES = {
    Origin.GENUINE: "GENUINE",
    Origin.NAMED_KEY: "SIGNED BY THE KEY THAT YOU NAMED",
    Origin.SIMULATED: "SIMULATED (no hardware vouches for this)",
    Origin.REFUSED: "SIGNATURE REFUSED",
    Origin.UNPROVEN: "NOT PROVEN (no signature was checked)",
}
_UNCHECKED = (UNCHECKED, snpreport.UNCHECKED, ccatoken.UNCHECKED)
"""Notes of readers, which check no signature."""
_GUESTS = {tdx.TEE: "a TD", snp.TEE: "an SEV-SNP guest", cca.TEE: "a CCA realm"}
_NAMES: Mapping[str, tuple[str, ...]] = {**REGISTERS, cca.TEE: tokens.REGISTERS}
_CODES = {**CODES, **cca.CODES}
_SIGNED = (Origin.GENUINE, Origin.SIMULATED, Origin.NAMED_KEY)
_EQUAL = {True: "EQUAL to", False: "DIFFERS from"}


@dataclass(frozen=True)
class Expectation:
    """The values that a caller expects of evidence, and where they are from: ``launch`` if it is a prediction."""

    source: str
    values: Mapping[str, tuple[bytes, ...]]
    launch: MeasuredLaunch | None = None

    @property
    def shape(self) -> str:
        """The label of the predicted launch; empty without one."""
        return "" if self.launch is None else self.launch.label


@dataclass(frozen=True)
class Bare:
    """A file with evidence of a TEE: what it is, the evidence, and its registers by name."""

    file: File
    evidence: Evidence
    registers: Mapping[str, bytes]

    @property
    def tee(self) -> str:
        """Its TEE."""
        return self.evidence.tee


def inspect_file(
    path: Path,
    *,
    expect: Path | None,
    registers: Path | None,
    values: tuple[str, ...],
    report_data: str | None,
    collateral_files: tuple[Path, ...],
    platform_key: Path | None,
    simulated_root: Path | None,
    policy_file: Path | None,
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
    found = _of_file(path) if inside is None else _of_document(path, inside)
    expected = _stated(found, values) if values else _expected(found, expect, registers)
    compared = _values(found, expected, wanted)
    if found.tee == cca.TEE:
        others = {
            "--expect": expect,
            "--allow-simulated": simulated_root,
            "--policy": policy_file,
            "--at": at,
            "--collateral": collateral_files or None,
        }
        _only_of_others(path, others)
        finding = _of_token(found, compared, platform_key)
    else:
        if platform_key is not None:
            raise UsageError(f"--platform-key is for a token of a CCA realm, and {path} is of {_GUESTS[found.tee]}")
        policy = policy_of(simulated_root, policy_file)
        collateral = _given(found, collateral_files, policy.allow_simulated)
        if collateral is None and found.evidence.data is not None and at is None:
            subject_of = inside or found.evidence.document
            collateral = supply(None, offline=True, policy=policy).of_quote(found.tee, subject_of)
        if collateral is None and inside is not None:
            collateral = (inside.collateral or {}).get(found.tee)
        launch = None if expected is None else expected.launch
        finding = bare.judge(found.evidence, compared, policy, now=as_of, collateral=collateral, launch=launch)
    if as_json:
        print_json(_to_dict(path, found, finding, expected, as_of))
    else:
        _show(path, found, finding, expected, as_of, now)
    return finding.exit_code


def _of_file(path: Path) -> Bare:
    file = files.read(path)
    if file.report is not None:
        return _of_report(file)
    if file.cca is not None:
        return Bare(file, Evidence(cca.TEE, file.cca), file.description.registers)
    if file.claimed is None:
        raise UsageError(
            f"{path} is {file.description.title}: it holds no register values of a guest that could be judged",
            hint=f"`privml-build measure {path}` describes it",
        )
    return Bare(file, Evidence(tdx.TEE, file.quote), file.claimed)


def _of_document(path: Path, inside: Document) -> Bare:
    if Header.decode(inside.header).tee == snp.TEE:
        return _of_report(snpreport.report_file(path, inside.evidence), inside.certificates)
    file = quote_file(path, inside.evidence)
    assert file.claimed is not None
    return Bare(file, Evidence(tdx.TEE, file.quote), file.claimed)


def _of_report(file: File, certificates: tuple[bytes, ...] = ()) -> Bare:
    return Bare(file, Evidence(snp.TEE, file.report, certificates), {LAUNCH: file.description.registers[LAUNCH]})


def _only_of_others(path: Path, options: Mapping[str, object]) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UsageError(
            f"{given[0]} is for quotes and reports, and {path} is a token of a CCA realm",
            hint="--platform-key names the key that vouches for it, --value what its measurements must be",
        )


def _of_token(found: Bare, values: tuple[Value, ...], platform_key: Path | None) -> Finding:
    # Only tokens need what checks their signatures.
    from privml.evidence.cca import signature

    assert found.evidence.data is not None
    key = None
    if platform_key is not None:
        try:
            key = signature.read_key(read_start(platform_key, signature.MAX_KEY))
        except EvidenceError as error:
            raise UsageError(f"--platform-key {platform_key}: {error.message}") from error
    token = tokens.parse(found.evidence.data)
    return cca.judge(cca.Case(token, signature.check(token, key)), values)


def _given(found: Bare, paths: tuple[Path, ...], simulated_root: bytes | None) -> Mapping[str, str] | None:
    """The collateral that the caller gave: Intel's fields in one file, or AMD's files and folders; None if none."""
    if not paths:
        return None
    if found.tee == tdx.TEE:
        if len(paths) > 1 or paths[0].is_dir():
            raise UsageError(
                "--collateral: expected one file with the nine fields of Intel's QVL for a quote of a TD"
            )
        return collateral_in(paths[0])
    # Only reports with files of AMD's need what reads them.
    from privml.client import kdsfiles

    read, errors = kdsfiles.read(paths)
    for error in errors:
        if not any(place.is_dir() for place in paths):
            raise error
        complain(f"skipped {error.message}")
    assert found.evidence.data is not None
    collateral = read.fields(found.evidence.data, found.evidence.certificates, simulated_root=simulated_root)
    if not collateral:
        named = ", ".join(map(str, paths))
        raise UsageError(
            f"--collateral {named}: no chain of a VCEK or VLEK, its issuer and AMD's root is in it",
            hint="AMD's service has vcek (DER), cert_chain (PEM) and crl (DER); give all of them, or their folder",
        )
    return collateral


def _report_data(text: str) -> bytes:
    """The 64 bytes that ``text`` stands for."""
    try:
        data = unhex(text, what="--report-data")
    except EvidenceError as error:
        raise UsageError(error.message) from error
    if len(data) not in (32, 64):
        raise UsageError(f"--report-data: {len(data)} bytes, expected 64, or 32 that are followed by zeros")
    return data.ljust(64, b"\0")


def _stated(found: Bare, values: tuple[str, ...]) -> Expectation:
    """The values of ``--value NAME=HEX``."""
    stated: dict[str, tuple[bytes, ...]] = {}
    for text in values:
        name, _, digits = text.partition("=")
        if name not in _NAMES[found.tee] or not digits:
            known = ", ".join(_NAMES[found.tee])
            raise UsageError(f"--value: got `{text[:40]}`, expected NAME=HEX with a name of {known}")
        try:
            value = unhex(digits, what=f"--value {name}")
        except EvidenceError as error:
            raise UsageError(error.message) from error
        stated[name] = (*stated.get(name, ()), value)
    return Expectation("the values given", stated)


def _expected(found: Bare, expect: Path | None, registers: Path | None) -> Expectation | None:
    if expect is not None:
        anchor = anchors.built(expect)
        return _of_launches(str(anchor.anchor), anchor.predicate.launches, found)
    if registers is None:
        return None
    file = files.read(registers)
    if file.shapes:
        return _of_launches(str(registers), file.shapes, found)
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
    return Expectation(str(registers), values)


def _of_launches(source: str, launches: tuple[MeasuredLaunch, ...], found: Bare) -> Expectation:
    launch = closest(launches, found.registers, found.tee)
    if launch is None:
        raise UsageError(f"{source} predicts no launch of {_GUESTS[found.tee]}")
    values = {name: launch.accepted(name) for name in _NAMES[found.tee] if launch.accepted(name)}
    return Expectation(source, values, launch)


def _values(found: Bare, expected: Expectation | None, report_data: bytes | None) -> tuple[Value, ...]:
    values = [
        Value(name, found.registers[name], expected.values[name])
        for name in _NAMES[found.tee]
        if expected is not None and name in found.registers and name in expected.values
    ]
    if expected is not None and not values:
        raise UsageError(f"{expected.source} and {found.file.path} have no register in common")
    if report_data is not None:
        facts = found.file.description.facts
        if REPORT_DATA not in facts:
            raise UsageError(f"--report-data: {found.file.path} has no report data")
        values.append(Value(REPORT_DATA, bytes.fromhex(facts[REPORT_DATA]), (report_data,)))
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


def _uncompared(found: Bare, finding: Finding, expected: Expectation | None) -> list[str]:
    compared = {value.name for value in finding.values}
    return [name for name in _NAMES[found.tee] if expected is not None and name not in compared]


def _notes(found: Bare, finding: Finding, expected: Expectation | None) -> list[str]:
    left = _uncompared(found, finding, expected)
    notes = [note for note in found.file.description.notes if note not in _UNCHECKED] + list(finding.notes)
    if left:
        notes.append(f"not compared, because one side has no value: {', '.join(left)}")
    return notes


def _show(path: Path, found: Bare, finding: Finding, expected: Expectation | None, as_of: int, now: int) -> None:
    outcome = _HEADLINES[finding.origin]
    if found.tee == cca.TEE and finding.origin is Origin.UNPROVEN:
        outcome = "NOT PROVEN (its own keys signed it, and nobody vouches for them)"
    if finding.refusals and finding.origin in _SIGNED:
        outcome += ", REFUSED by the policy"
    if finding.equal is not None:
        outcome += f", {_EQUAL[finding.equal]} {'the value given' if expected is None else expected.source}"
    show(f"{outcome}: {path}, {found.file.description.title}; {PROVES}")
    if found.tee != cca.TEE and (finding.origin is not Origin.UNPROVEN or finding.refusals):
        when = "now" if as_of == now else "the time you gave, not now"
        show(f"  checked as of {time_text(as_of)} ({when})")
    if expected is not None and expected.shape:
        show(f"  shape: {expected.shape}")
    for refusal in finding.refusals:
        show(f"  {refusal.code}: {_CODES[refusal.code]}", f"    got      {refusal.got}")
        show(f"    expected {refusal.expected}")
    for refusal in finding.relaxed:
        show(f"  relaxed: {refusal.code}: got {refusal.got}, the default policy expects {refusal.expected}")
    for value in finding.values:
        if value.equal:
            show(f"  {value.name}: equal")
        else:
            show(f"  {value.name}: differs", f"    got      {value.got.hex()}")
            show(f"    expected {' or '.join(one.hex() for one in value.expected)}")
    if not finding.values:
        for name, got in found.registers.items():
            show(f"  {name}  {got.hex()}")
        for name, text in found.file.description.facts.items():
            show(f"  {name}: {text}")
    for note in _notes(found, finding, expected):
        show(f"  note: {note}")


def _to_dict(path: Path, found: Bare, finding: Finding, expected: Expectation | None, as_of: int) -> dict[str, Any]:
    return {
        "file": str(path),
        "kind": found.file.description.kind,
        "title": found.file.description.title,
        "origin": finding.origin.value,
        "equal": finding.equal,
        "as_of": as_of,
        "against": None if expected is None else expected.source,
        "shape": "" if expected is None else expected.shape,
        "registers": {name: value.hex() for name, value in found.registers.items()},
        "facts": found.file.description.facts,
        "refusals": [refusal.to_dict() for refusal in finding.refusals],
        "relaxed": [refusal.to_dict() for refusal in finding.relaxed],
        "values": [value.to_dict() for value in finding.values],
        "not_compared": _uncompared(found, finding, expected),
        "notes": _notes(found, finding, expected),
        "proves_key": False,
        "proves_freshness": False,
    }
