"""From artefacts and machine blobs to the list of events, in the order of the log, and the register values.

Two kinds of boot (``profiles``): a TD, and the same firmware family under a software TPM. Rules and their sources
are in the specification sheet, sections 3 to 5 and 10; the stub's were read in systemd 262.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.events.agent import AgentEvent, digests
from privml.events.event import Event, Evidence
from privml.events.registers import MRTD, RTMR0, RTMR3, RTMRS
from privml.events.replay import replay_events
from privml.events.types import (
    EV_EFI_HANDOFF_TABLES,
    EV_EFI_HANDOFF_TABLES2,
    EV_EFI_PLATFORM_FIRMWARE_BLOB2,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_PLATFORM_CONFIG_FLAGS,
)
from privml.machine.platform import Device
from privml.measure import acpi, smbios
from privml.measure.bootvars import DeviceOption, LoadOption, boot_variables, found
from privml.measure.digest import sha384
from privml.measure.efivars import secure_boot_variables
from privml.measure.eventlist import EventList
from privml.measure.firmware import FirmwareFacts
from privml.measure.payload import Payload, loaded, option_roms, started
from privml.measure.profiles import FW_CFG_ITEMS, Profile
from privml.measure.tdhob import td_hob
from privml.measure.uki import UkiFacts

AGENT_EVENT_TYPE = 0x0
"""The TCG type of RTMR3 events in a prediction: the agent's log is its own format and has none."""


@dataclass(frozen=True)
class Prediction:
    """The predicted ``events`` in log order (RTMR3's last), and MRTD for both page orders."""

    events: tuple[Event, ...]
    mrtd_single: bytes
    mrtd_two: bytes

    def registers(self) -> dict[str, bytes]:
        """MRTD (single-pass) and RTMR0..3 after all events."""
        return {MRTD: self.mrtd_single, **replay_events(self.events)}

    def evidence(self) -> dict[str, Evidence]:
        """The weakest evidence of each register's events; a register without events is zeros, known from hardware."""
        weakest = {MRTD: Evidence.HARDWARE}
        for register in RTMRS:
            levels = [event.evidence for event in self.events if event.register == register]
            weakest[register] = min(levels, key=lambda level: level.strength, default=Evidence.HARDWARE)
        return weakest


@dataclass(frozen=True)
class DiskBoot:
    """A boot from the first of ``devices``' disks; ``gpt_event``, as ``gpt.table`` gives it, is of that disk."""

    gpt_event: bytes
    devices: tuple[Device, ...]

    def options(self, profile: Profile) -> tuple[DeviceOption, ...]:
        """The boot options that firmware makes for the machine's devices."""
        return found(self.devices, network=profile.network_boot)


