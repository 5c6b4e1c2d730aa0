"""How a built image is started: from its manifest to a Launch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from privml.events.variants import DEVELOPMENT
from privml.machine.platform import Platform, Size
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest
from privml.vm.machine import Launch
from privml.vm.platforms import platform as load_platform

SIM_MRTD = "opt/org.privml/sim-mrtd"


def launch_of(
    directory: Path,
    manifest: Manifest,
    recipes: Path,
    *,
    platform: Platform | None = None,
    size: Size | None = None,
) -> Launch:
    """The first platform and size of ``manifest`` unless told otherwise; artefacts are checked first."""
    check_artefacts(directory, manifest.artefacts)
    chosen = platform or load_platform(manifest.platforms[0], recipes)
    firmware = manifest.firmware_for(chosen.tee).file
    launch = Launch(
        directory, chosen, size or manifest.shapes[0], manifest.volumes, firmware=firmware, forward=manifest.listen
    )
    if manifest.variant == DEVELOPMENT:
        launch = replace(launch, fw_cfg=simulation(directory / firmware))
    return launch


def simulation(firmware: Path) -> dict[str, bytes]:
    """What the simulated TDX module of a development guest is told: the MRTD of the image's firmware."""
    from privml.measure.mrtd import mrtd

    return {SIM_MRTD: mrtd(firmware.read_bytes()).hex().encode()}
