"""Predict the events of a boot, in log order, and the register values from artefacts and machine blobs.

Two kinds of boot (``profiles``): a TD, and the same firmware family under a software TPM. Each row's rule and its
source are in the module that makes its bytes.
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
from privml.measure import acpi, smbios
from privml.measure.bootvars import LoadOption, boot_variables
from privml.measure.digest import sha384
from privml.measure.efivars import secure_boot_variables
from privml.measure.eventlist import EventList
from privml.measure.firmware import FirmwareFacts
from privml.measure.machine import MeasuredMachine
from privml.measure.payload import Payload, loaded, option_roms, started
from privml.measure.profiles import FW_CFG_ITEMS
from privml.measure.tdhob import td_hob
from privml.measure.uki import UkiFacts

AGENT_EVENT_TYPE = 0x0
"""The TCG type of RTMR3 events in a prediction: the agent's log is its own format and has none."""
_UNSEEN = {
    Evidence.HARDWARE: "",
    Evidence.TPM_BOOT: "no TD of such a machine was seen",
    Evidence.SOURCE: "no such machine was booted",
}


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
        """How well each register is known."""
        return {MRTD: Evidence.HARDWARE, **weakest_evidence(self.events)}


def weakest_evidence(events: Iterable[Event]) -> dict[str, Evidence]:
    """The weakest evidence of each RTMR's events; a register without events is zeros, known from hardware."""
    weakest = dict.fromkeys(RTMRS, Evidence.HARDWARE)
    for event in events:
        weakest[event.register] = min(weakest[event.register], event.evidence, key=lambda level: level.strength)
    return weakest


def predict(
    payload: Payload,
    firmware: FirmwareFacts,
    machine: MeasuredMachine,
    *,
    agent_events: Iterable[AgentEvent] = (),
    origins: Mapping[str, str] | None = None,
) -> Prediction:
    """Predict a boot of ``payload`` by ``firmware`` on ``machine``, and then the agent's ``agent_events``.

    ``origins`` maps a section (``.cmdline``), artefact (``firmware.fd``) or blob name to its recipe line.
    ``MeasurementError`` when a blob is missing or the console is left to the stub.
    """
    profile, blobs, disk = machine.profile, machine.blobs, machine.disk
    events = EventList(profile, origins)
    if not profile.tpm:
        _launch(events, firmware, machine)
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
    level, unseen = machine.tables, _UNSEEN[machine.tables]
    for name, blob in acpi.measured(blobs):
        events.add(RTMR0, EV_PLATFORM_CONFIG_FLAGS, sha384(blob), name, evidence=level, note=unseen)
    option_roms(events, machine.roms)
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
    host_cmdline = machine.host_cmdline
    if variables[0].data == b"\1" and isinstance(payload, UkiFacts) and (payload.cmdline or not profile.tpm):
        host_cmdline = None  # with Secure Boot on the stub drops it, unmeasured
    gpt_event = None if disk is None else disk.gpt_event
    started(events, payload, table, gpt_event=gpt_event, host_cmdline=host_cmdline, stub_console=machine.stub_console)
    add_agent_events(events, agent_events)
    return Prediction(tuple(events.rows), firmware.mrtd_single, firmware.mrtd_two)


def add_agent_events(events: EventList, agent_events: Iterable[AgentEvent]) -> None:
    """What the agent extends into RTMR3."""
    listed = tuple(agent_events)
    for event, digest in zip(listed, digests(listed), strict=True):
        events.add(RTMR3, AGENT_EVENT_TYPE, digest, f"agent: {event.name}", key=event.name, evidence=Evidence.SOURCE)


def _launch(events: EventList, firmware: FirmwareFacts, machine: MeasuredMachine) -> None:
    """What a TD's firmware measures before anything else: memory, its variables' volume, QEMU's switches."""
    events.add(
        RTMR0,
        EV_EFI_HANDOFF_TABLES2,
        sha384(td_hob(firmware.sections, machine.memory)),
        "TD HOB",
        evidence=Evidence.HARDWARE,
        note=f"{machine.memory >> 20} MiB of RAM and the firmware's memory layout",
    )
    events.add(
        RTMR0,
        EV_EFI_PLATFORM_FIRMWARE_BLOB2,
        firmware.cfv,
        "firmware.fd CFV",
        key="firmware.fd",
        evidence=Evidence.HARDWARE,
    )
    if not machine.profile.fw_cfg_items:
        return
    if "BootMenu" not in machine.blobs:
        raise MeasurementError(
            "fw_cfg: BootMenu is not among the blobs: QEMU always has it, and the firmware measures it"
        )
    for name, size in FW_CFG_ITEMS:
        blob = machine.blobs.get(name, b"")
        if blob and size in (None, len(blob)):
            events.add(RTMR0, EV_PLATFORM_CONFIG_FLAGS, sha384(blob), name)


def _smbios_table(firmware: FirmwareFacts, blobs: Mapping[str, bytes]) -> bytes:
    if smbios.TABLES not in blobs:
        raise MeasurementError(f"fw_cfg: {smbios.TABLES} is not among the blobs")
    return smbios.published(blobs[smbios.TABLES], firmware.strings)
