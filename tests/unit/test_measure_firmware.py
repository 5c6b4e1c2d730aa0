"""TDVF metadata, MRTD, the TD HOB and the variable store, for a small synthetic firmware and published values."""

import hashlib
import json
import struct
import uuid
from itertools import pairwise
from pathlib import Path

import pytest

from privml.base.errors import MeasurementError
from privml.measure import efivars, mrtd, tdhob, tdvf
from privml.measure.efivars import GLOBAL, SECURITY_DATABASE
from privml.measure.tdvf import FirmwareSection

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"

FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
TDX = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
BFV = (0x1000, 0x1000, 0xFFFFF000, 0x1000, 0, 1)
CFV = (0, 0x1000, 0xFFFFE000, 0x1000, 1, 0)
HOB = (0, 0, 0x809000, 0x2000, 2, 0)
TEMP = (0, 0, 0x810000, 0x10000, 3, 0)


def make_firmware(rows: list[tuple[int, ...]], *, entry_length: int = 22, version: int = 1) -> bytes:
    """Two pages: CFV (zeros), then BFV, which ends with descriptor, GUID table and reset vector."""
    descriptor = b"TDVF" + struct.pack("<III", 16 + 32 * len(rows), version, len(rows))
    descriptor += b"".join(struct.pack("<IIQQII", *row) for row in rows)
    offset = len(descriptor) + 22 + 18 + 32
    table = struct.pack("<I", offset) + struct.pack("<H", entry_length) + TDX + struct.pack("<H", 22 + 18) + FOOTER
    tail = descriptor + table + b"R" * 32
    return bytes(0x1000) + b"B" * (0x1000 - len(tail)) + tail


def record(tag: bytes, gpa: int) -> bytes:
    return tag.ljust(16, b"\0") + gpa.to_bytes(8, "little") + bytes(104)


def test_mrtd_records_pages_and_chunks() -> None:
    image = make_firmware([BFV, CFV, HOB])
    page = image[0x1000:]
    chunks = b"".join(record(b"MR.EXTEND", 0xFFFFF000 + at) + page[at : at + 256] for at in range(0, 4096, 256))
    others = b"".join(record(b"MEM.PAGE.ADD", gpa) for gpa in (0xFFFFE000, 0x809000, 0x80A000))
    stream = record(b"MEM.PAGE.ADD", 0xFFFFF000) + chunks + others
    assert mrtd.mrtd(image) == hashlib.sha384(stream).digest()
    assert mrtd.mrtd(image, "two") == mrtd.mrtd(image)  # one measured page: no difference yet


def test_the_page_orders_differ_from_the_second_measured_page_on() -> None:
    image = make_firmware([(0, 0x2000, 0xFFFFE000, 0x2000, 0, 1), HOB])
    assert mrtd.mrtd(image, "two") != mrtd.mrtd(image)


