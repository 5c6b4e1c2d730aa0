"""Logs of real TDs compared with the profiles: the order of all events, and each digest that the profile decides."""

import json
import lzma
from pathlib import Path

import pytest

from privml.events.event import Event
from privml.events.gpt import decode
from privml.events.registers import RTMR1, RTMR2, RTMR3, RTMRS
from privml.events.replay import extended, replay
from privml.events.tcg import LogEntry, parse_log
from privml.events.types import EV_EFI_BOOT_SERVICES_APPLICATION, EV_EFI_GPT_EVENT
from privml.evidence import dstack
from privml.evidence.tdx import quote
from privml.measure import gpt
from privml.measure.compare import compare
from privml.measure.digest import sha384
from privml.measure.firmware import FirmwareFacts
from privml.measure.machine import MeasuredMachine
from privml.measure.payload import KernelFacts, direct, from_disk
from privml.measure.predict import predict
from privml.measure.profiles import TD_OVMF_2024, TD_OVMF_2025, TPM, Profile
from privml.measure.smbios import TABLES, FirmwareStrings
from privml.measure.tdvf import FirmwareSection
from privml.measure.uki import UkiFacts

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"
# The IntelTdxX64 layout of edk2 2024, which both direct boots have.
INTEL_TDX = (
    FirmwareSection(3, 0, 0, 0x810000, 0x10000, 0),
    FirmwareSection(3, 0, 0, 0x80B000, 0x2000, 0),
    FirmwareSection(2, 0, 0, 0x809000, 0x2000, 0),
    FirmwareSection(3, 0, 0, 0x800000, 0x6000, 0),
)
BLANK_CFV = bytes.fromhex(json.loads((VECTORS / "firmware.json").read_text())[0]["cfv_sha384"])


def unpacked(name: str) -> bytes:
    return lzma.decompress((VECTORS / f"{name}.xz").read_bytes())


def rows(events: list[Event] | tuple[Event, ...]) -> list[tuple[str, int, bytes]]:
    return [(event.register, event.type, event.digest) for event in events]


def logged(entries: list[LogEntry]) -> list[tuple[str, int, bytes]]:
    pairs = [(entry.type, extended(entry, tpm=False)) for entry in entries]
    return [(pair[0], kind, pair[1]) for kind, pair in pairs if pair is not None and pair[0] != RTMR3]


def direct_boot(profile: Profile, log: list[tuple[str, int, bytes]], memory: int) -> tuple[Event, ...]:
    """The profile's prediction, with digests from the log where the input is not public."""
    rtmr0, rtmr1, rtmr2 = ([row[2] for row in log if row[0] == register] for register in RTMRS[:3])
    firmware = FirmwareFacts(INTEL_TDX, bytes(48), bytes(48), BLANK_CFV, {}, FirmwareStrings("v", "1", "d"))
    blobs = {"etc/table-loader": b"", TABLES: bytes.fromhex("7f04fffe0000")}
    machine = MeasuredMachine(blobs, memory, profile)
    events = predict(KernelFacts(rtmr1[0], "text", rtmr2[1]), firmware, machine).events
    given = {"kernel's command line": rtmr2[0]}
    result = []
    for event in events:
        if event.origin == "etc/table-loader":
            result += [
                Event(event.register, event.type, digest, name, event.evidence)
                for digest, name in zip(rtmr0[8:11], ("loader", "rsdp", "tables"), strict=True)
            ]
        else:
            digest = given.get(event.origin, event.digest)
            result.append(Event(event.register, event.type, digest, event.origin, event.evidence))
    return tuple(result)


def test_profile_p1_reproduces_the_log_of_a_2_gib_direct_boot() -> None:
    log = parse_log(unpacked("direct-boot-2g/CCEL_data_ovmf"))
    assert rows(direct_boot(TD_OVMF_2024, logged(log), 2 << 30)) == logged(log)
    # The profiles differ by the separator.
    assert rows(direct_boot(TD_OVMF_2025, logged(log), 2 << 30)) != logged(log)


