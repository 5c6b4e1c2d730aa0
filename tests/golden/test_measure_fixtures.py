"""RTMR0 of another project's fixtures (plain OVMF 2025.02 in a TD), recomputed from their ACPI tables alone."""

import json
import lzma
import struct
from pathlib import Path

import pytest

from privml.events.registers import MRTD, RTMR0, RTMR2, index_of_register
from privml.measure.digest import sha384
from privml.measure.firmware import FirmwareFacts
from privml.measure.machine import MeasuredMachine
from privml.measure.predict import predict
from privml.measure.profiles import TD_OVMF_2025
from privml.measure.smbios import TABLES, FirmwareStrings
from privml.measure.tdvf import FirmwareSection
from privml.measure.uki import UkiFacts

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"
KINDS = {"BFV": 0, "CFV": 1, "TD_HOB": 2, "TempMem": 3}
END = bytes.fromhex("7f04fffe0000")


def firmware() -> FirmwareFacts:
    row = json.loads((VECTORS / "firmware.json").read_text())[1]
    sections = tuple(
        FirmwareSection(
            KINDS[one["type"]], one["data_offset"], one["raw_size"], one["gpa"], one["mem_size"], one["attr"]
        )
        for one in row["sections"]
    )
    mrtd = bytes.fromhex(row["mrtd_single_pass"])
    return FirmwareFacts(sections, mrtd, mrtd, bytes.fromhex(row["cfv_sha384"]), {}, FirmwareStrings("v", "1", "d"))


def loader_and_rsdp(tables: bytes) -> tuple[bytes, bytes]:
    """QEMU's loader script and RSDP for plain tables, which follow from their order and lengths."""
    found: dict[str, tuple[int, int]] = {}
    order: list[str] = []
    offset = 0
    while tables[offset : offset + 4].strip(b"\0"):
        name = tables[offset : offset + 4].decode()
        found[name] = (offset, struct.unpack_from("<I", tables, offset + 4)[0])
        order.append(name)
        offset += found[name][1]

    def allocate(name: bytes, align: int, zone: int) -> bytes:
        return struct.pack("<I56sIB", 1, name, align, zone).ljust(128, b"\0")

    def pointer(file: bytes, at: int, size: int) -> bytes:
        return struct.pack("<I56s56sIB", 2, file, b"etc/acpi/tables", at, size).ljust(128, b"\0")

    def checksum(file: bytes, result: int, start: int, length: int) -> bytes:
        return struct.pack("<I56sIII", 3, file, result, start, length).ljust(128, b"\0")

    def table(name: str) -> bytes:
        start, length = found[name]
        return checksum(b"etc/acpi/tables", start + 9, start, length)

    fadt, rsdt = found["FACP"][0], found["RSDT"][0]
    script = [allocate(b"etc/acpi/rsdp", 16, 2), allocate(b"etc/acpi/tables", 64, 1), table("DSDT")]
    script += [pointer(b"etc/acpi/tables", fadt + at, size) for at, size in ((36, 4), (40, 4), (140, 8))]
    script += [table(name) for name in order if name not in ("FACS", "DSDT", "RSDT")]
    entries = (found["RSDT"][1] - 36) // 4
    script += [pointer(b"etc/acpi/tables", rsdt + 36 + 4 * number, 4) for number in range(entries)]
    script += [table("RSDT"), pointer(b"etc/acpi/rsdp", 16, 4), checksum(b"etc/acpi/rsdp", 8, 0, 20)]
    return b"".join(script).ljust(4096, b"\0"), b"RSD PTR \0BOCHS \0" + struct.pack("<I", rsdt)


