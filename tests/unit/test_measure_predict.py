"""The TD profile: events, order, origins and evidence, and errors of prediction."""

import struct
import uuid
from dataclasses import replace
from typing import Any

import pytest

from privml.base.errors import MeasurementError
from privml.events import agent
from privml.events.event import Event, Evidence
from privml.events.registers import MRTD, RTMR0, RTMR1, RTMR2, RTMR3
from privml.events.replay import replay_digests
from privml.events.types import EV_IPL, EV_PLATFORM_CONFIG_FLAGS, type_name
from privml.measure.digest import sha384
from privml.measure.efivars import GLOBAL
from privml.measure.firmware import FirmwareFacts
from privml.measure.machine import MeasuredMachine
from privml.measure.predict import Prediction, predict
from privml.measure.profiles import TD_INTELTDX, TPM
from privml.measure.smbios import TABLES, FirmwareStrings
from privml.measure.tdvf import FirmwareSection
from privml.measure.uki import UkiFacts, load_options

SYSTEM = bytes((1, 27, 0, 1, 1, 2, 3, 0)) + bytes(16) + b"\6\0\0" + b"QEMU\0PC\0q35\0\0"
BLOBS = {
    "etc/table-loader": struct.pack("<I56sIB", 1, b"etc/acpi/tables", 64, 1).ljust(128, b"\0"),
    "etc/acpi/tables": b"tables",
    TABLES: SYSTEM + bytes.fromhex("7f04fffe0000"),
    "BootMenu": b"\0\0",
    "bootorder": b"/rom@genroms/linuxboot_dma.bin\0",
    "etc/reserved-memory-end": b"short",
}
FIRMWARE = FirmwareFacts(
    (FirmwareSection(2, 0, 0, 0x809000, 0x2000, 0),),
    b"s" * 48,
    b"t" * 48,
    b"c" * 48,
    {},
    FirmwareStrings("v", "1", "01/01/2026"),
)
UKI = UkiFacts(b"k" * 48, ((".linux", b"l" * 48), (".cmdline", b"m" * 48)), "console=hvc0 a=1", b"i" * 48)
VARIABLES = ("SecureBoot", "PK", "KEK", "db", "dbx")
AGENT = (agent.config_event("00" * 32), agent.system_ready_event())


MACHINE = MeasuredMachine(BLOBS, 2 << 30, TD_INTELTDX)


def td(machine: MeasuredMachine = MACHINE, uki: UkiFacts = UKI, **more: Any) -> Prediction:
    return predict(uki, FIRMWARE, machine, **more)


def names(events: tuple[Event, ...], register: str) -> list[str]:
    return [f"{type_name(event.type)} {event.origin}" for event in events if event.register == register]


def test_the_events_of_a_td_are_listed_in_order() -> None:
    events = td(agent_events=AGENT).events
    assert names(events, RTMR0) == [
        "EV_EFI_HANDOFF_TABLES2 TD HOB",
        "EV_EFI_PLATFORM_FIRMWARE_BLOB2 firmware.fd CFV",
        "EV_PLATFORM_CONFIG_FLAGS BootMenu",
        "EV_PLATFORM_CONFIG_FLAGS bootorder",
        *[
            f"EV_EFI_VARIABLE_DRIVER_CONFIG firmware.fd variable {name}"
            for name in ("SecureBoot", "PK", "KEK", "db", "dbx")
        ],
        "EV_SEPARATOR firmware: separator after the Secure Boot variables",
        "EV_PLATFORM_CONFIG_FLAGS etc/table-loader",
        "EV_PLATFORM_CONFIG_FLAGS etc/acpi/tables",
        "EV_EFI_HANDOFF_TABLES etc/smbios/smbios-tables",
        "EV_IPL etc/smbios/smbios-tables type 1",
    ]
    assert names(events, RTMR1) == [
        "EV_EFI_BOOT_SERVICES_APPLICATION uki.efi",
        "EV_EFI_ACTION firmware: boot option starts",
        "EV_SEPARATOR firmware: separator before the boot option starts",
        "EV_EFI_ACTION firmware: Exit Boot Services Invocation",
        "EV_EFI_ACTION firmware: Exit Boot Services Returned with Success",
    ]
    assert [name.split(" ", 1)[1] for name in names(events, RTMR2)] == [
        "uki.efi .linux (its name)",
        "uki.efi .linux",
        "uki.efi .cmdline (its name)",
        "uki.efi .cmdline",
        "uki.efi .cmdline as the kernel's LoadOptions",
        "uki.efi .initrd with the stub's additions",
    ]
    assert names(events, RTMR3) == ["0x00000000 agent: config", "0x00000000 agent: system-ready"]


def test_rtmr3_is_the_agent_s_log() -> None:
    prediction = td(agent_events=AGENT)
    assert prediction.registers()[RTMR3] == agent.replay(AGENT)
    assert td().registers()[RTMR3] == bytes(48)
    assert prediction.registers()[MRTD] == b"s" * 48 and prediction.mrtd_two == b"t" * 48


def test_registers_replay_the_events() -> None:
    prediction = td()
    digests = [event.digest for event in prediction.events if event.register == RTMR2]
    assert prediction.registers()[RTMR2] == replay_digests(digests)
    assert sha384(load_options("console=hvc0 a=1")) in digests


