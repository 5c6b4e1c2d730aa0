"""The machine that a prediction is for: what firmware finds there and measures, or depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from privml.events.event import Evidence
from privml.machine.platform import Device
from privml.measure.bootvars import DeviceOption, found
from privml.measure.profiles import Profile


@dataclass(frozen=True)
class DiskBoot:
    """A boot from the first of ``devices``' disks; ``gpt_event``, as ``gpt.table`` gives it, is of that disk."""

    gpt_event: bytes
    devices: tuple[Device, ...]

    @classmethod
    def of_slots(cls, gpt_event: bytes, slots: Iterable[int]) -> DiskBoot:
        """The boot of a machine of which only the slots of its virtio disks are known: enough for a TD."""
        return cls(gpt_event, tuple(Device("virtio-blk", slot) for slot in slots))

    def options(self, profile: Profile) -> tuple[DeviceOption, ...]:
        """The boot options that firmware makes for the machine's devices."""
        return found(self.devices, network=profile.network_boot)


@dataclass(frozen=True)
class MeasuredMachine:
    """A q35 machine as its firmware sees it: everything a prediction needs besides the image.

    ``blobs`` maps fw_cfg names to bytes, as this machine's QEMU offers them under qtest: etc/table-loader, the files
    that it loads, etc/smbios/smbios-tables, and for a TD BootMenu and bootorder (present with ``-kernel``).
    ``memory`` is its RAM in bytes; ``profile`` says how its firmware measures. ``disk`` is None for a direct boot.
    ``roms`` are the option ROMs of its cards, in slot order.

    ``host_cmdline`` is what ``-append`` gives the UKI instead of its own command line. ``stub_console`` is what the
    stub appends when the command line has no ``console=``; its guess depends on the machine's devices (empty: it
    found none; None: not known). ``tables`` is how it is known that firmware gets exactly these blobs: the
    evidence of their events.
    """

    blobs: Mapping[str, bytes]
    memory: int
    profile: Profile
    disk: DiskBoot | None = None
    roms: tuple[bytes, ...] = ()
    host_cmdline: str | None = None
    stub_console: str | None = None
    tables: Evidence = Evidence.HARDWARE
