"""Learn a platform from captures of machines of Google and the endorsement of their firmware.

What a capture shows of its machine is learnt; what the captured image adds is not, since an image of ours adds
something else. Machines of one size must show the same; between sizes only those events may differ whose meaning
depends on the size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.base.sizes import size_text
from privml.base.times import time_text
from privml.events.registers import MRTD
from privml.evidence.gce import Endorsement
from privml.measure import dmi
from privml.measure.learntmachine import LearntEvent, LearntMachine
from privml.recipe import document
from privml.recipe.gceplatform import GcePlatformFile
from privml.recipe.section import MEMORY_UNITS
from privml.recipe.validation import validate
from privml.vm import gcecapture
from privml.vm.gce import FEWEST_MACHINES, MAX_MACHINES, GceMachines
from privml.vm.gcecapture import CapturedEvent, CapturedMachine, NotLearntError

_KEYS = frozenset({"variable PK", "variable KEK", "variable db", "variable dbx"})


@dataclass(frozen=True)
class LearntGce:
    """A platform's file as ``text``, the object with its ``machines``, and what its user must know."""

    file: GcePlatformFile
    text: str
    machines: bytes
    notes: tuple[str, ...]


def learn(name: str, endorsement: Endorsement, archives: Sequence[tuple[str, bytes]]) -> LearntGce:
    """Learn from captures, each with its file's name; ``MeasurementError`` or ``EvidenceError`` naming why not."""
    if not FEWEST_MACHINES <= len(archives) <= MAX_MACHINES:
        raise MeasurementError(
            f"capture-count: got {len(archives)}, expected {FEWEST_MACHINES} to {MAX_MACHINES} of different machines",
            hint="one machine does not show which events are its own: `privml-build capture` in another one",
        )
    found = [gcecapture.read(label, data, endorsement) for label, data in archives]
    for number, one in enumerate(found):
        for other in found[:number]:
            if one.machine == other.machine:
                raise MeasurementError(
                    f"capture-twice: {other.name} and {one.name} are of one machine, UUID {one.machine}",
                    hint="capture another machine",
                )
    found.sort(key=lambda one: (one.size.vcpus, one.size.memory, one.sha256))
    _compare(found)
    machines = tuple(
        LearntMachine(
            one.size.vcpus, one.size.memory, one.mrtd, dmi.for_stub(one.table), one.sha256, _events(one, found)
        )
        for one in found
    )
    learnt = GceMachines(endorsement, found[0].separators, machines)
    data = learnt.encoded()
    text = _text(name, learnt, data)
    return LearntGce(
        validate(document.parse(text.encode(), f"{name}.yaml"), GcePlatformFile), text, data, _notes(learnt, found)
    )


def _compare(found: Sequence[CapturedMachine]) -> None:
    """``MeasurementError`` listing every event that differs where it must not."""
    problems: list[str] = []
    first = found[0]
    for one in found[1:]:
        if one.separators != first.separators:
            problems.append(f"separators: {first.name} has {first.separators}, {one.name} {one.separators}")
    for number, one in enumerate(found):
        same = next((other for other in found[:number] if other.size == one.size), None)
        if same is not None:
            if same.mrtd != one.mrtd:
                problems.append(f"{MRTD.upper()}: {same.name} has {same.mrtd.hex()}, {one.name} {one.mrtd.hex()}")
            problems += _differing(same, one, same.rows, one.rows, f"both have {one.size}")
        elif number:
            problems += _differing(
                first,
                one,
                [row for row in first.rows if not row.by_size],
                [row for row in one.rows if not row.by_size],
                "it does not depend on the machine's size",
            )
    if problems:
        raise NotLearntError(
            f"capture-differs: {len(problems)} events are not the same",
            problems,
            hint="capture machines with the same firmware, disks, network cards and UEFI settings",
        )


def _differing(
    a: CapturedMachine, b: CapturedMachine, left: Sequence[CapturedEvent], right: Sequence[CapturedEvent], why: str
) -> list[str]:
    names = ([row.what for row in left], [row.what for row in right])
    if names[0] != names[1]:
        return [f"{a.name} has {', '.join(names[0])}; {b.name} has {', '.join(names[1])}: {why}"]
    return [
        f"{x.what}: {a.name} has {x.event.digest.hex()}, {b.name} {y.event.digest.hex()}: {why}"
        for x, y in zip(left, right, strict=True)
        if (x.event.type, x.event.digest) != (y.event.type, y.event.digest)
    ]


def _events(one: CapturedMachine, found: Sequence[CapturedMachine]) -> tuple[LearntEvent, ...]:
    shown = [{(row.what, row.event.digest) for row in each.rows} for each in found]
    return tuple(
        LearntEvent(
            row.event.type,
            row.event.digest,
            row.what,
            sum((row.what, row.event.digest) in each for each in shown),
            len(found),
        )
        for row in one.rows
    )


def _notes(learnt: GceMachines, found: Sequence[CapturedMachine]) -> tuple[str, ...]:
    notes = [
        "SMBIOS types 1 and 2 have the machine's serial number and UUID, and systemd-stub measures them into RTMR0: "
        "only these machines are predicted, not others of their size",
    ]
    for size in learnt.sizes:
        alone = [one for one in found if one.size == size]
        if len(alone) == 1:
            own = [row.what for row in _events(alone[0], found) if row.seen == 1]
            if own:
                notes.append(f"{size}: only {alone[0].name} shows {', '.join(own)}")
    if any(row.what in _KEYS for row in found[0].rows):
        notes.append("PK, KEK, db and dbx are the UEFI settings of the captured images: import yours with the same")
    added: dict[str, list[str]] = {}
    for one in found:
        for text in one.left_out:
            added.setdefault(text, []).append(one.name)
    notes += [
        f"left out, because the captured image added it: {text} ({', '.join(of)})" for text, of in added.items()
    ]
    return tuple(notes)


def _text(name: str, learnt: GceMachines, data: bytes) -> str:
    endorsed = learnt.endorsement
    sizes = ", ".join(map(str, learnt.sizes[:8]))
    rows = "".join(
        f"  - {{vcpus: {one.vcpus}, memory: {size_text(one.memory, MEMORY_UNITS)}}}\n" for one in learnt.sizes
    )
    described = f"{len(learnt.machines)} machines of Google Compute Engine, {sizes}."
    return (
        "# Learnt by `privml-build platform learn`: its machines are an object of the store, and of pools.\n"
        f'schema: 2\nname: {name}\ndescription: "{described}"\ntee: tdx\nvmm: {{kind: gce}}\nfirmware:\n'
        f'  sha384: "{endorsed.firmware_sha384.hex()}"\n  svn: {endorsed.svn}\n'
        f'  endorsed_until: "{time_text(endorsed.valid_until)}"\n'
        f"registers: {{mrtd: endorsement, rtmr0: captures}}\nsizes:\n{rows}"
        f'tables: {{sha256: "{hashlib.sha256(data).hexdigest()}", size: {len(data)}}}\n'
    )
