"""Run a verifier over the cases of ``tests/vectors/negative`` and compare its answers with the expected ones.

A verifier reads one case a line on standard input and writes one answer a line: its outcome and refusal codes. This
module asks any program that does, and is itself such a verifier (`answer`). Contract: docs/VERIFIERS.md.
"""

from __future__ import annotations

import json
import os
import shlex
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from privml.base.errors import EvidenceError, HostError, UsageError
from privml.base.run import run
from privml.base.strictjson import Fields, b64, loads, unb64, unhex
from privml.client import attested
from privml.evidence.document import MAX_DOCUMENT
from privml.evidence.nvidia import collateral as nvidia_collateral
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.evidence.tdx import collateral as collaterals
from privml.statement.predicate import Predicate
from privml.verify import policyfield
from privml.verify.anchor import Built, Expected
from privml.verify.policy import Policy
from privml.verify.verdict import Outcome

INDEX = "privml-negative/v1"
ARCHIVE = "inputs.tar.xz"
CASE = "privml-case/v1"
MALFORMED = "malformed"
OUTCOMES = (*(outcome.value for outcome in Outcome), MALFORMED)
_TIMEOUT = 600.0
_MAX_LINE = 4 * MAX_DOCUMENT
_MAX_ROOT = 16 * 1024


@dataclass(frozen=True)
class Wanted:
    """The expected answer: ``codes`` must all be given, ``also`` may be."""

    outcome: str
    codes: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Answer:
    """What a verifier answered."""

    outcome: str
    codes: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return " ".join([self.outcome, *sorted(self.codes)])


@dataclass(frozen=True)
class Case:
    """A case: ``question`` is the JSON object that a verifier reads, ``about`` a sentence for people."""

    name: str
    about: str
    question: dict[str, Any]
    wanted: Wanted


class Mark(StrEnum):
    """How an answer compares with the expected one."""

    RIGHT = "right"
    WRONG_CODE = "wrong code"
    WRONG = "wrong"


@dataclass(frozen=True)
class Result:
    """A case with its answer; None if there is none."""

    case: Case
    answer: Answer | None

    @property
    def mark(self) -> Mark:
        """Right, refused for another reason, or wrong."""
        answer, wanted = self.answer, self.case.wanted
        if answer is None:
            return Mark.WRONG
        if answer.outcome != wanted.outcome:
            refused = (Outcome.REFUSED.value, MALFORMED)
            return Mark.WRONG_CODE if answer.outcome in refused and wanted.outcome in refused else Mark.WRONG
        some = bool(answer.codes) == (wanted.outcome == Outcome.REFUSED)
        return Mark.RIGHT if some and wanted.codes <= answer.codes <= wanted.codes | wanted.also else Mark.WRONG_CODE


def directory() -> Path:
    """Where the cases are: in this checkout, or in the installed package."""
    package = Path(__file__).parent
    installed = package / "data"
    return installed if installed.is_dir() else package.parents[2] / "tests" / "vectors" / "negative"


def cases(folder: Path) -> tuple[Case, ...]:
    """Read the index in ``folder`` and the archive of its inputs; ``UsageError`` if they are not there."""
    try:
        return from_inputs((folder / "index.json").read_bytes(), read_inputs(folder))
    except OSError as error:
        raise UsageError(f"{folder}: no cases: {error.strerror or error}") from error


def read_inputs(folder: Path) -> dict[str, bytes]:
    """The documents, statements and collateral of the cases by name."""
    with tarfile.open(folder / ARCHIVE, "r:xz") as archive:
        return {member.name: file.read() for member in archive if (file := archive.extractfile(member))}


def from_inputs(index: bytes, inputs: Mapping[str, bytes]) -> tuple[Case, ...]:
    """The cases of an index whose inputs are given by name."""
    top = Fields(loads(index, what="index.json"), "index")
    top.text("format", one_of=(INDEX,))
    found = tuple(_case(inputs, Fields(item, "case")) for item in top.array("cases", limit=100_000))
    top.end()
    return found


def _case(inputs: Mapping[str, bytes], row: Fields) -> Case:
    def content(name: str) -> bytes | None:
        at = row.take(name)
        return None if at is None else inputs[at]

    def value(name: str) -> Any:
        data = content(name)
        return None if data is None else json.loads(data)

    name, about = row.text("name"), row.text("about")
    root = content("simulated_root")
    question = {
        "format": CASE,
        "id": name,
        "document": b64(inputs[row.text("document")]),
        "statement": json.loads(inputs[row.text("statement")]),
        "simulated_root": None if root is None else b64(root),
        **{key: value(key) for key in ("collateral", "device_collateral", "simulated_device_roots")},
        **{key: row.take(key) for key in ("purpose", "policy", "nonce", "tls_spki_sha256", "time")},
    }
    outcome = row.text("outcome", one_of=OUTCOMES)
    codes, also = (frozenset(map(str, row.array(key))) for key in ("codes", "also"))
    row.end()
    return Case(name, about, question, Wanted(outcome, codes, also))


