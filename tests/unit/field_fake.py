"""A field test without a machine: a TD's log and quote made from a prediction, signed by the simulation's key.

`python -m tests.unit.field_fake` writes the one that `tests/golden/test_received.py` compares.
"""

from __future__ import annotations

import base64
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.field import compared, facts, golden
from tests.field.record import BUNDLE, CAPTURE, FACTS, LAUNCH, STEPS, Machine, Report, Row, Step
from tests.golden.test_measure_boots import VECTORS, read_facts

from privml.base.strictjson import canonical
from privml.events import agent
from privml.events.event import Event
from privml.events.registers import MRTD, RTMR3, RTMRS
from privml.events.replay import replay_digests
from privml.events.tcg import LogEntry, encode_log
from privml.evidence.bundle import Bundle
from privml.evidence.capture import FW_CFG, FW_CFG_FOLDER, LOG, QUOTE, Capture
from privml.evidence.document import Document
from privml.machine.platform import Size
from privml.measure import pciwindow
from privml.measure.machine import MeasuredMachine
from privml.measure.predict import Prediction, predict
from privml.measure.profiles import TD_INTELTDX
from privml.recipe.loader import platform_path, shipped
from privml.sim.quote import collateral, make_quote
from privml.vm.platforms import platform
from privml.vm.predicted import measured_launch

PLATFORM = "qemu-11-q35"
PLATFORM_FILE = platform_path(PLATFORM, shipped())
EVENTS = (agent.config_event("ab" * 32), agent.system_ready_event())
_SHA384 = 0x000C
_JUDGED = 1_795_970_892


@dataclass(frozen=True)
class Made:
    """The parts of one field test."""

    prediction: Prediction
    document: Document
    report: Report
    files: Mapping[str, bytes]

    def registers(self) -> tuple[object, ...]:
        """What the comparison finds."""
        launch = measured_launch(self.prediction, platform(PLATFORM, shipped()), Size(2, 2 << 30))
        _, firmware, _ = facts.decode(self.files[FACTS])
        return compared.judge(self.document, launch, firmware, PLATFORM_FILE, simulated=False)


def made(
    *,
    changed: Mapping[int, bytes] | None = None,
    mrtd: bytes | None = None,
    rtmr3: bytes | None = None,
    lost: bool = False,
) -> Made:
    """A TD that measured what is predicted, but for the events with the numbers of ``changed``.

    ``lost``: the last event of RTMR1 is not in the log.
    """
    folder = VECTORS / "boot-tpm-intel-cpu"
    uki, firmware = read_facts(json.loads((folder / "facts.json").read_text()))
    packed = json.loads(lzma.decompress((folder / "blobs.json.xz").read_bytes()))
    blobs = {name: base64.b64decode(data) for name, data in packed.items()}
    machine = MeasuredMachine({"BootMenu": bytes(2), **blobs}, pciwindow.ram(blobs[pciwindow.E820]), TD_INTELTDX)
    prediction = predict(uki, firmware, machine, agent_events=EVENTS)
    ran = [
        replace(event, digest=(changed or {}).get(number, event.digest))
        for number, event in enumerate(prediction.events)
    ]
    values = {
        register: replay_digests(event.digest for event in ran if event.register == register) for register in RTMRS
    }
    values |= {MRTD: mrtd or firmware.mrtd_single, RTMR3: rtmr3 or values[RTMR3]}
    log = encode_log([_entry(event) for event in _without_last(ran, lost=lost) if event.register != RTMR3])
    lines = b"".join(agent.encode_line(number, event) + b"\n" for number, event in enumerate(EVENTS))
    quote = make_quote(values, bytes(64))
    document = Document(
        header=b"{}", nonce=bytes(32), path=(), keys=b"{}", devices=b"{}", eventlog=lines, bootlog=log,
        evidence=quote, collateral={"tdx": collateral()},
    )  # fmt: skip
    capture = Capture(
        {QUOTE: quote, LOG: log, **{FW_CFG_FOLDER + name: blobs[name] for name in FW_CFG if name in blobs}}
    )
    launch = measured_launch(prediction, platform(PLATFORM, shipped()), Size(2, 2 << 30))
    report = Report(
        tool="0.1",
        simulation=False,
        origin="genuine",
        machine=Machine("tdx-min", "production", "cd" * 32, PLATFORM, 2, 2 << 30),
        steps=tuple(Step(name, "passed") for name in STEPS),
        rungs=(Row("cpu", "ok", "Emerald Rapids | x"), Row("tdx-module", "ok", "initialized, 1.5.16")),
    )
    files = {
        BUNDLE: Bundle(document.encode(), bytes(32), bytes(32), _JUDGED).encode(),
        CAPTURE: capture.encode(),
        FACTS: canonical(facts.to_json(uki, firmware, EVENTS)),
        LAUNCH: canonical(launch.to_dict()),
    }
    return Made(prediction, document, report, files)


def _without_last(ran: list[Event], *, lost: bool) -> list[Event]:
    last = max(number for number, event in enumerate(ran) if event.register == "rtmr1")
    return [event for number, event in enumerate(ran) if not lost or number != last]


def _entry(event: Event) -> LogEntry:
    return LogEntry(RTMRS.index(event.register) + 1, event.type, {_SHA384: event.digest}, b"")


def written(path: Path, data: bytes) -> Path:
    """``path`` with ``data`` in it."""
    path.write_bytes(data)
    return path


def simulated() -> dict[str, bytes]:
    """The files of the golden test: another order of boot, and the last event of RTMR1 is not in the log."""
    changed = next(number for number, event in enumerate(made().prediction.events) if event.origin == "bootorder")
    one = made(changed={changed: b"\x07" * 48}, lost=True)
    return golden.files(one.files[CAPTURE], one.files[FACTS], {"simulated": True})


if __name__ == "__main__":
    golden.SIMULATED.mkdir(exist_ok=True)
    for name, data in simulated().items():
        written(golden.SIMULATED / name, data)