def test_augmented_pages_are_not_recorded() -> None:
    """The metadata is in the measured page, so compare with a stream built by hand."""
    image = make_firmware([BFV, (0, 0, 0x100000, 0x1000, 4, 2)])
    page = image[0x1000:]
    chunks = b"".join(record(b"MR.EXTEND", 0xFFFFF000 + at) + page[at : at + 256] for at in range(0, 4096, 256))
    assert mrtd.mrtd(image) == hashlib.sha384(record(b"MEM.PAGE.ADD", 0xFFFFF000) + chunks).digest()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0x84000, 0x37C000, 0xFFC84000, 0x37C000, 0, 1)], "split OVMF_CODE|ends at byte"),
        ([(0, 0x1000, 0xFFFFE001, 0x1000, 0, 1)], "malformed"),
        ([(0, 0x1000, 0xFFFFE000, 0x800, 0, 1)], "malformed"),
        ([(0, 0x800, 0xFFFFE000, 0x1000, 0, 1)], "not whole"),
        ([(0, 0, 0x100000, 1 << 30, 3, 0)], "malformed"),
        ([], "0 TDVF sections"),
    ],
)
def test_malformed_sections_are_refused(rows: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        tdvf.sections(make_firmware(rows))


def test_malformed_tables_are_refused() -> None:
    good = make_firmware([BFV, CFV, HOB])
    for bad in (b"", bytes(0x2000), good[:-1], make_firmware([BFV], version=2), make_firmware([BFV], entry_length=0)):
        with pytest.raises(MeasurementError):
            tdvf.sections(bad)
    with pytest.raises(MeasurementError, match="0 CFV"):
        tdvf.only(tdvf.sections(make_firmware([BFV])), tdvf.CFV)


def layout(name: str) -> tuple[FirmwareSection, ...]:
    heap = (0x810000, 0x10000) if name.startswith("IntelTdxX64") else (0x811000, 0xF000)
    memory = [(3, *heap), (3, 0x80B000, 0x2000), (2, 0x809000, 0x2000), (3, 0x800000, 0x6000)]
    return tuple(FirmwareSection(kind, 0, 0, gpa, size, 0) for kind, gpa, size in memory)


@pytest.mark.parametrize(
    "row", json.loads((VECTORS / "td_hob.json").read_text()), ids=lambda row: str(row["ram_mib"])
)
def test_the_td_hob_matches_quoted_guests(row: dict[str, object]) -> None:
    memory = int(str(row["ram_mib"])) << 20
    hob = tdhob.td_hob(layout(str(row["layout"])), memory)
    assert hashlib.sha384(hob).hexdigest().startswith(str(row["td_hob_sha384_prefix"]))


@pytest.mark.parametrize(("gpa", "size"), [(0x90000000, 0x1000), (0x7FFFF000, 0x2000), (0x1000, 0)])
def test_a_section_outside_memory_is_refused(gpa: int, size: int) -> None:
    """Skipping such a section would give a plausible but wrong digest."""
    bad = tdvf.FirmwareSection(tdvf.TEMP_MEM, 0, 0, gpa, size, 0)
    with pytest.raises(MeasurementError, match="does not lie in the machine's RAM"):
        tdhob.td_hob((*layout("IntelTdxX64"), bad), 2 << 30)


def test_td_hob_covers_all_memory_once() -> None:
    hob = tdhob.td_hob(layout("IntelTdxX64"), 4 << 30)
    ranges = [struct.unpack_from("<QQ", hob, at + 32) for at in range(56, len(hob), 48)]
    assert sum(length for _, length in ranges) == 4 << 30
    assert all(start + length <= following for (start, length), (following, _) in pairwise(ranges))
    assert struct.unpack_from("<Q", hob, 48)[0] == 0x809000 + len(hob) + 8
    assert tdhob.ram_ranges(0xB0000000 - 4096) == [(0, 0xB0000000 - 4096)]
    assert tdhob.ram_ranges(0xB0000000)[1] == (1 << 32, (1 << 32) + 0x30000000)
    for memory in (0, 4095, (2 << 30) + 1):
        with pytest.raises(MeasurementError):
            tdhob.td_hob(layout("IntelTdxX64"), memory)


def make_store(variables: list[tuple[int, uuid.UUID, str, bytes]]) -> bytes:
    body = b""
    for state, vendor, name, data in variables:
        encoded = name.encode("utf-16-le") + b"\0\0"
        body += struct.pack("<HBBIQ16xIII", 0x55AA, state, 0, 7, 0, 0, len(encoded), len(data)) + vendor.bytes_le
        body += encoded + data
        body += bytes(-len(body) % 4)
    store = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le + struct.pack(
        "<IBBHI", 0x1000, 0x5A, 0xFE, 0, 0
    )
    volume = bytes(32) + struct.pack("<Q", 0x2000) + b"_FVH" + bytes(4) + struct.pack("<H", 72) + bytes(22)
    return (volume + store + body).ljust(0x2000, b"\xff")


def test_the_variable_store_gives_live_variables() -> None:
    cfv = make_store(
        [(0x3C, GLOBAL, "PK", b"old"), (0x3F, GLOBAL, "PK", b"key"), (0x3E, SECURITY_DATABASE, "db", b"d")]
    )
    assert efivars.store(cfv) == {(GLOBAL, "PK"): b"key", (SECURITY_DATABASE, "db"): b"d"}
    for bad in (bytes(100), cfv[:60], cfv[:72] + bytes(16) + cfv[88:]):
        with pytest.raises(MeasurementError):
            efivars.store(bad)


@pytest.mark.parametrize(
    ("store", "capable", "prefix"),
    [
        ({}, False, "9dc3a1f8"),
        ({}, True, "cfa4e2c6"),
        ({(GLOBAL, "PK"): b"key"}, True, "2cded0c6"),
        ({(GLOBAL, "PK"): b"key", (efivars.SECURE_BOOT_ENABLE, "SecureBootEnable"): b"\0"}, True, "cfa4e2c6"),
    ],
)
def test_secure_boot_digests_seen_on_hardware(store: efivars.Store, capable: bool, prefix: str) -> None:
    variables = efivars.secure_boot_variables(store, capable=capable)
    assert [one.name for one in variables] == ["SecureBoot", "PK", "KEK", "db", "dbx"]
    assert hashlib.sha384(variables[0].encoded()).hexdigest().startswith(prefix)
    if not store:
        rest = [hashlib.sha384(one.encoded()).hexdigest()[:8] for one in variables[1:]]
        assert rest == ["6f2e3cbc", "d607c0ef", "08a74f89", "18cc6e01"]


def test_dbt_is_measured_only_when_present() -> None:
    names = [one.name for one in efivars.secure_boot_variables({efivars.TIMESTAMP_DATABASE: b"x"}, capable=True)]
    assert names[-1] == "dbt"


@pytest.mark.parametrize("states", [(0x3F, 0x3E), (0x3E, 0x3F), (0x3F, 0x3F)])
def test_two_live_copies_of_a_variable_are_refused(states: tuple[int, int]) -> None:
    """edk2 prefers a copy by its state (added before about-to-be-replaced), not by its position."""
    name = "PK".encode("utf-16-le") + b"\0\0"
    variables = b""
    for state in states:
        sizes = struct.pack("<HBBIQ16xIII", 0x55AA, state, 0, 7, 0, 0, len(name), 4)
        variables += sizes + GLOBAL.bytes_le + name + bytes([state]) * 4 + b"\xff\xff"
    head = bytearray(72)
    head[40:44], head[48:50] = b"_FVH", (72).to_bytes(2, "little")
    guid = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    store = guid + struct.pack("<IBBHI", 28 + len(variables), 0x5A, 0xFE, 0, 0) + variables
    with pytest.raises(MeasurementError, match="two live copies of the variable PK"):
        efivars.store(bytes(head) + store)
