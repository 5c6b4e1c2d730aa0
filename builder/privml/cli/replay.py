"""`measure TARGET --replay ARCHIVE`: the prediction for a captured machine, held against what that TD measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from privml.base.errors import Differs, MeasurementError, UsageError
from privml.cli import files
from privml.events.event import Event
from privml.events.registers import MRTD, RTMR3, RTMRS
from privml.events.replay import replay_digests
from privml.measure import firmware, payload, pciwindow, uki
from privml.measure.compare import Comparison, compare
from privml.measure.firmware import FirmwareFacts
from privml.measure.predict import predict
from privml.measure.profiles import TD_INTELTDX
from privml.measure.uki import UkiFacts
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest

# QEMU's legacy key of that name is in no guest's file system; it holds this unless the host said `-boot menu=on`.
_BOOT_MENU = bytes(2)
_LOGGED = RTMRS[:3]


@dataclass(frozen=True)
class Replayed:
    """``comparison`` of the log; ``problems``: differences that no event tells, in words; ``notes`` the rest."""

    comparison: Comparison
    predicted: tuple[Event, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """True when log and quote are those of the prediction."""
        return self.comparison.equal and not self.problems


def replay(directory: Path, manifest: Manifest, archive: Path, *, as_json: bool) -> None:
    """Print how the capture differs from the image's prediction; ``Differs`` when it does."""
    file = files.read(archive)
    if file.capture is None:
        raise UsageError(
            f"{archive} is no capture: it is {file.finding.title}", hint="`privml-build capture` makes one"
        )
    check_artefacts(directory, manifest.artefacts)
    image = uki.facts((directory / "uki.efi").read_bytes())
    found = hold(image, firmware.facts((directory / "firmware.fd").read_bytes()), manifest, file)
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2, sort_keys=True))
    else:
        for register, count in found.comparison.matched.items():
            total = sum(event.register == register for event in found.predicted)
            click.echo(f"{register}: {count} of {total} predicted events are in the log")
        for line in (*(one.text() for one in found.comparison.differences), *found.problems):
            click.echo(line)
        for note in found.notes:
            click.echo(f"note: {note}")
    if not found.equal:
        count = len(found.comparison.differences) + len(found.problems)
        raise Differs(f"{archive} differs from the prediction in {count} places", hint="the first one decides")


def hold(image: UkiFacts, fw: FirmwareFacts, manifest: Manifest, file: files.File) -> Replayed:
    """Predict for the captured machine and compare: the log event by event, the quote by registers."""
    capture = file.capture
    if capture is None or file.log is None:
        raise MeasurementError(f"{file.path}: the capture has no event log")
    notes = list(file.finding.notes)
    blobs = {"BootMenu": _BOOT_MENU, **capture.blobs}
    registers: tuple[str, ...] = _LOGGED
    try:
        memory = pciwindow.ram(blobs.get(pciwindow.E820, b""))
        prediction = predict(
            image,
            fw,
            blobs,
            memory,
            TD_INTELTDX,
            origins=manifest.origins,
            agent_events=manifest.agent_events,
        )
        events = prediction.events
    except MeasurementError as error:
        notes.append(f"rtmr0 is not compared: {error.message}")
        events, registers = payload.direct(image, TD_INTELTDX), _LOGGED[1:]
    comparison = compare(events, file.log.entries, tpm=False, registers=registers)
    problems = []
    for register in _LOGGED if file.claimed is not None else ():
        if file.finding.registers[register] != (file.claimed or {})[register]:
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


def _as_json(found: Replayed) -> dict[str, Any]:
    return {
        "equal": found.equal,
        "matched": dict(found.comparison.matched.items()),
        "differences": [difference.to_dict() for difference in found.comparison.differences],
        "problems": list(found.problems),
        "notes": list(found.notes),
    }
