"""A firmware as OVMF's AmdSev build lays it out, with every module of it, each some bytes long."""

from __future__ import annotations

import lzma
import struct
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from tests.unit.snp_firmware import firmware

from privml.measure import firmwarevolume as volume
from privml.measure.snp import bootmodules
from privml.measure.snp.bound import FALLBACK, SHIM

PEI, DRIVER, RAW, IMAGE, SEC = 0x06, 0x07, 0x01, 0x0B, 0x03
VOLUMES, FIRST_PROGRAM, RESET = bootmodules.OUTER
LOAD = bytes.fromhex("ff90c8000000")
LZMA = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
VARIABLES = uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
FILTER = {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 24, "preset": 6}
FIRST, LAST = 0x1000, 0x4000  # sizes of the first and the last volume
TABLE_AT = 0x200  # of the SEV metadata in the last volume


def wide(text: str) -> bytes:
    return f"{text}\0".encode("utf-16-le")


def section(kind: int, data: bytes) -> bytes:
    """A section, with zeros up to where the next one starts."""
    size = len(data) + 4
    return (size.to_bytes(3, "little") + bytes([kind]) + data).ljust(-(-size // 4) * 4, b"\0")


def file(guid: uuid.UUID, kind: int, data: bytes, *, attributes: int = 0, state: int = 0xF8) -> bytes:
    """A file, with erased bytes up to where the next one starts."""
    size = 24 + len(data)
    header = bytearray(guid.bytes_le + bytes([0, 0, kind, attributes]) + size.to_bytes(3, "little") + b"\0")
    header[16] = -sum(header) % 256
    header[17], header[23] = 0xAA, state
    return (bytes(header) + data).ljust(-(-size // 8) * 8, b"\xff")


def a_volume(files: Iterable[bytes], size: int, file_system: uuid.UUID = volume.FILE_SYSTEM) -> bytes:
    """A volume of ``size`` bytes whose extended header names it, as OVMF's do."""
    header = bytearray(struct.pack("<16x16sQ4sIHHHBB", file_system.bytes_le, size, b"_FVH", 0x4FEFF, 56, 0, 96, 0, 2))
    header += struct.pack("<II", size, 0)
    header[48:50] = struct.pack("<H", 56 + 8)
    header = header.ljust(64, b"\0")
    total = sum(struct.unpack("<32H", bytes(header)))
    header[50:52] = struct.pack("<H", -total % 65536)
    extended = bytes(header).ljust(96, b"\xff") + uuid.UUID(int=5).bytes_le + struct.pack("<I", 20)
    return (extended.ljust(120, b"\xff") + b"".join(files)).ljust(size, b"\xff")


@dataclass(frozen=True)
class Module:
    """A module of the firmware to build: its name, the bytes of its program, and further sections."""

    name: str
    program: bytes
    kind: int = DRIVER
    more: bytes = b""

    def file(self, guid: uuid.UUID) -> bytes:
        data = section(volume.PE32, self.program) if self.name else section(volume.RAW, bytes(16))
        name = section(volume.USER_INTERFACE, wide(self.name)) if self.name else b""
        return file(guid, self.kind, data + self.more + name)


def boot_manager(shim: str = SHIM, fallback: str = FALLBACK, loads: int = 5) -> bytes:
    return b"MZ" + LOAD * loads + wide(shim) + b"\x7f\xff\4\0" + wide(fallback) + wide("Floppy")


def modules(known: bootmodules.Modules, kind: int) -> dict[uuid.UUID, Module]:
    """A module for each that is known, with the programs that `bound` looks into."""
    own = {"BdsDxe": boot_manager(), "PciBusDxe": b"MZ" + LOAD + bytes(9), "UiApp": boot_manager()}
    types = {guid: bootmodules.TYPES.get(guid, kind) for guid in known}
    return {guid: Module(name, own.get(name, b"MZ" + guid.bytes), types[guid]) for guid, name in known.items()}


Modules = Mapping[uuid.UUID, Module]


@dataclass(frozen=True)
class Parts:
    """What a firmware is made of: the modules of both compressed volumes, and how they are packed."""

    early: Modules
    drivers: Modules
    inner: Callable[[bytes, bytes], bytes] = lambda early, drivers: (
        section(volume.RAW, bytes(0x78))
        + section(volume.FIRMWARE_VOLUME, early)
        + section(volume.RAW, bytes(8))
        + section(volume.FIRMWARE_VOLUME, drivers)
    )
    header: Callable[[int], bytes] = lambda size: b"\x5d" + struct.pack("<IQ", 1 << 24, size)
    stream: Callable[[bytes], bytes] = lambda data: lzma.compress(data, lzma.FORMAT_RAW, filters=[FILTER])
    images: Callable[[bytes], list[bytes]] = lambda image: [file(VOLUMES, IMAGE, image)]
    first: Module = Module("SecMain", b"MZ", SEC)
    guid: uuid.UUID = LZMA
    spare: int = 4096
    again: tuple[uuid.UUID, ...] = ()  # drivers that are there twice
    hashes: int | None = 0x810C00

    def contents(self) -> bytes:
        """The bytes that are compressed."""
        files = [b"".join(each.file(guid) for guid, each in part.items()) for part in (self.early, self.drivers)]
        files[1] += b"".join(self.drivers[guid].file(guid) for guid in self.again)
        sizes = [-(-(len(data) + 2048) // 4096) * 4096 for data in files]
        return self.inner(*(a_volume([data], size) for data, size in zip(files, sizes, strict=True)))

    def build(self) -> bytes:
        """The firmware file."""
        return self.around(self.contents())

    def around(self, contents: bytes) -> bytes:
        """A firmware file with these bytes compressed."""
        stream = self.header(len(contents)) + self.stream(contents)
        body = self.guid.bytes_le + struct.pack("<HH", 24, 1) + stream + bytes(self.spare)
        files = [*self.images(section(volume.GUID_DEFINED, body)), self.first.file(FIRST_PROGRAM)]
        room = -(-(sum(map(len, files)) + 120) // 4096) * 4096
        start = a_volume([], FIRST, VARIABLES) + a_volume(files, room)
        # The tables for the VMM are at the end of the last volume, in a raw file.
        whole = firmware(size=len(start) + LAST, at=len(start) + TABLE_AT, hashes=self.hashes)
        last = a_volume([file(RESET, RAW, bytes(LAST - 120 - 24))], LAST)
        return start + last[:144] + whole[len(start) + 144 :]

    def with_driver(self, guid: uuid.UUID, module: Module | None) -> Parts:
        """The same with another module of that GUID, or without it."""
        rest = {key: each for key, each in self.drivers.items() if key != guid}
        return replace(self, drivers=rest if module is None else {**rest, guid: module})


PARTS = Parts(modules(bootmodules.PEI, PEI), modules(bootmodules.DRIVERS, DRIVER))


def guid_of(name: str) -> uuid.UUID:
    return next(guid for guid, each in bootmodules.DRIVERS.items() if each == name)
