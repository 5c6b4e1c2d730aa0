"""Derive a firmware that can start nothing but the kernel whose hash is measured.

Debian's AmdSev build checks the kernel, the initrd and the command line that fw_cfg gives, but starts other programs
too: `etc/boot/shim` of fw_cfg in the kernel's place, `\\EFI\\BOOT\\BOOTX64.EFI` of a disk or of fw_cfg when no kernel is
given or the kernel returns, whatever a menu is told to, and PCI option ROMs. The launch digest shows none of them. The
derived firmware has no driver for disks and no menus, and the three places that start something else are closed. Its
layout is the same, and so is everything outside the compressed volumes: the reset vector and the tables for the VMM.

Source: edk2 OvmfPkg/AmdSev/AmdSevX64.fdf, OvmfPkg/QemuKernelLoaderFsDxe, OvmfPkg/Library/GenericQemuLoadImageLib,
MdeModulePkg/Library/UefiBootManagerLib, MdeModulePkg/Bus/Pci/PciBusDxe/PciOptionRomSupport.c; LZMA_Alone as in the LZMA
SDK's lzma-specification.txt.
"""

from __future__ import annotations

import lzma
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure import volume
from privml.measure.digest import piece, unsigned
from privml.measure.snp import bootmodules, table

_LZMA = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
_HINT = "derive from the firmware of Debian's package ovmf-amdsev 2026.08; look at another version first"
_MAX_SIZE = 1 << 26  # of the decompressed volumes; real ones have 16 MiB
_DICTIONARY = 1 << 24
_PROPERTIES = bytes([0x5D]) + _DICTIONARY.to_bytes(4, "little")  # lc=3 lp=0 pb=2
# Named in full, so that a preset of another liblzma does not change them. The fast mode and hash chains have given the
# same bytes since liblzma 5.0; a library that gave others would show, as the digest of the result is recorded.
_FILTER: Mapping[str, int] = {
    "id": lzma.FILTER_LZMA1,
    "dict_size": _DICTIONARY,
    "lc": 3,
    "lp": 0,
    "pb": 2,
    "mode": lzma.MODE_FAST,
    "nice_len": 273,
    "mf": lzma.MF_HC4,
    "depth": 64,
}


def _unreachable(text: str) -> bytes:
    """Characters above 0xFF in place of ``text``: fw_cfg's names are bytes, so no name that a host gives is equal."""
    return "".join(chr(0xE000 + ord(character)) for character in text).encode("utf-16-le")


def _wide(text: str) -> bytes:
    return f"{text}\0".encode("utf-16-le")


@dataclass(frozen=True)
class _Change:
    """Bytes that are once in a module, and what takes their place."""

    module: str
    what: str
    before: bytes
    after: bytes


_SHIM, _FALLBACK = "shim", "\\EFI\\BOOT\\BOOTX64.EFI"
_CHANGES = (
    _Change("BdsDxe", "the name of a shim", _wide(_SHIM), _unreachable(_SHIM) + b"\0\0"),
    _Change("BdsDxe", "the path of a fallback program", _wide(_FALLBACK), _unreachable(_FALLBACK) + b"\0\0"),
    # `call [rax+0xc8]`, its only call of LoadImage, becomes `or rax, -1` and two `nop`: loading fails. With a 64-bit
    # window of no size, which the host can ask for, the driver that turns option ROMs off is not there.
    _Change("PciBusDxe", "the load of an option ROM", bytes.fromhex("ff90c8000000"), bytes.fromhex("4883c8ff9090")),
)


def bound(firmware: bytes) -> bytes:
    """``firmware``, a whole AmdSev build, with nothing left that starts another program than the measured kernel.

    The result has the same size. ``MeasurementError`` for a firmware that checks no kernel's hash, whose layout is
    another, or that has modules which are not known.
    """
    if table.read(firmware).hashes is None:
        raise MeasurementError("firmware: it checks no kernel's hash, so nothing can bind what it starts", hint=_HINT)
    start, room = _compressed(firmware)
    contents = bytearray(_decompressed(piece(firmware, start, room, "compressed volumes")))
    _change(contents)
    packed = _packed(bytes(contents))
    if len(packed) > room:
        raise MeasurementError(f"firmware: changed volumes need {len(packed)} bytes, there are {room}", hint=_HINT)
    return firmware[:start] + packed.ljust(room, b"\0") + firmware[start + room :]


