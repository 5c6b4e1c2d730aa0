"""Machines of Google Compute Engine as a platform: MRTD as Google endorsed it, RTMR0 of captured machines.

What was learnt is one object of the store, named by SHA-256 and size in the platform's file. It holds the
endorsement, whose signature is checked each time it is read, and one row for each captured machine (ADR 0087).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.errors import EvidenceError, InputsError, MeasurementError
from privml.base.strictjson import Fields, b64, canonical
from privml.events.event import Evidence
from privml.events.registers import MRTD, RTMRS
from privml.events.replay import replay_events
from privml.evidence import gce
from privml.evidence.gce import Endorsement
from privml.evidence.gceformat import MAX_SIZE
from privml.evidence.tdx.claims import TEE
from privml.image import madeby
from privml.lock.tables import carry
from privml.machine.platform import Size
from privml.measure import fat, gpt, uki
from privml.measure.learntmachine import LearntMachine, predict_on
from privml.measure.predict import weakest_evidence
from privml.output.manifest import Manifest
from privml.recipe.gceplatform import GcePlatformFile
from privml.statement.launch import Accepted, MeasuredLaunch, TdMachine
from privml.store.objects import Store

FORMAT = "privml-gce/v1"
MAX_OBJECT = 1 << 20
MAX_MACHINES = 64
FEWEST_MACHINES = 2
MAX_SEPARATORS = 4
_SHOWN = 8


@dataclass(frozen=True)
class GceMachines:
    """What was learnt: the endorsement of the firmware, how many separators it puts into RTMR0 and RTMR1 when a boot
    option starts, and the captured machines, by size and then by capture."""

    endorsement: Endorsement
    separators: tuple[int, int]
    machines: tuple[LearntMachine, ...]

    def encoded(self) -> bytes:
        """The object's bytes: the same for the same captures and endorsement."""
        return canonical(
            {
                "format": FORMAT,
                "endorsement": b64(self.endorsement.data),
                "separators": list(self.separators),
                "machines": [machine.to_dict() for machine in self.machines],
            }
        )

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes of the captured machines."""
        return tuple(dict.fromkeys(Size(one.vcpus, one.memory) for one in self.machines))

    def of(self, size: Size) -> tuple[LearntMachine, ...]:
        """The captured machines of a size; ``MeasurementError`` if there is none."""
        found = tuple(one for one in self.machines if Size(one.vcpus, one.memory) == size)
        if not found:
            known = ", ".join(map(str, self.sizes))
            raise MeasurementError(
                f"{size}: no machine of this size was captured, only {known}",
                hint="capture one and learn the platform again: nothing predicts the tables of another size",
            )
        return found


def decode(data: bytes) -> GceMachines:
    """Read the object; ``EvidenceError`` if it is malformed, or if Google did not endorse a machine's MRTD."""
    fields = Fields(strictjson.loads(data, what="machines of a platform", limit=MAX_OBJECT), "machines of a platform")
    fields.text("format", one_of=(FORMAT,))
    endorsed = fields.base64("endorsement", limit=2 * MAX_SIZE)
    separators = _separators(fields.array("separators", limit=2))
    machines = tuple(
        LearntMachine.from_dict(item, f"machines[{index}]")
        for index, item in enumerate(fields.array("machines", limit=MAX_MACHINES))
    )
    fields.end()
    if len({one.capture for one in machines}) < max(FEWEST_MACHINES, len(machines)):
        raise EvidenceError(f"machines: {len(machines)}, expected {FEWEST_MACHINES} or more, each of its own capture")
    endorsement = gce.read(endorsed, now=None)
    for index, one in enumerate(machines):
        if endorsement.of(one.mrtd, one.memory) is None:
            raise EvidenceError(f"machines[{index}].mrtd: {one.mrtd.hex()}, which the endorsement does not have")
    return GceMachines(endorsement, separators, machines)


def _separators(values: list[Any]) -> tuple[int, int]:
    pair = Fields({str(index): value for index, value in enumerate(values)}, "separators")
    found = (pair.integer("0", high=MAX_SEPARATORS), pair.integer("1", high=MAX_SEPARATORS))
    pair.end()
    return found


def machines_of(file: GcePlatformFile, store: Store) -> GceMachines:
    """What the platform's file names, out of the store or the file next to it; ``InputsError`` if it is nowhere."""
    known = file.tables
    if not carry(store, known.sha256):
        raise InputsError(
            f"the machines sha256:{known.sha256} of platform {file.name} are not in the store",
            hint=f"put {file.name}.tables.xz next to the platform's file; `privml-build store import POOL` brings "
            "them from a pool, `platform learn` from the captures",
        )
    try:
        found = decode(store.read(known.sha256))
    except EvidenceError as error:
        raise EvidenceError(f"platform {file.name}: {error.message}", hint=error.hint) from error
    if found.endorsement.firmware_sha384.hex() != file.firmware.sha384:
        raise MeasurementError(
            f"platform {file.name}: firmware.sha384 is {file.firmware.sha384}, but Google endorsed "
            f"{found.endorsement.firmware_sha384.hex()}",
            hint="the file was changed by hand: learn the platform again",
        )
    if [(one.vcpus, one.memory) for one in file.sizes] != [(one.vcpus, one.memory) for one in found.sizes]:
        raise MeasurementError(
            f"platform {file.name}: sizes are not those of the captured machines, {', '.join(map(str, found.sizes))}",
            hint="the file was changed by hand: learn the platform again",
        )
    return found


def partition_table(path: Path, image: bytes) -> bytes:
    """The measured partition table of a disk whose EFI system partition starts ``image``.

    ``MeasurementError`` if it starts something else, or if it is not such a disk.
    """
    table = gpt.read(path)
    esp = next((one for one in table.partitions if one.type == gpt.ESP), None)
    if esp is None:
        raise MeasurementError(f"{path.name}: the disk has no EFI system partition")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        loader = fat.read(view, esp.start)
    if loader != image:
        raise MeasurementError(
            f"{path.name}: its {'/'.join(fat.REMOVABLE)} is not the image's uki.efi",
            hint="make the disk from this image",
        )
    return table.event


def launches_of(
    name: str, known: GceMachines, directory: Path, manifest: Manifest, disk: Path, sizes: Iterable[Size] = ()
) -> list[MeasuredLaunch]:
    """The image in ``directory``, booted from ``disk`` on the captured machines of platform ``name``.

    Without ``sizes`` for all of them. Each machine is a launch of its own, named by its capture, because its UUID is
    in RTMR0.
    """
    image = (directory / "uki.efi").read_bytes()
    payload, gpt_event = uki.facts(image), partition_table(disk, image)
    agent_events = madeby.extended_events(directory, manifest)
    launches = []
    for machine in (one for size in tuple(sizes) or known.sizes for one in known.of(size)):
        events = predict_on(
            machine, known.separators, payload, gpt_event, agent_events=agent_events, origins=manifest.origins
        )
        values, levels = replay_events(events), weakest_evidence(events)
        launches.append(
            MeasuredLaunch(
                tee=TEE,
                platform=f"{name}/{machine.capture.hex()[:_SHOWN]}",
                machine=TdMachine(machine.vcpus, machine.memory),
                registers={
                    MRTD: Accepted((machine.mrtd,), Evidence.ENDORSED),
                    **{register: Accepted((values[register],), levels[register]) for register in RTMRS},
                },
                events=events,
            )
        )
    return launches