def test_a_register_has_the_weakest_evidence_of_its_events() -> None:
    levels = td().evidence()
    assert levels[RTMR0] is Evidence.SOURCE  # fw_cfg items and the stub's SMBIOS event
    assert levels[RTMR1] is levels[RTMR2] is Evidence.TPM_BOOT  # what the stub does
    assert levels[MRTD] is Evidence.HARDWARE
    assert Evidence.HARDWARE not in {
        event.evidence for event in predict(UKI, FIRMWARE, replace(MACHINE, profile=TPM)).events
    }


def test_origins_name_the_recipe_s_line() -> None:
    events = td(
        origins={".cmdline": "recipes/a.yaml:4 kernel.cmdline", "firmware.fd": "recipes/a.yaml:7 firmware"}
    ).events
    origins = [event.origin for event in events]
    assert "uki.efi .cmdline (recipes/a.yaml:4 kernel.cmdline)" in origins
    assert "uki.efi .cmdline as the kernel's LoadOptions (recipes/a.yaml:4 kernel.cmdline)" in origins
    assert "firmware.fd CFV (recipes/a.yaml:7 firmware)" in origins


def test_a_host_command_line_replaces_the_embedded_one() -> None:
    mine, theirs = td().events, td(replace(MACHINE, host_cmdline="console=x evil")).events
    extra = [event for event in theirs if event not in mine]
    assert [event.note for event in extra] == ["console=x evil"] * 2
    assert extra[0].type == EV_IPL
    assert td(replace(MACHINE, host_cmdline="")).events == mine
    assert td(replace(MACHINE, host_cmdline=" \n ")).events == mine


def test_enrolled_keys_turn_secure_boot_on() -> None:
    keyed = FirmwareFacts(
        FIRMWARE.sections, b"s" * 48, b"t" * 48, b"c" * 48, {(GLOBAL, "PK"): b"key"}, FIRMWARE.strings
    )
    mine = td().registers()[RTMR0]
    theirs = predict(UKI, keyed, MACHINE)
    assert theirs.registers()[RTMR0] != mine
    with_options = predict(UKI, keyed, replace(MACHINE, host_cmdline="console=x evil"))
    assert with_options.events == theirs.events  # the stub drops what the host says


@pytest.mark.parametrize("change", ["memory", "bootorder", "boot menu", "cfv", "tables", "serial"])
def test_each_input_of_the_machine_changes_rtmr0(change: str) -> None:
    mine = td().registers()
    firmware, blobs, memory = FIRMWARE, dict(BLOBS), 2 << 30
    if change == "memory":
        memory = 4 << 30
    elif change == "bootorder":
        blobs["bootorder"] = b"/pci@i0cf8\0"
    elif change == "boot menu":
        blobs["BootMenu"] = b"\1\0"
    elif change == "cfv":
        firmware = FirmwareFacts(FIRMWARE.sections, b"s" * 48, b"t" * 48, b"d" * 48, {}, FIRMWARE.strings)
    elif change == "tables":
        blobs["etc/acpi/tables"] = b"other"
    else:  # the firmware blanks a UUID, the stub does not
        blobs[TABLES] = SYSTEM[:8] + b"U" * 16 + SYSTEM[24:] + bytes.fromhex("7f04fffe0000")
    other = predict(UKI, firmware, MeasuredMachine(blobs, memory, TD_INTELTDX)).registers()
    assert other[RTMR0] != mine[RTMR0]
    assert {register for register in mine if mine[register] != other[register]} == {RTMR0}


@pytest.mark.parametrize("name", ["etc/table-loader", "etc/acpi/tables", TABLES, "BootMenu"])
def test_a_missing_blob_is_refused(name: str) -> None:
    with pytest.raises(MeasurementError, match=name):
        td(replace(MACHINE, blobs={key: value for key, value in BLOBS.items() if key != name}))


def test_a_command_line_without_a_console_is_refused() -> None:
    silent = UkiFacts(b"k" * 48, (), "quiet", None)
    with pytest.raises(MeasurementError, match="console=") as caught:
        td(uki=silent)
    assert caught.value.hint is not None
    assert sha384(load_options("quiet console=hvc0")) in [
        event.digest for event in td(replace(MACHINE, stub_console="console=hvc0"), silent).events
    ]
    none = replace(MACHINE, stub_console="")
    assert sha384(load_options("quiet")) in [event.digest for event in td(none, silent).events]
    bare = td(none, UkiFacts(b"k" * 48, (), "", None)).events
    assert not any(event.register == RTMR2 for event in bare)


def test_an_fw_cfg_item_of_unexpected_size_is_not_measured() -> None:
    items = [event.origin for event in td().events if event.type == EV_PLATFORM_CONFIG_FLAGS]
    assert "etc/reserved-memory-end" not in items
    blobs = {**BLOBS, "etc/reserved-memory-end": bytes(8)}
    assert "etc/reserved-memory-end" in [event.origin for event in td(replace(MACHINE, blobs=blobs)).events]


def test_vendor_guids_are_the_specification_s() -> None:
    assert uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c") == GLOBAL


@pytest.mark.parametrize(
    ("tables", "note"),
    [
        (Evidence.HARDWARE, ""),
        (Evidence.TPM_BOOT, "no TD of such a machine was seen"),
        (Evidence.SOURCE, "no such machine was booted"),
    ],
)
def test_tables_have_the_evidence_of_their_machine(tables: Evidence, note: str) -> None:
    found = {event.origin: event for event in td(replace(MACHINE, tables=tables)).events}
    assert found["etc/acpi/tables"].evidence is found[TABLES].evidence is tables
    assert found["etc/acpi/tables"].note == note