def answer(line: bytes) -> dict[str, Any]:
    """This verifier's answer to one case; ``EvidenceError`` if the line is not a case."""
    fields = Fields(loads(line, what="case", limit=_MAX_LINE), "case")
    fields.text("format", one_of=(CASE,))
    name = fields.text("id")
    document = fields.base64("document", limit=2 * MAX_DOCUMENT)
    predicate = Predicate.from_dict(fields.take("statement"), "case.statement")
    collateral, of_devices = fields.take("collateral"), fields.take("device_collateral")
    purpose, table, root = fields.text("purpose"), fields.take("policy"), fields.take("simulated_root")
    roots = _device_roots(fields.take("simulated_device_roots"))
    nonce, spki = (_bytes(fields.take(key)) for key in ("nonce", "tls_spki_sha256"))
    now = fields.integer("time")
    fields.end()
    simulated = None if root is None else unb64(root, what="case.simulated_root")
    given = policyfield.read(Policy, table)
    nvidia = replace(given.nvidia, allow_simulated=roots)
    policy = replace(given, purpose=purpose, allow_simulated=simulated, nvidia=nvidia)
    try:
        judgement = attested.judge(
            document,
            Expected(predicate, Built("a case")),
            policy,
            now=now,
            nonce=nonce,
            tls_spki_sha256=spki,
            collateral=None if collateral is None else collaterals.decode(collateral),
            device_collateral=None if of_devices is None else _device_collateral(of_devices),
        )
    except EvidenceError:
        return {"id": name, "outcome": MALFORMED, "codes": []}
    verdict = judgement.verdict
    codes = sorted({refusal.code for refusal in verdict.refusals})
    return {"id": name, "outcome": verdict.outcome.value, "codes": codes}


def _device_collateral(value: object) -> NvidiaCollateral:
    return nvidia_collateral.of({"nvidia": nvidia_collateral.decode(value, "case.device_collateral")})


def _device_roots(value: object) -> tuple[bytes, bytes] | None:
    """The DER of a simulation's roots of devices and of reference values; None if none is allowed."""
    if value is None:
        return None
    fields = Fields(value, "case.simulated_device_roots")
    roots = fields.base64("devices", limit=_MAX_ROOT), fields.base64("rims", limit=_MAX_ROOT)
    fields.end()
    return roots


def _bytes(text: object) -> bytes | None:
    return None if text is None else unhex(text, what="case")


def compare(found: Iterable[Case], answers: Iterable[bytes]) -> tuple[Result, ...]:
    """The cases with their answers, which come as lines in any order; ``HostError`` for a line that is none."""
    by_name = dict(map(_answer, answers))
    results = tuple(Result(case, by_name.pop(case.name, None)) for case in found)
    if by_name:
        raise HostError(f"the verifier answered a case that was not asked: `{min(by_name)}`")
    return results


def _answer(line: bytes) -> tuple[str, Answer]:
    try:
        fields = Fields(loads(line, what="answer"), "answer")
        name, outcome = fields.text("id"), fields.text("outcome", one_of=OUTCOMES)
        codes = frozenset(map(str, fields.array("codes")))
        fields.end()
    except EvidenceError as error:
        raise HostError(f"the verifier's line is not an answer: {error.message}") from error
    return name, Answer(outcome, codes)


def ask(command: str, found: tuple[Case, ...]) -> tuple[Result, ...]:
    """Run ``command`` (words as in a shell) over the cases; ``HostError`` if it fails or answers something else."""
    words = shlex.split(command)
    if not words:
        raise UsageError("--conformance: expected a command")
    asked = b"".join(json.dumps(case.question).encode() + b"\n" for case in found)
    done = run(words, env=os.environ, stdin=asked, timeout=_TIMEOUT, what=words[0])
    return compare(found, done.stdout.splitlines())


def count(results: tuple[Result, ...]) -> str:
    """The last line of a comparison."""
    negative = [result for result in results if result.case.wanted.outcome in (Outcome.REFUSED, MALFORMED)]
    refused = [
        result for result in negative if result.answer and result.answer.outcome in (Outcome.REFUSED, MALFORMED)
    ]
    marks = [result.mark for result in results]
    codes, wrong = marks.count(Mark.WRONG_CODE), marks.count(Mark.WRONG)
    return f"tried {len(negative)}, refused {len(refused)}, wrong code {codes}, wrong {wrong}"


def table(results: tuple[Result, ...]) -> Iterator[str]:
    """Right answers by group, then every other answer, then `count`."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.case.name.partition("-")[0], []).append(result)
    for group, of in groups.items():
        right = sum(result.mark is Mark.RIGHT for result in of)
        yield f"{group:12} {right:4} of {len(of):4} right"
    for result in results:
        if result.mark is not Mark.RIGHT:
            wanted = " ".join([result.case.wanted.outcome, *sorted(result.case.wanted.codes)])
            yield f"{result.mark.value}: {result.case.name}: {result.case.about}"
            yield f"  got {result.answer or 'no answer'}, expected {wanted}"
    yield count(results)