def test_profile_p2_reproduces_log_and_quote_of_a_64_gib_guest_with_a_gpu() -> None:
    body, entries = dstack.parse(json.loads(unpacked("dstack-gpu-64g/quote-report.json")))
    log = logged(entries)
    assert rows(direct_boot(TD_OVMF_2025, log, 64 << 30)) == log
    assert rows(direct_boot(TD_OVMF_2025, log, 32 << 30)) != log
    assert tuple(replay(entries).values()) == quote.parse(body).body.rtmrs


@pytest.mark.parametrize("name", ["gcp-cos113/ccel_data.dat", "gke-uki/CCEL_data_grub_gke"])
def test_partition_table_events_match_real_disks(name: str) -> None:
    log = parse_log(unpacked(name))
    (event,) = [entry for entry in log if entry.type == EV_EFI_GPT_EVENT]
    table = decode(event.data)
    assert sha384(table.event) == event.sha384
    assert len(event.data) == 100 + 128 * len(table.partitions)
    assert any(partition.type == gpt.ESP for partition in table.partitions)


def test_a_uki_on_a_disk_reproduces_the_log_of_a_cloud_guest() -> None:
    """Stub and kernel of that guest are older: they load the kernel as an image, and log no command line."""
    log = logged(parse_log(unpacked("gke-uki/CCEL_data_grub_gke")))
    rtmr1, rtmr2 = ([row for row in log if row[0] == register] for register in (RTMR1, RTMR2))
    applications = [row[2] for row in rtmr1 if row[1] == EV_EFI_BOOT_SERVICES_APPLICATION]
    names = (".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat")
    sections = tuple(zip(names, [row[2] for row in rtmr2[1::2]], strict=True))
    uki = UkiFacts(applications[0], sections, "", None, inner_kernel=applications[1])
    event = next(e for e in parse_log(unpacked("gke-uki/CCEL_data_grub_gke")) if e.type == EV_EFI_GPT_EVENT).data
    predicted = rows(from_disk(uki, decode(event).event, TD_OVMF_2025, stub_console=""))
    for register, expected in ((RTMR1, rtmr1), (RTMR2, rtmr2)):
        assert [row for row in predicted if row[0] == register] == expected


def test_p1_and_p2_of_one_cloud_machine_differ_by_where_the_separator_went() -> None:
    old = logged(parse_log((VECTORS / "gcp-cos113-dupesep/ccel-unpadded.bin").read_bytes()))
    new = logged(parse_log(unpacked("gcp-cos113/ccel_data.dat")))
    separator = sha384(bytes(4))
    for log, profile in ((old, TD_OVMF_2024), (new, TD_OVMF_2025)):
        found = tuple(
            [row for row in log if row[0] == register].count((register, 4, separator)) for register in RTMRS[:2]
        )
        assert found == (1 + profile.separators[0], profile.separators[1])


def test_the_cloud_machine_s_log_replays_to_its_quote() -> None:
    body = quote.parse(unpacked("gcp-cos113/cos-113-tdx-quote.dat")).body
    values = replay(parse_log(unpacked("gcp-cos113/ccel_data.dat")))
    assert tuple(values.values()) == body.rtmrs


def test_a_plain_kernel_reproduces_a_boot_with_a_software_tpm() -> None:
    """Firmware of 2026.08 loads the unpatched kernel, and puts `initrd=initrd` before the command line."""
    folder = VECTORS / "boot-tpm-kernel"
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["cmdline"].startswith("initrd=initrd console=")
    kernel = KernelFacts(bytes.fromhex(facts["authenticode"]), facts["cmdline"], bytes.fromhex(facts["initrd"]))
    log = parse_log((folder / "log.bin").read_bytes())
    found = compare(direct(kernel, TPM), log, tpm=True, registers=(RTMR1, RTMR2))
    assert found.equal and found.matched == {RTMR1: 9, RTMR2: 2}
    other = KernelFacts(kernel.authenticode, facts["cmdline"] + " ", kernel.initrd)
    assert not compare(direct(other, TPM), log, tpm=True, registers=(RTMR2,)).equal