@pytest.mark.parametrize(("name", "memory"), [("canonical-defaults", 2 << 30), ("q35-with-hpet", 4 << 30)])
def test_rtmr0_matches_the_fixture(name: str, memory: int) -> None:
    tables = lzma.decompress((VECTORS / name / "acpi_tables.bin.xz").read_bytes())
    loader, rsdp = loader_and_rsdp(tables)
    blobs = {"etc/table-loader": loader, "etc/acpi/rsdp": rsdp, "etc/acpi/tables": tables, TABLES: END}
    uki = UkiFacts(bytes(48), (), "console=ttyS0", None)
    prediction = predict(uki, firmware(), MeasuredMachine(blobs, memory, TD_OVMF_2025))
    expected = json.loads((VECTORS / name / "expected.json").read_text())
    assert prediction.registers()[MRTD].hex() == expected["mrtd"]
    assert prediction.registers()[RTMR0].hex() == expected["rtmr0"]


def test_digests_that_need_no_input_match_a_hardware_log() -> None:
    """The profile predicts the Secure Boot variables, the separator and the UiApp option of the 2 GiB direct boot."""
    from privml.events.tcg import parse_log

    log = parse_log(lzma.decompress((VECTORS / "direct-boot-2g/CCEL_data_ovmf.xz").read_bytes()))
    logged = {entry.sha384 for entry in log}
    blobs = {"etc/table-loader": b"", TABLES: END}
    uki = UkiFacts(bytes(48), (), "console=ttyS0", None)
    events = predict(uki, firmware(), MeasuredMachine(blobs, 2 << 30, TD_OVMF_2025)).events
    origins = {event.origin for event in events if event.digest in logged}
    assert {"firmware.fd variable PK", "firmware.fd variable dbx", "firmware.fd variable Boot0000"} <= origins
    assert "firmware: Exit Boot Services Returned with Success" in origins


def test_section_name_digests_match_a_hardware_log() -> None:
    from privml.events.tcg import parse_log

    log = parse_log(lzma.decompress((VECTORS / "gke-uki/CCEL_data_grub_gke.xz").read_bytes()))
    rtmr2 = [entry.sha384 for entry in log if entry.index == index_of_register(RTMR2)]
    names = [sha384(name + b"\0") for name in (b".linux", b".osrel", b".cmdline", b".initrd", b".uname", b".sbat")]
    assert [digest for digest in rtmr2 if digest in names] == names


def test_every_rule_known_from_a_boot_names_the_firmware_that_showed_it() -> None:
    """The firmware names are those in the vectors."""
    from tests.golden.test_measure_boots import load

    from privml.events.event import Event, Evidence
    from privml.events.tcg import parse_log
    from privml.measure import profiles, sightings
    from privml.measure.payload import from_disk

    uki, made_of, blobs, memory, _ = load("base")
    known = [value for value in vars(profiles).values() if isinstance(value, profiles.Profile)]
    assert len(known) >= 5
    for profile in known:
        machine = MeasuredMachine({**blobs, "BootMenu": bytes(2)}, memory, profile)
        events = predict(uki, made_of, machine).events
        for event in (*events, *from_disk(uki, b"table", profile)):
            assert bool(event.seen) == (event.evidence is not Evidence.SOURCE), event
            assert Event.from_dict(event.to_dict()) == event
    fields = json.loads((VECTORS / "quote_fields.json").read_text())
    quoted = {"gcp-cos113": "gcp-cos113/cos-113-tdx-quote.dat", "dstack-gpu-64g": "dstack-gpu-64g/quote-report.json"}
    for sighting in (sightings.GCP, sightings.DSTACK):
        assert sighting.firmware == f"mrtd:{fields[quoted[sighting.vector]]['mrtd']}"
    for sighting, name in ((sightings.DIRECT, "CCEL_data_ovmf"), (sightings.GKE, "CCEL_data_grub_gke")):
        log = parse_log(lzma.decompress((VECTORS / sighting.vector / f"{name}.xz").read_bytes()))
        assert f"cfv:{next(one.sha384.hex() for one in log if one.type == 0x8000000A)}" == sighting.firmware
    assert sightings.DEBIAN_202608.firmware.removeprefix("sha256:") in (VECTORS / "ORIGIN.md").read_text()
