"""A parser of measured files returns or raises its room's error for any bytes, and always ends."""

import lzma
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit import amdsev
from tests.unit.image_volume import superblock
from tests.unit.test_measure_bzimage import kernel
from tests.unit.test_measure_disk import FIRST, IMAGE

from privml.base.errors import EvidenceError, MeasurementError
from privml.events import agent, replay, tcg, wording
from privml.events.gpt import decode
from privml.evidence import capture
from privml.evidence.capture import Capture
from privml.evidence.tdx import tdreport
from privml.measure import (
    acpi,
    artefact,
    bzimage,
    cpio,
    efivars,
    fat,
    firmwarevolume,
    gpt,
    mrtd,
    pciwindow,
    pe,
    smbios,
    tdvf,
    uki,
    verity,
)
from privml.measure.snp.bound import bound, is_bound

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"
LOG = (VECTORS / "boot-tpm-base/log.bin").read_bytes()
CCEL = lzma.decompress((VECTORS / "direct-boot-2g/CCEL_data_ovmf.xz").read_bytes())[:4096]
TABLE = bytes.fromhex((VECTORS / "smbios/dmi_published.hex").read_text())
ACPI = lzma.decompress((VECTORS / "canonical-defaults/acpi_tables.bin.xz").read_bytes())[:16384]
ARCHIVE = Capture({"ccel.bin": CCEL[:600], "cpus": b"0-3\n"}, {"quote.bin": "none"}).encode()
SIGNED = lzma.decompress((VECTORS / "pe/fbx64.efi.signed.xz").read_bytes())
AGENT = agent.encode_log([agent.config_event("00" * 32), agent.system_ready_event()])


def make_firmware() -> bytes:
    """One measured page of a firmware that ends with its descriptor, GUID table and reset vector."""
    descriptor = b"TDVF" + struct.pack("<IIIIIQQII", 48, 1, 1, 0, 0x1000, 0xFFFFF000, 0x1000, 0, 1)
    table = struct.pack("<IH", len(descriptor) + 72, 22) + uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
    table += struct.pack("<H", 40) + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    return bytes(0x1000 - len(descriptor) - len(table) - 32) + descriptor + table + bytes(32)


def make_uki() -> bytes:
    """A PE32+ with the stub's mark and a .linux section."""
    optional = struct.pack("<H58xI4x40xI", 0x20B, 0x200, 16).ljust(240, b"\0")
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0" + struct.pack("<HH12xHH", 0x8664, 2, 240, 0)
    rows = b"".join(
        name.ljust(8, b"\0") + struct.pack("<IIII16x", size, 0x1000, size, at)
        for name, size, at in ((b".linux", 4, 0x200), (b".sdmagic", 40, 0x204))
    )
    return (head + optional + rows).ljust(0x200, b"\0") + b"krnl#### LoaderInfo: systemd-stub 262-1 ####"


FIRMWARE, UKI = make_firmware(), make_uki()
AMDSEV = amdsev.PARTS.build()


def test_the_seeds_are_well_formed() -> None:
    assert tdvf.sections(FIRMWARE) and mrtd.mrtd(FIRMWARE)
    assert uki.facts(UKI).sections[0][0] == ".linux"


