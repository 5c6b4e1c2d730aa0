"""Predict the launches of an SNP guest of QEMU, one for each number of processors.

Memory, devices, ACPI tables and SMBIOS are no input of a launch digest (docs/THREAT_MODEL.md). No SNP machine has
shown such a digest here, so every step has evidence ``source``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from privml.base.errors import MeasurementError
from privml.events.event import Event, Evidence
from privml.events.registers import LAUNCH
from privml.machine.platform import Platform, Size
from privml.measure.snp.launch import FIRMWARE_STEP, HASHES_STEP, VCPU_STEP, Launcher
from privml.measure.snp.vmsa import QEMU
from privml.statement.launch import Accepted, MeasuredLaunch, SnpMachine

TEE = "snp"
SOURCES = {FIRMWARE_STEP: "firmware-snp.fd", HASHES_STEP: "uki.efi", VCPU_STEP: "shape"}
"""Which part of an image each step is of, by its name in a manifest's origins."""


def predict(
    launcher: Launcher, platform: Platform, sizes: Iterable[Size], boot: str, origins: Mapping[str, str]
) -> list[MeasuredLaunch]:
    """A launch for each number of processors among ``sizes``, in order: machines that differ in memory are one.

    ``boot`` says what the firmware starts (`statement.launch.BOOTS`), and ``origins`` maps a part of the image to its
    recipe line. ``RecipeError`` for more processors than the platform has, ``MeasurementError`` for a platform of
    another TEE or VMM.
    """
    if platform.tee != TEE or platform.cpu_signature is None or launcher.vmm is not QEMU:
        raise MeasurementError(f"platform {platform.name}: its guests are not SNP guests of QEMU")
    numbers = tuple(dict.fromkeys(size.vcpus for size in sizes))
    most = max(numbers)
    platform.check(Size(most, 0))
    steps = launcher.steps(most, signature=platform.cpu_signature, features=platform.sev_features)
    steps = tuple(_named(steps, origins))
    # The save areas come last, so the steps of fewer processors are the first ones.
    first = len(steps) - most
    return [
        MeasuredLaunch(
            tee=TEE,
            platform=platform.name,
            machine=SnpMachine(vcpus, launcher.vmm.name, platform.cpu_signature, platform.sev_features, boot),
            registers={LAUNCH: Accepted((steps[first + vcpus - 1].digest,), Evidence.SOURCE)},
            events=steps[: first + vcpus],
        )
        for vcpus in numbers
    ]


def _named(steps: Iterable[Event], origins: Mapping[str, str]) -> Iterator[Event]:
    """The steps with the recipe lines that they come from."""
    for step in steps:
        part = next((part for name, part in SOURCES.items() if step.origin.startswith(name)), "")
        line = origins.get(part)
        yield replace(step, origin=f"{step.origin} ({line})") if line else step
