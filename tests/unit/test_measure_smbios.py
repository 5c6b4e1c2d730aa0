"""SMBIOS: the published table, the digest of a hardware TD, edge cases of the filter, and the firmware's strings."""

import hashlib
import json
import lzma
import uuid
from pathlib import Path

import pytest

from privml.base.errors import MeasurementError
from privml.measure import smbios
from privml.measure.smbios import FirmwareStrings

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement/smbios"
QEMU = bytes.fromhex((VECTORS / "qemu_smbios_tables.hex").read_text())
PUBLISHED = bytes.fromhex((VECTORS / "dmi_published.hex").read_text())
EXPECTED = json.loads((VECTORS / "expected.json").read_text())["expected_event_digest_sha384"]
END = bytes.fromhex("7f04fffe0000")


def structure(kind: int, body: bytes, *strings: bytes) -> bytes:
    texts = b"".join(text + b"\0" for text in strings) or b"\0"
    return bytes((kind, 4 + len(body), 0, 1)) + body + texts + b"\0"


def test_the_digest_matches_a_hardware_td() -> None:
    assert hashlib.sha384(smbios.filtered(PUBLISHED)).hexdigest() == EXPECTED


def test_the_published_table_is_derived_from_qemu_s() -> None:
    strings = FirmwareStrings("EDK II", "unknown", "02/02/2022")
    assert smbios.published(QEMU, strings) == PUBLISHED


def test_a_filtered_string_is_blanked_and_the_rest_is_unchanged() -> None:
    system = structure(1, bytes((1, 2, 3, 4)) + b"U" * 16 + b"\6\0\0", b"maker", b"thing", b"v1", b"serial")
    out = smbios.filtered(system + END)
    assert len(out) == len(system + END)
    assert b"serial" not in out and b"maker\0thing\0v1\0      \0\0" in out
    assert out[7] == 0 and out[8:24] == bytes(16) and out[24] == 0


def test_fields_beyond_the_formatted_area_are_left_alone() -> None:
    short = structure(1, bytes((1, 2, 3)), b"maker", b"thing", b"v1")
    assert smbios.filtered(short + END) == short + END


def test_oem_strings_are_zeroed_with_their_text() -> None:
    oem = structure(11, b"\2", b"io.systemd.credential:x=y", b"two")
    assert smbios.filtered(oem + END) == oem[:4] + bytes(len(oem) - 4) + END


def test_the_stub_measures_whole_structures() -> None:
    system = structure(1, bytes((1, 2, 3, 4)) + b"U" * 16 + b"\6\0\0", b"maker", b"thing", b"v1", b"serial")
    oem = structure(11, b"\1", b"text")
    (one, two) = smbios.stub_structures(system + structure(4, b"xx") + oem + END)
    assert one == (1, system[:0x18] + b"\0" + system[0x19:])
    assert two == (11, oem)


@pytest.mark.parametrize("table", [b"\1", b"\1\3\0\0\0\0", b"\1\4\0\0", b"\1\x30\0\0\0\0", b"\1\4\0\0abc\0"])
def test_malformed_tables_are_refused(table: bytes) -> None:
    with pytest.raises(MeasurementError):
        list(smbios.structures(table))


def test_a_type_0_of_qemu_s_is_refused() -> None:
    with pytest.raises(MeasurementError, match="Type 0"):
        smbios.published(structure(0, bytes(22)) + END, FirmwareStrings("a", "b", "c"))


def make_volume(filler: bytes) -> bytes:
    """A compressed volume like OVMF's: the template, then three aligned constants with ``filler`` between them."""
    data = b"\x90" * 8 + bytes.fromhex("001a0000010200e803000800000000000000001c0000ffff0000")
    for text in ("09/26/2026", "2026.08+ds-2", "Vendor of EDK II"):
        gap = -len(data) % 8
        data += filler[-gap:] if gap else b""
        data += text.encode("utf-16-le") + b"\0\0"
    data += b"\xff" * 64
    packed = lzma.compress(data, format=lzma.FORMAT_ALONE)
    header = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le + (24).to_bytes(2, "little") + bytes(2)
    return b"X" * 40 + (24 + len(packed)).to_bytes(3, "little") + b"\2" + header + packed + b"Y" * 10


@pytest.mark.parametrize("filler", ["0000000000000000", "9090909090909090", "66900f1f40004000", "0f1f440000664400"])
def test_the_firmware_s_strings_are_found_with_any_padding(filler: str) -> None:
    expected = FirmwareStrings("Vendor of EDK II", "2026.08+ds-2", "09/26/2026")
    assert smbios.firmware_strings(make_volume(bytes.fromhex(filler))) == expected


def test_firmware_without_strings_is_refused() -> None:
    with pytest.raises(MeasurementError, match="Type 0"):
        smbios.firmware_strings(b"nothing here")
