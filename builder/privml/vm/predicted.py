"""Predict a built image: artefacts, platforms' blobs and shapes, into predicate v2."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import MeasurementError
from privml.events.registers import MRTD, RTMR0, TDX_REGISTERS
from privml.evidence.tdx.claims import TEE
from privml.image import code, madeby
from privml.image.tools import ToolsTree
from privml.machine.platform import Platform, Shape
from privml.measure import firmware, uki
from privml.measure.firmware import FirmwareFacts
from privml.measure.machine import DiskBoot, MeasuredMachine
from privml.measure.predict import Prediction, predict
from privml.measure.profiles import TD_INTELTDX, TD_OVMF_2025, TPM, Profile
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest
from privml.statement.launch import Accepted, MeasuredLaunch, TdMachine
from privml.statement.predicate import Predicate
from privml.vm import crosscheck
from privml.vm.crosscheck import CrossCheck
from privml.vm.platforms import platform as load_platform
from privml.vm.qtest import blobs

LARGEST_BOOTED = Shape(8, 8 << 30)
"""Up to here the tables of every shape that was tried were those of a boot (tests/real/test_boots.py)."""
_PROFILES: Mapping[str, Profile] = {TEE: TD_INTELTDX}
"""How the boot of a guest is measured, by its TEE."""
_OPTION_ROM = "usr/share/qemu/efi-virtio.rom"


def profile_of(platform: Platform) -> Profile:
    """The boot profile of a platform: a software TPM's log where it has one, else a TD's.

    ``MeasurementError`` for a machine with neither: nothing measures it, or in a way that is not known here.
    """
    if platform.tpm:
        return TPM
    if platform.tee is None or platform.tee not in _PROFILES:
        raise MeasurementError(
            f"platform {platform.name}: its TEE is {platform.tee or 'none'} and it has no TPM, "
            f"expected {' or '.join(_PROFILES)} or a TPM"
        )
    return _PROFILES[platform.tee]


class Predictor:
    """Predicts one image on any machine; what depends on the image alone is computed once."""

    def __init__(self, tools: ToolsTree, cache: Path, directory: Path, manifest: Manifest) -> None:
        self._tools = tools
        self._cache = cache
        self._manifest = manifest
        self._agent_events = madeby.extended_events(directory, manifest)
        self._uki = uki.facts((directory / "uki.efi").read_bytes())
        self._directory = directory
        self._firmware: dict[str, FirmwareFacts] = {}
        self._other_firmware: FirmwareFacts | None = None

    def use_firmware(self, data: bytes) -> None:
        """Predict with another firmware than the image's (the generic one, to compare logs)."""
        self._other_firmware = firmware.facts(data)

    def _firmware_on(self, platform: Platform) -> FirmwareFacts:
        """What starts a guest on ``platform``: the image's firmware for its TEE, unless another was given."""
        if self._other_firmware is not None:
            return self._other_firmware
        file = self._manifest.firmware_for(platform.tee).file
        if file not in self._firmware:
            self._firmware[file] = firmware.facts((self._directory / file).read_bytes())
        return self._firmware[file]

    def predict(self, platform: Platform, shape: Shape, *, gpt_event: bytes | None = None) -> Prediction:
        """The prediction for one machine; ``gpt_event``: it boots from a disk with that partition table."""
        machine = MeasuredMachine(
            blobs(self._tools, platform, shape, self._cache, kernel=gpt_event is None),
            shape.memory,
            profile_of(platform),
            disk=None if gpt_event is None else DiskBoot(gpt_event, platform.devices),
            roms=tuple((self._tools.root / _OPTION_ROM).read_bytes() for one in platform.devices if one.rom),
            booted=_booted(platform, shape),
        )
        return predict(
            self._uki,
            self._firmware_on(platform),
            machine,
            agent_events=self._agent_events,
            origins=self._manifest.origins,
        )

    def cross_check(self, tool: Path, platform: Platform, shape: Shape) -> tuple[CrossCheck, ...]:
        """One machine, measured by a tool of others (`vm.crosscheck`) and by its rules here."""
        found = blobs(self._tools, platform, shape, self._cache)
        file = self._directory / self._manifest.firmware_for(platform.tee).file
        theirs = crosscheck.measured_by(tool, file, found, shape)
        ours = predict(self._uki, self._firmware_on(platform), MeasuredMachine(found, shape.memory, TD_OVMF_2025))
        return crosscheck.judge(theirs, (ours.mrtd_single, ours.mrtd_two), ours.registers()[RTMR0])


def _booted(platform: Platform, shape: Shape) -> bool:
    """False for machines beyond those that were booted: of other platforms, larger ones, and with cards that no QEMU
    device can stand for.
    """
    cards = any(len(device.bars) > 1 and not device.functions for device in platform.devices)
    return (
        platform.booted
        and not cards
        and shape.vcpus <= LARGEST_BOOTED.vcpus
        and shape.memory <= LARGEST_BOOTED.memory
    )


def measured_launch(prediction: Prediction, platform: Platform, shape: Shape) -> MeasuredLaunch:
    """One launch of predicate v2 from its prediction."""
    evidence = prediction.evidence()
    values: dict[str, tuple[bytes, ...]] = {name: (value,) for name, value in prediction.registers().items()}
    values[MRTD] = (prediction.mrtd_single, prediction.mrtd_two)
    return MeasuredLaunch(
        tee=TEE,
        platform=platform.name,
        machine=TdMachine(shape.vcpus, shape.memory),
        registers={name: Accepted(values[name], evidence[name]) for name in TDX_REGISTERS},
        events=prediction.events,
    )


def predict_image(
    tools: ToolsTree, cache: Path, directory: Path, manifest: Manifest, recipes: Path, shapes: Iterable[Shape] = ()
) -> Predicate:
    """Predicate v2 of the image in ``directory``: its platforms, and its own shapes unless others are given."""
    check_artefacts(directory, manifest.artefacts)
    predictor = Predictor(tools, cache, directory, manifest)
    chosen = tuple(shapes) or manifest.shapes
    measured = []
    for name in manifest.platforms:
        platform = load_platform(name, recipes)
        measured += [measured_launch(predictor.predict(platform, shape), platform, shape) for shape in chosen]
    return Predicate(
        name=manifest.name,
        variant=manifest.variant,
        manifest_sha256=manifest.sha256,
        agent_events=manifest.agent_events,
        purposes=manifest.purposes,
        launches=tuple(measured),
    )


# The modules whose code decides a prediction's bytes.
_CODE = ("measure/*.py", "machine/*.py", "statement/*.py", "image/madeby.py", "vm/predicted.py", "vm/qtest.py")


@dataclass(frozen=True)
class ImagePredictor:
    """Predicts images for `image.build`; ``recipes`` is the directory whose ``platforms`` describe the machines."""

    cache: Path
    recipes: Path

    def inputs(self, platforms: Sequence[str]) -> dict[str, str]:
        """What a prediction depends on beside the image: the platforms, and the code that predicts."""
        described = {
            f"platform {name}": hashlib.sha256(repr(load_platform(name, self.recipes)).encode()).hexdigest()
            for name in platforms
        }
        return {**described, **code.digests(_CODE)}

    def predict(self, tools: ToolsTree, directory: Path, manifest: Manifest) -> Predicate:
        """Predicate v2 of the image in ``directory``, on its own platforms and shapes."""
        return predict_image(tools, self.cache, directory, manifest, self.recipes)
