"""Make the disks that a dishonest host would attach, and search what it can read afterwards: disks and packets."""

from __future__ import annotations

import hashlib
import mmap
import shutil
import struct
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from privml.events.gpt import SECTOR
from privml.image.tools import Bind, ToolsTree
from privml.measure import gpt

SWAP = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
VAR = "4d21b016-b534-45c2-a9fb-5c16e091fd2d"
HOME = "933ac7e1-2eb4-4f13-b844-0e14e2aef915"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
_ENTRIES = 128
_ENTRY = struct.Struct("<16s16sQQQ72s")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_MIB = 1 << 20


def copy(source: Path, target: Path) -> Path:
    """A writable copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    return target


def empty(target: Path) -> Path:
    """A disk of zeros."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(bytes(_MIB))
    return target


def corrupted(source: Path, target: Path, name: str, blocks: Iterable[int]) -> Path:
    """``source`` with one bit flipped in each of these 4096-byte blocks of the partition ``name``."""
    copy(source, target)
    (part,) = [partition for partition in gpt.read(source).partitions if partition.name == name]
    with target.open("r+b") as file:
        for block in blocks:
            if block * 4096 >= part.size:
                break
            place = part.start + block * 4096 + 1024
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1]))
    return target


def swap(size: int = 4 * _MIB) -> bytes:
    """A swap area as mkswap makes it."""
    page = bytearray(4096)
    struct.pack_into("<III", page, 1024, 1, size // 4096 - 1, 0)
    page[4086:] = b"SWAPSPACE2"
    return bytes(page) + bytes(size - 4096)


def with_partitions(source: Path | None, target: Path, more: Iterable[tuple[str, str, bytes]]) -> Path:
    """``source`` (or a new disk) with further partitions (type, name, content) at its end, under a valid GPT."""
    if source is None:
        empty(target)
        header = _HEADER.pack(
            b"EFI PART", 0x10000, 92, 0, 0, 1, 0, 34, 0, uuid.UUID(int=1).bytes_le, 2, _ENTRIES, 128, 0
        )
        entries = bytearray(_ENTRIES * 128)
    else:
        copy(source, target)
        with target.open("rb") as file:
            file.seek(SECTOR)
            header = file.read(_HEADER.size)
            file.seek(2 * SECTOR)
            entries = bytearray(file.read(_ENTRIES * 128))
    fields = list(_HEADER.unpack(header))
    assert (fields[10], fields[11], fields[12]) == (2, _ENTRIES, 128), "a GPT of another layout"
    data = bytearray()
    start = -(-target.stat().st_size // _MIB) * _MIB
    number = sum(1 for n in range(_ENTRIES) if any(entries[n * 128 : n * 128 + 16]))
    for kind, name, content in more:
        size = -(-len(content) // _MIB) * _MIB
        first = (start + len(data)) // SECTOR
        identity = uuid.uuid5(uuid.UUID(int=2), f"{target.name}/{number}").bytes_le
        entry = _ENTRY.pack(
            uuid.UUID(kind).bytes_le, identity, first, first + size // SECTOR - 1, 0, name.encode("utf-16-le")
        )
        entries[number * 128 : (number + 1) * 128] = entry
        data += content.ljust(size, b"\0")
        number += 1
    last = (start + len(data) + _MIB) // SECTOR - 1
    with target.open("r+b") as file:
        file.seek(start)
        file.write(data)
        file.truncate((last + 1) * SECTOR)
        for here, there, table in ((1, last, 2), (last, 1, last - 32)):
            fields[3], fields[5], fields[6], fields[8], fields[10] = 0, here, there, last - 33, table
            fields[13] = zlib.crc32(entries)
            fields[3] = zlib.crc32(_HEADER.pack(*fields))
            file.seek(table * SECTOR)
            file.write(entries)
            file.seek(here * SECTOR)
            file.write(_HEADER.pack(*fields))
    return target


def add_file(tools: ToolsTree, disk: Path, file: Path, folder: str) -> None:
    """Put ``file`` into a new ``folder`` on the disk's first partition, a FAT."""
    put_file(tools, disk, file, f"{folder}/{file.name}")


def put_file(tools: ToolsTree, disk: Path, file: Path, path: str) -> None:
    """Put ``file`` at ``path`` on the disk's first partition, a FAT; folders are made, a file there is replaced."""
    place = f"/disk/{disk.name}@@{gpt.read(disk).partitions[0].start}"
    binds = [Bind(disk.parent, "/disk", writable=True), Bind(file, "/file")]
    env = {"MTOOLS_SKIP_CHECK": "1"}
    for folder in reversed(PurePosixPath(path).parents[:-1]):
        # It may be there already.
        tools.run(["mmd", "-D", "s", "-i", place, f"::{folder}"], binds=binds, env=env, check=False)
    tools.run(["mcopy", "-D", "o", "-o", "-i", place, "/file", f"::{path}"], binds=binds, env=env)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, needle: bytes) -> bool:
    """True when the bytes are in the file."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        return view.find(needle) >= 0


def begun(packets: Path) -> list[str]:
    """What the guest began to say to others (pcap of its network), but for ARP and DHCP: nothing, if all is well."""
    data = packets.read_bytes() if packets.exists() else b""
    guest = bytes.fromhex("525400123456")  # QEMU's default for the first card
    found = []
    at = 24
    while at + 16 <= len(data):
        (size,) = struct.unpack_from("<I", data, at + 8)
        frame = data[at + 16 : at + 16 + size]
        at += 16 + size
        if frame[6:12] != guest or frame[12:14] == b"\x08\x06":
            continue
        if frame[12:14] != b"\x08\x00":
            found.append(f"ethertype {frame[12:14].hex()}")
            continue
        head = 14 + (frame[14] & 15) * 4
        protocol, target = frame[23], ".".join(str(part) for part in frame[30:34])
        source_port, port = struct.unpack_from(">HH", frame, head)
        if protocol == 17 and (source_port, port) == (68, 67):
            continue
        if protocol == 6 and frame[head + 13] & 0x12 != 0x02:
            continue  # not a SYN alone: part of an answer
        found.append(f"protocol {protocol} to {target}:{port}")
    return found
