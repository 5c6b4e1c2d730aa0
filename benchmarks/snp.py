"""Figures of launch digests of SNP guests, for a built image."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.measured import seconds
from privml.image.target import Target, recipes_directory
from privml.machine.platform import Size
from privml.vm.platforms import platform
from privml.vm.predicted import SnpPredictor

SIZES = tuple(Size(vcpus, 2 << 30) for vcpus in range(1, 65))


def run(figure: Callable[[str, list[float], float, str], None], target: Target) -> None:
    """64 numbers of processors after the firmware was read once, and the reading itself, most of it the firmware's
    decompression (LZMA of 16 MiB), to see what it starts."""
    manifest = target.manifest()
    machine = platform("qemu-11-q35-snp", recipes_directory(target))

    def loaded() -> SnpPredictor:
        return SnpPredictor(target.directory, manifest)

    predictor = loaded()
    figure("snp-load", [1000 * seconds(loaded) for _ in range(9)], 250, "ms")
    figure(
        "snp-64-launches", [1000 * seconds(lambda: predictor.launches(machine, SIZES)) for _ in range(9)], 20, "ms"
    )