def _compressed(firmware: bytes) -> tuple[int, int]:
    """Where the compressed volumes are: offset and size of the LZMA stream with its header."""
    images = [
        section
        for each in volume.volumes(firmware, "firmware")
        for file in each.files
        for section in file.sections
        if section.type == volume.GUID_DEFINED
    ]
    if len(images) != 1:
        raise MeasurementError(f"firmware: {len(images)} compressed sections, expected 1", hint=_HINT)
    (image,) = images
    guid = uuid.UUID(bytes_le=piece(firmware, image.offset, 16, "compressed section"))
    start = unsigned(firmware, image.offset + 16, 2, "compressed section")
    if guid != _LZMA or start != 24:
        raise MeasurementError(f"firmware: compressed by {guid} from byte {start}, expected LZMA from 24", hint=_HINT)
    # The offset counts from the section's header, of 4 bytes.
    return image.offset + start - 4, image.size - start + 4


def _decompressed(packed: bytes) -> bytes:
    size = unsigned(packed, 5, 8, "LZMA header")
    if packed[:5] != _PROPERTIES or not 0 < size <= _MAX_SIZE:
        raise MeasurementError(f"firmware: LZMA header {packed[:13].hex()}, not supported", hint=_HINT)
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_FILTER])
    try:
        found = decoder.decompress(packed[13:], max_length=size)
    except lzma.LZMAError as error:
        raise MeasurementError("firmware: its compressed volumes are malformed") from error
    if len(found) != size:
        raise MeasurementError(f"firmware: volumes of {len(found)} bytes, its header says {size}")
    return found


def _packed(contents: bytes) -> bytes:
    header = _PROPERTIES + len(contents).to_bytes(8, "little")
    return header + lzma.compress(contents, lzma.FORMAT_RAW, filters=[_FILTER])


def _change(contents: bytearray) -> None:
    """Take modules out of the decompressed volumes, and close what else can be started."""
    inner = volume.sections(bytes(contents), 0, len(contents), "compressed volumes")
    found = [each for each in inner if each.type == volume.FIRMWARE_VOLUME]
    if len(found) != 2 or any(each.type not in {volume.FIRMWARE_VOLUME, volume.RAW} for each in inner):
        raise MeasurementError(f"firmware: {len(found)} compressed volumes, expected 2", hint=_HINT)
    early, drivers = (volume.volume(bytes(contents), each.offset, "compressed volume").files for each in found)
    removed = {guid: name for modules in bootmodules.REMOVED.values() for guid, name in modules.items()}
    _check(early, bootmodules.PEI)
    _check(drivers, {**bootmodules.DXE, **removed})
    for file in drivers:
        if file.guid in removed:
            volume.pad(contents, file)
        else:
            for change in _CHANGES:
                if change.module == file.name:
                    _replace(contents, file, change)


def _check(files: tuple[volume.File, ...], known: bootmodules.Modules) -> None:
    """Refuse files other than the ``known``, or with something inside that is not a module's."""
    for file in files:
        if known.get(file.guid) != file.name:
            raise MeasurementError(f"firmware: module {file.guid} `{file.name}` is not known", hint=_HINT)
        if any(section.type in {volume.GUID_DEFINED, volume.FIRMWARE_VOLUME} for section in file.sections):
            raise MeasurementError(f"firmware: module `{file.name}` has a volume inside", hint=_HINT)
    missing = sorted(name for guid, name in known.items() if guid not in {file.guid for file in files})
    if missing or len(files) != len(known):
        raise MeasurementError(f"firmware: {len(files)} modules, {missing[:3]} not there", hint=_HINT)


def _replace(contents: bytearray, file: volume.File, change: _Change) -> None:
    end = file.offset + file.size
    if (times := contents.count(change.before, file.offset, end)) != 1:
        raise MeasurementError(f"firmware: {change.what} is {times} times in {change.module}, expected 1", hint=_HINT)
    at = contents.index(change.before, file.offset, end)
    contents[at : at + len(change.before)] = change.after