def predict(
    payload: Payload,
    firmware: FirmwareFacts,
    blobs: Mapping[str, bytes],
    memory: int,
    profile: Profile,
    *,
    origins: Mapping[str, str] | None = None,
    agent_events: Iterable[AgentEvent] = (),
    host_cmdline: str | None = None,
    stub_console: str | None = None,
    disk: DiskBoot | None = None,
    roms: Iterable[bytes] = (),
    booted: bool = True,
) -> Prediction:
    """Predict a boot of ``payload`` by ``firmware`` on a q35 machine of ``memory`` bytes, direct or from ``disk``.

    ``blobs`` maps fw_cfg names to bytes, as this machine's QEMU offers them under qtest: etc/table-loader, the files
    that it loads, etc/smbios/smbios-tables, and for a TD BootMenu and bootorder (present with ``-kernel``).
    ``origins`` maps a section (``.cmdline``), artefact (``firmware.fd``) or blob name to its recipe line.
    ``host_cmdline`` is what ``-append`` gives the UKI instead of its own command line. ``stub_console`` is what the
    stub appends when the command line has no ``console=``; its guess depends on the machine's devices (empty: it
    found none). ``roms`` are the option ROMs of the machine's cards, in slot order. ``booted``: a boot has shown the
    blobs of machines like this one to be what firmware gets; else the evidence of their events is ``source``.
    ``MeasurementError`` when a blob is missing or the console is left to the stub.
    """
    events = EventList(profile, origins)
    if not profile.tpm:
        _launch(events, firmware, blobs, memory, profile)
    variables = secure_boot_variables(firmware.variables, capable=profile.secure_boot)
    for variable in variables:
        events.add(
            RTMR0,
            EV_EFI_VARIABLE_DRIVER_CONFIG,
            sha384(variable.encoded()),
            f"firmware.fd variable {variable.name}",
            key="firmware.fd",
            evidence=Evidence.HARDWARE,
        )
    events.separator(RTMR0, "after the Secure Boot variables")
    level, unseen = (Evidence.HARDWARE, "") if booted else (Evidence.SOURCE, "no such machine was booted")
    for name, blob in acpi.measured(blobs):
        events.add(RTMR0, EV_PLATFORM_CONFIG_FLAGS, sha384(blob), name, evidence=level, note=unseen)
    option_roms(events, roms)
    options: tuple[LoadOption, ...] = profile.boot_options
    if disk is None:
        loaded(events, payload)
    else:
        options = (*profile.boot_options, *disk.options(profile), *profile.last_options)
    table = _smbios_table(firmware, blobs)
    if profile.smbios:
        events.add(
            RTMR0,
            EV_EFI_HANDOFF_TABLES,
            sha384(smbios.filtered(table)),
            smbios.TABLES,
            evidence=level,
            note="with the firmware's Type 0 structure, serial numbers and UUID blanked",
        )
    for name, data in boot_variables(options):
        events.add(RTMR0, EV_EFI_VARIABLE_BOOT, sha384(data), f"firmware.fd variable {name}", key="firmware.fd")
    if variables[0].data == b"\1" and isinstance(payload, UkiFacts) and (payload.cmdline or not profile.tpm):
        host_cmdline = None  # with Secure Boot on the stub drops it, unmeasured
    gpt_event = None if disk is None else disk.gpt_event
    started(events, payload, table, gpt_event=gpt_event, host_cmdline=host_cmdline, stub_console=stub_console)
    listed = tuple(agent_events)
    for event, digest in zip(listed, digests(listed), strict=True):
        events.add(RTMR3, AGENT_EVENT_TYPE, digest, f"agent: {event.name}", key=event.name, evidence=Evidence.SOURCE)
    return Prediction(tuple(events.rows), firmware.mrtd_single, firmware.mrtd_two)


def _launch(
    events: EventList, firmware: FirmwareFacts, blobs: Mapping[str, bytes], memory: int, profile: Profile
) -> None:
    """What a TD's firmware measures before anything else: memory, its variables' volume, QEMU's switches."""
    events.add(
        RTMR0,
        EV_EFI_HANDOFF_TABLES2,
        sha384(td_hob(firmware.sections, memory)),
        "TD HOB",
        evidence=Evidence.HARDWARE,
        note=f"{memory >> 20} MiB of RAM and the firmware's memory layout",
    )
    events.add(
        RTMR0,
        EV_EFI_PLATFORM_FIRMWARE_BLOB2,
        firmware.cfv,
        "firmware.fd CFV",
        key="firmware.fd",
        evidence=Evidence.HARDWARE,
    )
    if not profile.fw_cfg_items:
        return
    if "BootMenu" not in blobs:
        raise MeasurementError(
            "fw_cfg: BootMenu is not among the blobs: QEMU always has it, and the firmware measures it"
        )
    for name, size in FW_CFG_ITEMS:
        blob = blobs.get(name, b"")
        if blob and size in (None, len(blob)):
            events.add(RTMR0, EV_PLATFORM_CONFIG_FLAGS, sha384(blob), name)


def _smbios_table(firmware: FirmwareFacts, blobs: Mapping[str, bytes]) -> bytes:
    if smbios.TABLES not in blobs:
        raise MeasurementError(f"fw_cfg: {smbios.TABLES} is not among the blobs")
    return smbios.published(blobs[smbios.TABLES], firmware.strings)
