"""A kernel's setup header; and the parsers of ACPI blobs and TDREPORTs."""

import hashlib
import lzma
from pathlib import Path

import pytest

from privml.base.errors import EvidenceError, MeasurementError
from privml.events.types import DSTACK_RUNTIME_EVENT
from privml.evidence import dstack
from privml.evidence.tdx import tdreport
from privml.measure import acpi, bzimage

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"


def kernel(*, protocol: int = 0x20F, xload: int = 0x02, high: int = 1) -> bytes:
    """A PE with a setup header, as distributions' kernels are; 16 KiB."""
    image = bytearray(16384)
    image[0:2] = b"MZ"
    image[0x3C:0x40] = (0x40).to_bytes(4, "little")
    image[0x40:0x44] = b"PE\0\0"
    image[0x44:0x46] = (0x8664).to_bytes(2, "little")
    image[0x46:0x48] = (0).to_bytes(2, "little")
    image[0x54:0x56] = (0xA0).to_bytes(2, "little")
    image[0x58:0x5A] = (0x20B).to_bytes(2, "little")
    image[0x58 + 60 : 0x58 + 64] = (0x400).to_bytes(4, "little")
    image[0x58 + 108 : 0x58 + 112] = (6).to_bytes(4, "little")
    image[0x1F1] = 3
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = protocol.to_bytes(2, "little")
    image[0x211] = high
    image[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    image[0x236:0x238] = xload.to_bytes(2, "little")
    image[0x226:0x228] = b"\xaa\xbb"
    return bytes(image)


def test_a_kernel_s_protocol_version_is_read() -> None:
    assert bzimage.is_kernel(kernel()) and bzimage.protocol(kernel()) == 0x20F
    assert bzimage.protocol(kernel(protocol=0x202)) == 0x202


def test_a_file_that_is_not_a_kernel_is_refused() -> None:
    for bad in (b"", kernel()[:0x205], kernel(protocol=0x1FF), kernel()[:2000]):
        with pytest.raises(MeasurementError, match="bzImage"):
            bzimage.protocol(bad)


@pytest.mark.parametrize("name", ["canonical-defaults", "q35-with-hpet"])
def test_loader_and_rsdp_follow_from_the_tables(name: str) -> None:
    blob = lzma.decompress((VECTORS / name / "acpi_tables.bin.xz").read_bytes())
    blobs = acpi.derived(blob)
    assert acpi.allocated_files(blobs[acpi.TABLE_LOADER]) == (acpi.RSDP, acpi.TABLES)
    assert [name for name, _ in acpi.measured(blobs)] == [acpi.TABLE_LOADER, acpi.RSDP, acpi.TABLES]
    for bad in (blob[:100], blob.replace(b"RSDT", b"XXXX"), b"DSDT" + bytes(40), blob + b"x"):
        with pytest.raises(MeasurementError):
            acpi.derived(bad)


def test_additional_loader_commands_are_reported() -> None:
    def table(name: bytes, body: bytes = b"") -> bytes:
        return (name + (36 + len(body)).to_bytes(4, "little")).ljust(36, b"\0") + body

    plain = table(b"DSDT") + table(b"FACP", bytes(112)) + table(b"RSDT", bytes(4))
    assert acpi.TABLE_LOADER in acpi.derived(plain)
    with pytest.raises(MeasurementError, match="TPM2 has loader commands"):
        acpi.derived(table(b"TPM2") + plain)


def test_a_real_tdreport_is_read_and_filler_is_not() -> None:
    data = lzma.decompress((VECTORS / "tdreport/tdx_report_1.bin.xz").read_bytes())
    report = tdreport.parse(data)
    assert report.mr_td == data[528:576] and report.rtmrs[0] == data[720:768] and report.rtmrs[3] == data[864:912]
    for bad in (data[:-1], b"\x0f" + data[1:], data[:600] + b"\1" + data[601:], data[:300] + b"\1" + data[301:]):
        with pytest.raises(EvidenceError, match="TDREPORT"):
            tdreport.parse(bad)


def test_a_dstack_event_s_digest_is_checked() -> None:
    data = dstack.runtime_data("app-id", b"x")
    event = {"imr": 3, "event_type": DSTACK_RUNTIME_EVENT, "event": "app-id", "event_payload": "78"}
    good = {"quote": "00", "event_log": [{**event, "digest": hashlib.sha384(data).hexdigest()}]}
    assert dstack.is_report(good) and dstack.parse(good)[1][0].index == 4
    for change in ({"event": "other"}, {"imr": 4}, {"digest": "00"}, {"event_payload": 5}):
        with pytest.raises(EvidenceError, match=r"event_log\[0\]"):
            dstack.parse({**good, "event_log": [{**good["event_log"][0], **change}]})  # type: ignore[dict-item]
