"""What a field test found: one record, its strict JSON (`field.json`), and the names of the files around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads, unhex
from privml.events.registers import DIGEST_SIZE, TDX_REGISTERS
from privml.events.variants import VARIANTS
from privml.statement.launch import MAX_VALUES
from privml.verify.bare import Origin

FORMAT = "privml-field/v1"
RECORD = "field.json"
PAGE = "page.html"
PLATFORM = "platform.json"
FACTS = "facts.json"
LAUNCH = "launch.json"
BUNDLE = "bundle.json"
CAPTURE = "capture.tar"
REPLAY = "replay.json"
FILES = {
    RECORD: "this record, for programs",
    PAGE: "this page",
    PLATFORM: "the platform that was predicted, without its description",
    FACTS: "digests of the firmware and the UKI, from which registers are predicted",
    LAUNCH: "every predicted event",
    BUNDLE: "the attestation, as `verify --save` wrote it: quote with its certificates, logs, collateral",
    CAPTURE: "quote and log of the guest, and the tables of the platform's QEMU",
    REPLAY: "what `measure --replay` said of the capture",
}
"""Every file of an archive, and what it is; the first two are always there."""

STEPS = (
    "doctor",
    "predict",
    "run",
    "stages",
    "gpu",
    "verify",
    "registers",
    "capture",
    "replay",
    "bench",
)
"""The steps in order."""
PASSED, FAILED, NOT_RUN = RESULTS = ("passed", "failed", "not run")
PREDICTED, DIFFERS, UNKNOWN = VERDICTS = ("predicted", "differs", "not compared")
_STATUSES = ("ok", "warn", "fail", "warning", "skipped", "failed", "pending", "running")
_TEXT = 2000
_ROWS = 256


@dataclass(frozen=True)
class Step:
    """One step: its result, seconds, and the exit status of the verb that it ran (None: it ran none)."""

    name: str
    result: str
    seconds: int = 0
    status: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """A rung of `doctor --tdx`, or a stage of the guest's boot."""

    name: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class Register:
    """A register: the quoted value, the accepted ones, and the first event that differs (its place counts from 1).

    ``change`` is what to change, with the line of the platform's file where there is one.
    """

    name: str
    verdict: str
    quoted: str = ""
    accepted: tuple[str, ...] = ()
    event: int | None = None
    difference: str = ""
    change: str = ""

    def __str__(self) -> str:
        return f"differs at event {self.event}" if self.event is not None else self.verdict


@dataclass(frozen=True)
class Machine:
    """What was started: image, platform and size."""

    image: str
    variant: str
    manifest: str
    platform: str
    vcpus: int
    memory: int


@dataclass(frozen=True)
class Report:
    """A field test. ``origin`` says who signed the quote (`verify.bare.Origin`), empty without a quote."""

    tool: str
    simulation: bool
    origin: str = ""
    machine: Machine | None = None
    steps: tuple[Step, ...] = ()
    rungs: tuple[Row, ...] = ()
    stages: tuple[Row, ...] = ()
    registers: tuple[Register, ...] = ()
    bench: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """True for a run without a TD, or with a quote that the simulation's key signed: it is no evidence."""
        return self.simulation or self.origin == Origin.SIMULATED

    @property
    def equal(self) -> bool:
        """True when every register of the quote is a predicted one."""
        names = [register.name for register in self.registers if register.verdict == PREDICTED]
        return names == list(TDX_REGISTERS)

    def step(self, name: str) -> Step:
        """The step called ``name``."""
        return next(step for step in self.steps if step.name == name)

    def encode(self) -> bytes:
        """Canonical JSON."""
        value = asdict(self)
        value["files"] = {name: {"sha256": digest, "size": size} for name, (digest, size) in self.files.items()}
        return canonical({"format": FORMAT, **value})


def decode(data: bytes) -> Report:
    """Read a record; ``EvidenceError`` if it is not exactly what ``encode`` writes."""
    top = Fields(loads(data, what=RECORD), RECORD)
    top.text("format", one_of=(FORMAT,))
    report = Report(
        tool=top.text("tool", limit=40),
        simulation=top.boolean("simulation"),
        origin=top.text("origin", one_of=("", *Origin)),
        machine=_machine(top.fields_or_null("machine")),
        steps=tuple(map(_step, _rows(top, "steps"))),
        rungs=tuple(map(_row, _rows(top, "rungs"))),
        stages=tuple(map(_row, _rows(top, "stages"))),
        registers=tuple(map(_register, _rows(top, "registers"))),
    )
    if tuple(step.name for step in report.steps) != STEPS:
        raise EvidenceError(f"{RECORD}.steps: expected {', '.join(STEPS)}")
    bench, files = top.fields("bench"), top.fields("files")
    measured = {name[:80]: bench.integer(name) for name in bench.names()[:_ROWS]}
    listed = {}
    for name in files.names():
        if name not in FILES or name in (RECORD, PAGE):
            raise EvidenceError(f"{RECORD}.files: `{name[:80]}` is not a file of a field test")
        row = files.fields(name)
        listed[name] = row.hexadecimal("sha256", 32).hex(), row.integer("size")
        row.end()
    for fields in (bench, files, top):
        fields.end()
    report = replace(report, bench=measured, files=listed)
    if report.encode() != data:
        raise EvidenceError(f"{RECORD}: not canonical JSON")
    return report


def _rows(top: Fields, key: str) -> list[Fields]:
    return [Fields(item, f"{RECORD}.{key}[{i}]") for i, item in enumerate(top.array(key, limit=_ROWS))]


def _integer(fields: Fields, key: str) -> int | None:
    if fields.has(key):
        value = fields.take(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100_000:
            return value
    raise EvidenceError(f"{fields.path}.{key}: expected null or a number from 0")


def _machine(fields: Fields | None) -> Machine | None:
    if fields is None:
        return None
    machine = Machine(
        image=fields.text("image", limit=100),
        variant=fields.text("variant", one_of=VARIANTS),
        manifest=fields.hexadecimal("manifest", 32).hex(),
        platform=fields.text("platform", limit=100),
        vcpus=fields.integer("vcpus", low=1, high=4096),
        memory=fields.integer("memory", low=1),
    )
    fields.end()
    return machine


def _step(fields: Fields) -> Step:
    step = Step(
        name=fields.text("name", one_of=STEPS),
        result=fields.text("result", one_of=RESULTS),
        seconds=fields.integer("seconds"),
        status=_integer(fields, "status"),
        detail=fields.text("detail", limit=_TEXT),
    )
    fields.end()
    return step


def _row(fields: Fields) -> Row:
    row = Row(
        name=fields.text("name", limit=100),
        status=fields.text("status", one_of=_STATUSES),
        detail=fields.text("detail", limit=_TEXT),
    )
    fields.end()
    return row


def _register(fields: Fields) -> Register:
    quoted = fields.text("quoted", limit=2 * DIGEST_SIZE)
    accepted: list[Any] = fields.array("accepted", limit=MAX_VALUES)
    for value in [quoted, *accepted] if quoted else accepted:
        unhex(value, DIGEST_SIZE, what=fields.path)
    register = Register(
        name=fields.text("name", one_of=TDX_REGISTERS),
        verdict=fields.text("verdict", one_of=VERDICTS),
        quoted=quoted,
        accepted=tuple(accepted),
        event=_integer(fields, "event"),
        difference=fields.text("difference", limit=_TEXT),
        change=fields.text("change", limit=_TEXT),
    )
    fields.end()
    return register
