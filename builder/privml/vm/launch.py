"""Turn the manifest of a built image into a Launch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from privml.events.variants import DEVELOPMENT
from privml.machine.platform import Platform, Shape
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
    shape: Shape | None = None,
) -> Launch:
    """By default the first platform and shape of ``manifest``. Artefacts are checked first."""
    check_artefacts(directory, manifest.artefacts)
    chosen = platform or load_platform(manifest.platforms[0], recipes)
    launch = Launch(directory, chosen, shape or manifest.shapes[0], manifest.volumes, forward=manifest.listen)
    if manifest.variant == DEVELOPMENT:
        launch = replace(launch, fw_cfg=simulation(directory))
    return launch


def simulation(directory: Path) -> dict[str, bytes]:
    """Input of the simulated TDX module in a development guest: the MRTD of the image's firmware."""
    from privml.measure.mrtd import mrtd

    return {SIM_MRTD: mrtd((directory / "firmware.fd").read_bytes()).hex().encode()}
