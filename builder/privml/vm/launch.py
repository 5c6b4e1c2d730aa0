"""Turn the manifest of a built image into a Launch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from privml.events.variants import DEVELOPMENT
from privml.evidence.snp.claims import TEE as SNP
from privml.machine.platform import Platform, Size
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest
from privml.vm import simulation
from privml.vm.machine import Launch
from privml.vm.platforms import startable


def launch_of(
    directory: Path,
    manifest: Manifest,
    recipes: Path,
    *,
    platform: Platform | None = None,
    size: Size | None = None,
) -> Launch:
    """By default the first platform that can be started here, and the first size. Artefacts are checked first.

    A development guest simulates an SNP guest on a platform of those, and else a TD.
    """
    check_artefacts(directory, manifest.artefacts)
    chosen = platform or startable(recipes, manifest)
    firmware = manifest.firmware_for(chosen.tee).file
    launch = Launch(
        directory,
        chosen,
        size or manifest.shapes[0],
        () if manifest.boot_disk else manifest.volumes,
        firmware=firmware,
        forward=manifest.listen,
        network=manifest.network,
        boot_disk=directory / manifest.boot_disk if manifest.boot_disk else None,
    )
    if manifest.variant != DEVELOPMENT:
        return launch
    if chosen.tee == SNP:
        return replace(launch, simulates_snp=True)
    return replace(launch, fw_cfg=simulation.tdx((directory / firmware).read_bytes()))
