"""Boot a built image on any machine and compare each boot with its predictions: for this boot and for a TD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from privml.image.tools import GENERIC_FIRMWARE, ToolsTree
from privml.machine.platform import Device, Platform, Size
from privml.measure import gpt
from privml.output.manifest import Manifest
from privml.vm.compared import ComparedBoot, boot
from privml.vm.launch import launch_of
from privml.vm.machine import Launch
from privml.vm.platforms import startable
from privml.vm.predicted import MachinePredictor
from privml.vm.qtest import Qemu

BOOT_SLOT = 1
"""Slot of the boot disk, before the platform's own devices."""


class Bench:
    """The image in ``directory``, on the machine of its first platform unless ``platform`` is another.

    ``platform`` is then that machine with a software TPM: its log is a TD's under PCR numbers (UEFI 2.10 section
    38.4.1). ``qemu`` is the machine's QEMU, if it is not that of the tools.
    """

    def __init__(
        self,
        tools: ToolsTree,
        cache: Path,
        directory: Path,
        manifest: Manifest,
        recipes: Path,
        *,
        platform: Platform | None = None,
        qemu: Qemu | None = None,
    ) -> None:
        self._tools = tools
        self._directory = directory
        self._manifest = manifest
        self._recipes = recipes
        self._qemu = qemu
        self.platform: Platform = replace(platform or startable(recipes, manifest), tpm=True)
        self._as_td = MachinePredictor(tools, cache, directory, manifest)
        self._as_booted = MachinePredictor(tools, cache, directory, manifest)
        self._as_booted.use_qemu(qemu)
        self._as_booted.use_firmware((tools.root / GENERIC_FIRMWARE.lstrip("/")).read_bytes())

    def launch(self, size: Size, *, devices: Sequence[Device] = (), boot_disk: Path | None = None) -> Launch:
        """The image on a machine of that size with more ``devices``.

        ``boot_disk`` replaces a direct boot, with a disk more in front of the image's own, or the image's boot disk.
        """
        first = () if boot_disk is None or self._manifest.boot_disk else (Device("virtio-blk", BOOT_SLOT),)
        machine = replace(self.platform, devices=(*first, *self.platform.devices, *devices))
        launch = launch_of(self._directory, self._manifest, self._recipes, platform=machine, size=size)
        return replace(launch, boot_disk=boot_disk or launch.boot_disk, qemu=self._qemu)

    def boot(self, launch: Launch) -> ComparedBoot:
        """Boot ``launch`` and compare the boot with the predictions for its machine."""
        machine, size = launch.platform, launch.size
        gpt_event = None if launch.boot_disk is None else gpt.read(launch.boot_disk).event
        return boot(
            self._tools,
            launch,
            self._as_booted.predict(machine, size, gpt_event=gpt_event).events,
            td=self._as_td.predict(replace(machine, tee="tdx", tpm=False), size, gpt_event=gpt_event).events,
        )
