"""Compare the prediction for a captured machine with what that TD measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError, MeasurementError
from privml.base.strictjson import loads
from privml.events.agent import AgentEvent
from privml.events.event import Event
from privml.events.registers import MRTD, RTMR3, RTMRS
from privml.events.replay import replay_digests
from privml.evidence.capture import DEVICES, Capture
from privml.measure import payload, pciwindow
from privml.measure.compare import Comparison, compare
from privml.measure.firmware import FirmwareFacts
from privml.measure.machine import DiskBoot, MeasuredMachine
from privml.measure.predict import predict
from privml.measure.profiles import TD_INTELTDX
from privml.measure.uki import UkiFacts
from privml.readers.file import File

# QEMU's legacy key of that name is in no guest's file system; it holds this unless the host said `-boot menu=on`.
_BOOT_MENU = bytes(2)
_LOGGED = RTMRS[:3]
_VIRTIO, _DISKS = "0x1af4", ("0x1001", "0x1042")
_SLOT = re.compile(r"0000:00:([01][0-9a-f])\.0")


@dataclass(frozen=True)
class Replayed:
    """The comparison of the log; ``problems`` are differences without an event, ``notes`` say what was left out."""

    comparison: Comparison
    predicted: tuple[Event, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """True when log and quote match the prediction."""
        return self.comparison.equal and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `measure --replay --json`."""
        return {
            "equal": self.equal,
            "matched": dict(self.comparison.matched.items()),
            "differences": [difference.to_dict() for difference in self.comparison.differences],
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def replay(
    image: UkiFacts,
    fw: FirmwareFacts,
    file: File,
    *,
    origins: Mapping[str, str],
    agent_events: Sequence[AgentEvent],
    gpt_event: bytes | None = None,
) -> Replayed:
    """Predict for the captured machine and compare: the log event by event, the quote by registers.

    ``gpt_event``, as ``gpt.table`` gives it, is of the disk that the image boots from.
    """
    capture = file.capture
    if capture is None or file.log is None:
        raise MeasurementError(f"{file.path}: the capture has no event log")
    notes = list(file.description.notes)
    blobs = {"BootMenu": _BOOT_MENU, **capture.blobs}
    registers: tuple[str, ...] = _LOGGED
    try:
        boot = None if gpt_event is None else DiskBoot.of_slots(gpt_event, _disks(capture))
        machine = MeasuredMachine(blobs, pciwindow.ram(blobs.get(pciwindow.E820, b"")), TD_INTELTDX, disk=boot)
        prediction = predict(image, fw, machine, agent_events=agent_events, origins=origins)
        events = prediction.events
    except MeasurementError as error:
        notes.append(f"rtmr0 is not compared: {error.message}")
        events = (
            payload.direct(image, TD_INTELTDX)
            if gpt_event is None
            else payload.from_disk(image, gpt_event, TD_INTELTDX)
        )
        registers = _LOGGED[1:]
    comparison = compare(events, file.log.entries, tpm=False, registers=registers)
    problems = []
    for register in _LOGGED if file.claimed is not None else ():
        if file.description.registers[register] != (file.claimed or {})[register]:
            problems.append(f"{register.upper()}: the quote's value is not that of the captured log")
    if file.claimed is None:
        notes.append("no quote: nothing vouches for the log, and MRTD and RTMR3 are not compared")
    else:
        if file.claimed[MRTD] not in (fw.mrtd_single, fw.mrtd_two):
            problems.append(
                f"MRTD: predicted {fw.mrtd_single.hex()} or {fw.mrtd_two.hex()}, quoted "
                f"{file.claimed[MRTD].hex()}: another firmware file"
            )
        wanted = replay_digests(event.digest for event in events if event.register == RTMR3)
        if file.claimed[RTMR3] != wanted and registers == _LOGGED:
            problems.append(
                f"RTMR3: predicted {wanted.hex()}, quoted {file.claimed[RTMR3].hex()}: "
                "the agent was not ready, or something else extended it"
            )
    return Replayed(comparison, events, tuple(problems), tuple(notes))


def _disks(capture: Capture) -> list[int]:
    """The slots of virtio disks on the root bus of the captured machine; ``MeasurementError`` if it does not say."""
    if DEVICES not in capture.files:
        raise MeasurementError("the capture lists no devices, and each disk has a boot option")
    try:
        rows = loads(capture.files[DEVICES], what=DEVICES)
    except EvidenceError as error:
        raise MeasurementError(error.message) from error
    found = []
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict) or row.get("vendor") != _VIRTIO or row.get("device") not in _DISKS:
            continue
        slot = _SLOT.fullmatch(str(row.get("slot")))
        if slot is None:
            raise MeasurementError(f"a disk at {str(row.get('slot'))[:40]!r}, expected it on the root bus")
        found.append(int(slot[1], 16))
    if not found or len(set(found)) != len(found):
        raise MeasurementError(f"the capture lists {len(found)} disks in {len(set(found))} slots")
    return found