def mutated(seed: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, cuts of ``seed``, and ``seed`` with a few bytes overwritten."""
    patches = st.lists(st.tuples(st.integers(0, len(seed) - 1), st.binary(min_size=1, max_size=4)), max_size=4)

    def patch(changes: list[tuple[int, bytes]]) -> bytes:
        data = bytearray(seed)
        for at, value in changes:
            data[at : at + len(value)] = value
        return bytes(data)

    return st.one_of(
        st.binary(max_size=200), st.integers(0, len(seed)).map(lambda cut: seed[:cut]), patches.map(patch)
    )


def parse_and_replay(data: bytes) -> None:
    entries = tcg.parse_log(data)
    for entry in entries:
        wording.explain_event(entry)
    replay.replay_tpm_as_rtmrs(entries)


EVIDENCE: list[tuple[bytes, Callable[[bytes], object]]] = [
    (LOG, parse_and_replay),
    (CCEL, lambda data: replay.replay(tcg.parse_log(data))),
    (AGENT, agent.parse_log),
    (bytes(1024), tdreport.parse),
    (ARCHIVE, capture.decode),
    (gpt.table(IMAGE).event, decode),
    (CCEL, lambda data: [wording.describe(entry).isprintable() for entry in tcg.parse_log(data)]),
]
MEASUREMENT: list[tuple[bytes, Callable[[bytes], object]]] = [
    (FIRMWARE, tdvf.sections),
    (FIRMWARE, mrtd.mrtd),
    (UKI, pe.authenticode),
    (SIGNED, pe.signed_digest),
    (bytes(60), pciwindow.ram),
    (UKI, uki.facts),
    (bytes(40) + b"_FVH" + bytes(200), efivars.store),
    (TABLE, smbios.filtered),
    (TABLE, smbios.stub_structures),
    (b"\1\0\0\0name".ljust(256, b"\0"), acpi.allocated_files),
    (kernel(), bzimage.protocol),
    (IMAGE[: 34 * 512], gpt.table),
    (superblock(), verity.superblock),
    (cpio.archive({"a/b": cpio.Member(b"x")}, mtime=1), lambda data: list(cpio.entries(data))),
    (IMAGE[FIRST : FIRST + 64 * 512], lambda data: fat.read(data, 0)),
    (ACPI, acpi.derived),
    (UKI, uki.layout),
    (UKI, artefact.identify),
    (FIRMWARE, artefact.identify),
    (ACPI, artefact.identify),
    (TABLE, artefact.identify),
    (AMDSEV[: amdsev.FIRST + 4096], lambda data: firmwarevolume.volumes(data, "volume")),
    (AMDSEV, bound),
    (bound(AMDSEV), is_bound),
    (amdsev.PARTS.contents(), lambda data: bound(amdsev.PARTS.around(data))),
    (bytes(60), lambda data: pciwindow.window(data, vendor="GenuineIntel", phys_bits=46, gigabyte_pages=True)),
]


@pytest.mark.parametrize(("seed", "parser"), EVIDENCE)
@settings(max_examples=60)
@given(data=st.data())
def test_evidence_parsers_return_or_raise_their_error(
    seed: bytes, parser: Callable[[bytes], object], data: st.DataObject
) -> None:
    try:
        parser(data.draw(mutated(seed)))
    except EvidenceError as error:
        assert str(error)


@pytest.mark.parametrize(("seed", "parser"), MEASUREMENT)
@settings(max_examples=60)
@given(data=st.data())
def test_measurement_parsers_return_or_raise_their_error(
    seed: bytes, parser: Callable[[bytes], object], data: st.DataObject
) -> None:
    try:
        parser(data.draw(mutated(seed)))
    except MeasurementError as error:
        assert str(error)


ENTRIES = st.builds(
    tcg.LogEntry,
    st.integers(0, 0xFFFFFFFE),
    st.integers(0, 0xFFFFFFFF),
    st.binary(min_size=48, max_size=48).map(lambda value: {tcg.ALG_SHA384: value}),
    st.binary(max_size=64),
)


@settings(max_examples=60)
@given(st.lists(ENTRIES, max_size=8), st.integers(0, 2048))
def test_logs_round_trip(entries: list[tcg.LogEntry], pad: int) -> None:
    assert tcg.parse_log(tcg.encode_log(entries, pad_to=pad)) == entries


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(agent.NAMES), st.binary(max_size=40)), max_size=agent.MAX_EVENTS))
def test_agent_logs_round_trip(pairs: list[tuple[str, bytes]]) -> None:
    events = tuple(agent.AgentEvent(name, payload) for name, payload in pairs)
    assert agent.parse_log(agent.encode_log(events)) == events


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(capture.NAMES), st.binary(max_size=1500), max_size=6),
    st.dictionaries(st.sampled_from(capture.NAMES), st.text(st.characters(codec="ascii"), max_size=20), max_size=3),
)
def test_captures_round_trip(parts: dict[str, bytes], missing: dict[str, str]) -> None:
    made = Capture(parts, missing)
    assert capture.decode(made.encode()) == made
