"""Predict the registers of a built image: artefacts, platform blobs and shapes give predicate v2."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import MeasurementError, UsageError
from privml.base.sizes import PLAIN_VCPUS
from privml.events.event import Evidence
from privml.events.registers import MRTD, RTMR0, TDX_REGISTERS
from privml.evidence.tdx.claims import TEE
from privml.image import code, madeby
from privml.image.tools import ToolsTree
from privml.machine.platform import PageOrder, Platform, Size
from privml.measure import firmware, gpt, uki
from privml.measure.firmware import FirmwareFacts
from privml.measure.machine import DiskBoot, MeasuredMachine
from privml.measure.predict import Prediction, predict
from privml.measure.profiles import TD_INTELTDX, TD_OVMF_2025, TPM, Profile
from privml.measure.snp import predict as snp
from privml.measure.snp.bound import is_bound
from privml.measure.snp.hashes import KernelHashes
from privml.measure.snp.launch import Launcher
from privml.output.artefacts import UKI, check_artefacts
from privml.output.manifest import Manifest
from privml.recipe.gceplatform import GcePlatformFile
from privml.recipe.loader import load_any_platform
from privml.statement.launch import BOUND, HASHED, Accepted, MeasuredLaunch, TdMachine
from privml.statement.predicate import Predicate
from privml.store.objects import Store
from privml.vm import crosscheck, gce
from privml.vm.crosscheck import CrossCheck
from privml.vm.platforms import record
from privml.vm.qtest import Qemu, blobs

LARGEST_BOOTED = Size(288, 8 << 30)
"""Largest size for which predicted ACPI tables were compared with a real boot (tests/real/test_boots.py).

The entries of CPUs do not depend on memory, so both were not compared together.
"""
_PROFILES: Mapping[str, Profile] = {TEE: TD_INTELTDX}
"""How the boot of a guest is measured, by its TEE."""
_OPTION_ROM = "usr/share/qemu/efi-virtio.rom"


def profile_of(platform: Platform) -> Profile:
    """The boot profile of a platform: with a software TPM if it has one, else as a TD.

    ``MeasurementError`` for a machine with neither, whose measurements are not supported.
    """
    if platform.tpm:
        return TPM
    if platform.tee is None or platform.tee not in _PROFILES:
        raise MeasurementError(
            f"platform {platform.name}: its TEE is {platform.tee or 'none'} and it has no TPM, "
            f"expected {' or '.join(_PROFILES)} or a TPM"
        )
    return _PROFILES[platform.tee]


class SnpPredictor:
    """Predicts one image as an SNP guest of any number of processors; firmware and UKI are read once."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        firmware = manifest.firmware_for(snp.TEE)
        data = (directory / firmware.file).read_bytes()
        # The launcher refuses one that would start any kernel.
        self.launcher = Launcher(data, hashes_of(manifest))
        self._boot = BOUND if is_bound(data) else HASHED
        self._origins = manifest.origins

    def launches(self, platform: Platform, sizes: Iterable[Size]) -> list[MeasuredLaunch]:
        """A launch for each number of processors among ``sizes``."""
        return snp.predict(self.launcher, platform, sizes, self._boot, self._origins)


def hashes_of(manifest: Manifest) -> KernelHashes:
    """What the VMM gives the firmware to check: the UKI as the kernel, no initrd and no command line."""
    return KernelHashes.of_uki(bytes.fromhex(manifest.artefacts[UKI].sha256))


