"""Name the part of a recipe that a difference comes from, as a manifest's origins name it."""

from __future__ import annotations

from privml.engines.registry import ENGINES
from privml.events.registers import LAUNCH, MRTD, RTMR0
from privml.events.volumes import slot_of
from privml.output.artefacts import DISK, FIRMWARE, UKI
from privml.recipe.distributions import DISTRIBUTIONS

_ORIGIN_OF_REGISTER = {MRTD: FIRMWARE["tdx"], RTMR0: "platform", LAUNCH: FIRMWARE["snp"]}
"""What decides a register, as a manifest's origins name it; where a register is not here, it is the UKI."""


def origin_key(place: str, package: str = "unknown") -> str:
    """The manifest's origin (recipe line) of a difference at ``place``; packages come from the release."""
    file, _, inside = place.partition(":")
    if file == "uki.efi":
        return inside.partition(":")[0] or file
    if (slot := slot_of(file)) is not None:
        return slot.kind.name
    if file == "prediction.json":
        return _ORIGIN_OF_REGISTER.get(inside.rpartition(", ")[2], UKI)
    if file == DISK:
        return DISK if inside else UKI
    if file == "root.raw":
        if inside.startswith("/etc/privml/"):
            return "config"
        if inside.startswith("/usr/lib/modules/") or any(
            each.kernel.is_kernel(package) for each in DISTRIBUTIONS.values()
        ):
            return ".linux"
        return "engine" if any(package in engine.packages for engine in ENGINES.values()) else ".cmdline"
    return file
