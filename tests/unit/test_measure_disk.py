"""GPT and FAT on a synthetic disk: its event, the boot loader found on it, and errors for malformed disks."""

import struct
import uuid
import zlib
from pathlib import Path

import pytest
from tests.unit.image_volume import gpt as table_of
from tests.unit.image_volume import resealed, volume

from privml.base.errors import BuildError, MeasurementError
from privml.events.gpt import decode
from privml.measure import fat, gpt

DISK = uuid.UUID("11111111-2222-3333-4444-555555555555")
FIRST = 34 * 512


def fat16(body: bytes, name: bytes = b"BOOTX64 EFI", clusters: int = 4100) -> bytes:
    """A FAT16 file system with EFI/BOOT/NAME; one sector a cluster."""
    fat_sectors = -(-(clusters + 2) * 2 // 512)
    total = 1 + 2 * fat_sectors + 1 + clusters
    boot = bytearray(512)
    struct.pack_into("<HBHBHHBH", boot, 11, 512, 1, 1, 2, 16, total, 0xF8, fat_sectors)
    boot[510:512] = b"\x55\xaa"
    count = -(-len(body) // 512)
    table = [0xFFF8, 0xFFFF, 0xFFFF, 0xFFFF, *range(5, 4 + count), 0xFFFF]
    chains = b"".join(value.to_bytes(2, "little") for value in table).ljust(fat_sectors * 512, b"\0")

    def entry(short: bytes, attributes: int, cluster: int, size: int = 0) -> bytes:
        return struct.pack("<11sB14xHI", short, attributes, cluster, size)

    label = entry(b"PRIVML     ", 0x08, 0)
    deleted = b"\xe5" + entry(b"FI        ", 0x10, 9)[1:]
    root = (label + deleted + entry(b"EFI        ", 0x10, 2)).ljust(512, b"\0")
    efi = (entry(b".          ", 0x10, 2) + entry(b"BOOT       ", 0x10, 3)).ljust(512, b"\0")
    folder = entry(name, 0x20, 4, len(body)).ljust(512, b"\0")
    data = efi + folder + body.ljust(count * 512, b"\0")
    return (bytes(boot) + chains * 2 + root + data).ljust(total * 512, b"\0")


def disk(content: bytes, *, type_: uuid.UUID = gpt.ESP) -> bytes:
    """A disk with one partition that begins at sector 34 and holds ``content``."""
    last = 33 + len(content) // 512
    entry = type_.bytes_le + uuid.UUID(int=7).bytes_le + struct.pack("<QQQ", 34, last, 0)
    entries = (entry + "esp".encode("utf-16-le").ljust(72, b"\0")).ljust(128 * 128, b"\0")
    header = bytearray(b"EFI PART" + struct.pack("<IIIIQQQQ", 0x10000, 92, 0, 0, 1, last + 34, 34, last))
    header += DISK.bytes_le + struct.pack("<QIII", 2, 128, 128, zlib.crc32(entries))
    header[16:20] = zlib.crc32(bytes(header)).to_bytes(4, "little")
    return bytes(512) + bytes(header).ljust(512, b"\0") + entries + content


IMAGE = disk(fat16(b"MZ loader" * 200))


def test_the_event_is_header_count_and_used_entries() -> None:
    table = gpt.table(IMAGE)
    assert table.event == IMAGE[512:604] + (1).to_bytes(8, "little") + IMAGE[1024:1152]
    assert table.disk == DISK and table.partitions[0].name == "esp"
    assert (table.partitions[0].start, table.partitions[0].end) == (FIRST, len(IMAGE))
    assert decode(table.event) == table


def test_the_boot_loader_is_found() -> None:
    assert fat.read(IMAGE, FIRST) == b"MZ loader" * 200
    assert fat.read(disk(fat16(b"")), FIRST) == b""


@pytest.mark.parametrize(
    ("at", "value", "text"),
    [
        (512, b"X", "EFI PART"),
        (524, b"\xff\xff", "header of"),
        (568, b"\0", "CRC32 is wrong"),
        (1030, b"x", "CRC32 of the entries"),
    ],
)
def test_a_changed_table_is_refused(at: int, value: bytes, text: str) -> None:
    with pytest.raises(MeasurementError, match=text):
        gpt.table(IMAGE[:at] + value + IMAGE[at + len(value) :])


def test_missing_table_entries_are_refused() -> None:
    with pytest.raises(MeasurementError, match="GPT entries"):
        gpt.table(IMAGE[:2048])


def test_partitions_are_read_with_offsets_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "root.raw"
    path.write_bytes(volume("privml-root"))
    data, tree = gpt.read(path).partitions
    assert (data.name, data.start, data.size, data.flags) == ("privml-root", 40 * 512, 8192, 0)
    assert (tree.name, tree.start, tree.size) == ("privml-root-verity", 56 * 512, 4096)
    flagged = bytearray(path.read_bytes())
    flagged[1024 + 48 : 1024 + 56] = (1 << 60).to_bytes(8, "little")
    path.write_bytes(resealed(bytes(flagged)))
    assert gpt.read(path).partitions[0].flags == 1 << 60


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a GPT disk image"),
        (bytes(4096), "not a GPT disk image"),
        (table_of([])[: 512 + 60], "GPT header"),
        (table_of([], size=256).ljust(1 << 16, b"\0"), "128 entries of 256 bytes"),
        (table_of([], count=5000)[:2048], "5000 entries"),
        (table_of([])[:4000], "GPT entries"),
        (table_of([("a", 40, 39)]).ljust(1 << 16, b"\0"), "begins at sector 40 and ends at 39"),
        (table_of([("a", 40, 1 << 40)]).ljust(1 << 16, b"\0"), "of a disk of 65536 bytes"),
        (table_of([("a", 40, 128)]).ljust(1 << 16, b"\0"), "ends at byte 66048 of a disk of 65536"),
    ],
)
def test_a_malformed_disk_raises_the_given_error(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(data)
    with pytest.raises(MeasurementError, match=rf"^x\.raw: .*{words}"):
        gpt.read(path)
    with pytest.raises(BuildError, match=rf"^x\.raw: .*{words}"):
        gpt.read(path, error=BuildError)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda volume: volume[:510] + bytes(2) + volume[512:], "55 aa"),
        (lambda volume: volume[:13] + b"\3" + volume[14:], "not plausible"),
        (lambda volume: volume[:19] + b"\1\0" + volume[21:], "before the data"),
        (lambda volume: volume.replace(b"BOOTX64 EFI", b"OTHER   EFI"), "no `BOOTX64.EFI`"),
        (lambda volume: volume.replace(b"EFI        \x10", b"EFI        \x20"), "not a directory"),
    ],
)
def test_a_broken_file_system_is_refused(change: object, text: str) -> None:
    assert callable(change)
    with pytest.raises(MeasurementError, match=text):
        fat.read(change(fat16(b"x" * 700)), 0)


def test_a_circular_cluster_chain_is_refused() -> None:
    volume = bytearray(fat16(b"x" * 2000))
    volume[512 + 2 * 5 : 512 + 2 * 5 + 2] = (4).to_bytes(2, "little")  # 4, 5, 4, 5, ...
    assert len(fat.read(bytes(volume), 0)) == 2000
    volume[512 + 2 * 3 : 512 + 2 * 3 + 2] = (3).to_bytes(2, "little")  # the directory's chain
    assert len(fat.read(bytes(volume), 0)) == 2000


def test_a_truncated_or_outside_cluster_chain_is_refused() -> None:
    volume = bytearray(fat16(b"x" * 2000))
    volume[512 + 8 : 512 + 10] = b"\xff\xff"
    with pytest.raises(MeasurementError, match="its chain has 512"):
        fat.read(bytes(volume), 0)
    volume[512 + 8 : 512 + 10] = (60000).to_bytes(2, "little")
    with pytest.raises(MeasurementError, match="cluster 60000"):
        fat.read(bytes(volume), 0)