class MachinePredictor:
    """Predicts one image on any machine; parts that depend only on the image are computed once."""

    def __init__(self, tools: ToolsTree, cache: Path, directory: Path, manifest: Manifest) -> None:
        self._tools = tools
        self._cache = cache
        self._manifest = manifest
        self._agent_events = madeby.extended_events(directory, manifest)
        self._uki = uki.facts((directory / "uki.efi").read_bytes())
        self._directory = directory
        self._firmware: dict[str, FirmwareFacts] = {}
        self._other_firmware: FirmwareFacts | None = None
        self._qemu: Qemu | None = None
        own = manifest.boot_disk
        self._gpt_event = None if own is None else gpt.read(directory / own).event

    def use_qemu(self, qemu: Qemu | None) -> None:
        """Ask this QEMU for tables, and not the tools'; None: the usual way."""
        self._qemu = qemu

    def use_firmware(self, data: bytes) -> None:
        """Predict with a firmware other than the image's (the generic one, to compare logs)."""
        self._other_firmware = firmware.facts(data)

    def _firmware_on(self, platform: Platform) -> FirmwareFacts:
        """What starts a guest on ``platform``: the image's firmware for its TEE, unless another was given."""
        if self._other_firmware is not None:
            return self._other_firmware
        file = self._manifest.firmware_for(platform.tee).file
        if file not in self._firmware:
            self._firmware[file] = firmware.facts((self._directory / file).read_bytes())
        return self._firmware[file]

    def predict(self, platform: Platform, size: Size, *, gpt_event: bytes | None = None) -> Prediction:
        """The prediction for one machine; ``gpt_event`` is the partition table event of a disk that it boots from.

        By default an image boots as its manifest says, from its own disk or directly.
        """
        gpt_event = gpt_event or self._gpt_event
        machine = MeasuredMachine(
            blobs(self._tools, platform, size, self._cache, kernel=gpt_event is None, qemu=self._qemu),
            size.memory,
            profile_of(platform),
            disk=None if gpt_event is None else DiskBoot(gpt_event, platform.devices),
            roms=tuple((self._tools.root / _OPTION_ROM).read_bytes() for one in platform.devices if one.rom),
            tables=_tables(platform, size),
        )
        return predict(
            self._uki,
            self._firmware_on(platform),
            machine,
            agent_events=self._agent_events,
            origins=self._manifest.origins,
        )

    def cross_check(self, tool: Path, platform: Platform, size: Size) -> tuple[CrossCheck, ...]:
        """One machine measured by a third-party tool (`vm.crosscheck`) and here under the tool's rules."""
        found = blobs(self._tools, platform, size, self._cache)
        file = self._directory / self._manifest.firmware_for(platform.tee).file
        theirs = crosscheck.measured_by(tool, file, found, size)
        ours = predict(self._uki, self._firmware_on(platform), MeasuredMachine(found, size.memory, TD_OVMF_2025))
        return crosscheck.judge(theirs, (ours.mrtd_single, ours.mrtd_two), ours.registers()[RTMR0])


def _tables(platform: Platform, size: Size) -> Evidence:
    """How it is known that firmware gets the tables read here.

    From their source alone on machines that were never compared with a boot: other platforms, larger sizes, and
    devices that QEMU cannot emulate. No TD above 255 CPUs was seen, whose tables have other entries, and none of a
    learnt platform.
    """
    cards = any(len(device.bars) > 1 and not device.functions for device in platform.devices)
    if not platform.booted or cards or size.vcpus > LARGEST_BOOTED.vcpus or size.memory > LARGEST_BOOTED.memory:
        return Evidence.SOURCE
    seen = size.vcpus <= PLAIN_VCPUS and platform.tables is None
    return Evidence.HARDWARE if seen else Evidence.TPM_BOOT


def measured_launch(prediction: Prediction, platform: Platform, size: Size) -> MeasuredLaunch:
    """One launch entry of predicate v2, from its prediction."""
    evidence = prediction.evidence()
    values: dict[str, tuple[bytes, ...]] = {name: (value,) for name, value in prediction.registers().items()}
    orders: dict[PageOrder, bytes] = {"single-pass": prediction.mrtd_single, "two-pass": prediction.mrtd_two}
    values[MRTD] = tuple(orders.values()) if platform.page_order is None else (orders[platform.page_order],)
    return MeasuredLaunch(
        tee=TEE,
        platform=platform.name,
        machine=TdMachine(size.vcpus, size.memory),
        registers={name: Accepted(values[name], evidence[name]) for name in TDX_REGISTERS},
        events=prediction.events,
    )


def predicate_of(manifest: Manifest, launches: Iterable[MeasuredLaunch]) -> Predicate:
    """Predicate v2 of the image with this ``manifest``, measured in ``launches``."""
    return Predicate(
        name=manifest.name,
        variant=manifest.variant,
        manifest_sha256=manifest.sha256,
        agent_events=manifest.agent_events,
        purposes=manifest.purposes,
        launches=tuple(launches),
        exceptions=manifest.exceptions,
        gpus=manifest.gpus,
    )


def predict_image(
    tools: ToolsTree,
    cache: Path,
    directory: Path,
    manifest: Manifest,
    recipes: Path,
    shapes: Iterable[Size] = (),
    platforms: Iterable[Platform] = (),
    *,
    tee: str | None = None,
) -> Predicate:
    """Predicate v2 of the image in ``directory``, by default on its own platforms and shapes.

    With ``tee`` on those of its platforms whose launches are of that TEE; ``UsageError`` if there is none.
    """
    check_artefacts(directory, manifest.artefacts)
    predictor = MachinePredictor(tools, cache, directory, manifest)
    chosen = tuple(shapes) or manifest.shapes
    measured = []
    for platform in tuple(platforms) or _of_tee(manifest, recipes, tee):
        if isinstance(platform, GcePlatformFile):
            measured += gce_launches(platform, Store(cache), directory, manifest, chosen)
        elif platform.tee == snp.TEE:
            measured += SnpPredictor(directory, manifest).launches(platform, chosen)
        else:
            measured += [measured_launch(predictor.predict(platform, size), platform, size) for size in chosen]
    return predicate_of(manifest, measured)


def _of_tee(manifest: Manifest, recipes: Path, tee: str | None) -> list[Platform | GcePlatformFile]:
    """The image's platforms; a machine without a TEE is one of TDX, whose registers its TPM stands in for."""
    every = [platform_of(name, recipes) for name in manifest.platforms]
    found = [one for one in every if tee is None or (one.tee or TEE) == tee]
    if not found:
        without = f"the recipe has no `firmware.{tee}`: add it and a platform of {tee}, and build again"
        raise UsageError(
            f"{manifest.name} has no platform of {tee}, only {', '.join(manifest.platforms)}",
            hint=without
            if tee not in manifest.firmware
            else "name one of it with --platform, or add it to the recipe and build again",
        )
    return found


def platform_of(name: str, recipes: Path) -> Platform | GcePlatformFile:
    """The platform ``name`` of the recipes in ``recipes``: the record of a QEMU's, the file of a cloud's."""
    file = load_any_platform(name, recipes)
    return file if isinstance(file, GcePlatformFile) else record(file)


def gce_launches(
    file: GcePlatformFile,
    store: Store,
    directory: Path,
    manifest: Manifest,
    sizes: Iterable[Size] = (),
    *,
    disk: Path | None = None,
) -> list[MeasuredLaunch]:
    """The image on the captured machines of Google, booted from ``disk``, by default its own.

    Without ``sizes`` on all of them; ``MeasurementError`` if it has no disk.
    """
    if disk is None and manifest.boot_disk is None:
        raise MeasurementError(
            f"platform {file.name} starts its machines from a disk, and {manifest.name} boots directly",
            hint="build it with `boot: disk`",
        )
    booted = disk or directory / str(manifest.boot_disk)
    return gce.launches_of(file.name, gce.machines_of(file, store), directory, manifest, booted, sizes)


# Modules whose code determines a prediction.
_CODE = (
    "measure/*.py",
    "measure/snp/*.py",
    "machine/*.py",
    "statement/*.py",
    "image/madeby.py",
    "vm/gce.py",
    "vm/predicted.py",
    "vm/qtest.py",
)


@dataclass(frozen=True)
class ImagePredictor:
    """Predicts images for `image.build`; ``recipes`` is the directory whose ``platforms`` describe the machines."""

    cache: Path
    recipes: Path

    def inputs(self, platforms: Sequence[str]) -> dict[str, str]:
        """What a prediction depends on besides the image: platforms and the predicting code."""
        described = {
            f"platform {name}": hashlib.sha256(repr(platform_of(name, self.recipes)).encode()).hexdigest()
            for name in platforms
        }
        return {**described, **code.digests(_CODE)}

    def predict(self, tools: ToolsTree, directory: Path, manifest: Manifest) -> Predicate:
        """Predicate v2 of the image in ``directory``, on its own platforms and shapes."""
        return predict_image(tools, self.cache, directory, manifest, self.recipes)
