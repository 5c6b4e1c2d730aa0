"""Derive a firmware that can start nothing but the kernel whose hash is measured.

OVMF's AmdSev build checks the kernel, initrd and command line of fw_cfg, but it also starts what no hash covers: the
file `etc/boot/shim` of fw_cfg in the kernel's place; `\\EFI\\BOOT\\BOOTX64.EFI` of a disk, and of fw_cfg's
`etc/boot/`, when there is no kernel or the kernel returns; what somebody chooses in a menu; and option ROMs, if the
host asks for a 64-bit PCI window of no size. The launch digest is the same each time.

The derived firmware has no drivers for disks and no menus, and cannot name a shim or a fallback program or load an
option ROM. Nor does it hand on the host's SMBIOS tables: systemd-stub adds a string of them to the kernel's command
line, unless CPUID, which the host answers, says that the guest is confidential. Its layout is the same, and so is all
that is outside the compressed volumes: the reset vector and the tables for the VMM.

Source: edk2 OvmfPkg/AmdSev/AmdSevX64.fdf, OvmfPkg/QemuKernelLoaderFsDxe, OvmfPkg/Library/GenericQemuLoadImageLib,
OvmfPkg/IncompatiblePciDeviceSupportDxe, OvmfPkg/SmbiosPlatformDxe, MdeModulePkg/Library/UefiBootManagerLib,
MdeModulePkg/Bus/Pci/PciBusDxe/PciOptionRomSupport.c; the LZMA SDK's lzma-specification.txt for the header.
"""

from __future__ import annotations

import lzma
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure import firmwarevolume as volume
from privml.measure.digest import piece, unsigned
from privml.measure.snp import bootmodules, table

_LZMA = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
_HINT = (
    "the firmware of Debian's package ovmf-amdsev 2026.08+ds-2 is known; another needs a look at what it can start"
)
_MAX_SIZE = 1 << 26  # of the decompressed volumes; real ones have 16 MiB
_DICTIONARY = 1 << 24
_PROPERTIES = bytes([0x5D]) + _DICTIONARY.to_bytes(4, "little")  # lc=3 lp=0 pb=2
# Nothing is left to a library's presets. liblzma 5.2.5, 5.4.1, 5.4.2, 5.4.5 and 5.8.4 give the same bytes.
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

_LOAD = re.compile(rb"\xff(?:[\x90-\x97\xa0-\xa7]|[\x94\xa4].)\xc8\x00\x00\x00", re.DOTALL)
"""x86-64 `call` and `jmp` to [register+0xc8], with and without an index: a call of LoadImage, the only way to start a
program that is not in a volume. A call of an address that was read before is not found."""
_LOADERS = {"BdsDxe": 5, "PciBusDxe": 1}
"""The kept modules that load images, and how often. BdsDxe's are: shim, kernel, two for boot options, and images that
were put off, of which there are none without option ROMs."""


_OF_MODULES = {
    volume.PE32,
    volume.RAW,
    volume.USER_INTERFACE,
    volume.VERSION,
    volume.DRIVER_DEPENDENCIES,
    volume.EARLY_DEPENDENCIES,
}
_OF_VOLUMES = 0x0B  # the type of the file that has only the compressed section


def _wide(text: str) -> re.Pattern[bytes]:
    return re.compile(re.escape(f"{text}\0".encode("utf-16-le")))


def _unreachable(text: str) -> bytes:
    """``text`` in characters above 0xFF. The firmware widens fw_cfg's names from bytes, so no host can give it."""
    return ("".join(chr(0xE000 + ord(character)) for character in text) + "\0").encode("utf-16-le")


@dataclass(frozen=True)
class Change:
    """``before`` is once in ``module``, and ``after``, of the same length, takes its place."""

    module: str
    what: str
    before: re.Pattern[bytes]
    after: bytes


SHIM, FALLBACK = "shim", "\\EFI\\BOOT\\BOOTX64.EFI"
CHANGES = (
    Change("BdsDxe", "the name of a shim", _wide(SHIM), _unreachable(SHIM)),
    Change("BdsDxe", "the path of a fallback program", _wide(FALLBACK), _unreachable(FALLBACK)),
    # `or rax, -1` and two `nop`: to load an option ROM is an error, and the bus driver goes on without.
    Change("PciBusDxe", "the load of an option ROM", _LOAD, bytes.fromhex("4883c8ff9090")),
)


def bound(firmware: bytes) -> bytes:
    """``firmware``, an AmdSev build as a whole, with nothing left that starts another program than the hashed kernel.

    The result has the same size, and the same input gives the same bytes. ``MeasurementError`` for a firmware that
    checks no kernel's hash, is laid out otherwise, or has modules or calls of LoadImage that are not known.
    """
    if table.read(firmware).hashes is None:
        raise MeasurementError("firmware: it checks no kernel's hash, so nothing can bind what it starts", hint=_HINT)
    _check(_outer(firmware), bootmodules.OUTER)
    start, room = _compressed(firmware)
    packed = _packed(_changed(firmware))
    if len(packed) > room:
        raise MeasurementError(f"firmware: the changed volumes need {len(packed)} bytes, expected {room} at most")
    return firmware[:start] + packed.ljust(room, b"\0") + firmware[start + room :]


def is_bound(firmware: bytes) -> bool:
    """Whether ``firmware`` is as `bound` leaves one: it checks the kernel's hash, has the kept modules and no others,
    and all of `CHANGES`. Other code in a kept module is compared neither here nor there."""
    try:
        if table.read(firmware).hashes is None:
            return False
        _check(_outer(firmware), bootmodules.OUTER)
        contents, (early, drivers) = volumes(firmware)
        _check(early.files, bootmodules.PEI)
        _check(drivers.files, bootmodules.KEPT, bootmodules.DRIVER)
        return all(_is_changed(contents, file) for file in drivers.files)
    except MeasurementError:
        return False


def _is_changed(contents: bytes, file: volume.File) -> bool:
    changes = [change for change in CHANGES if change.module == file.name]
    code = contents[file.offset : file.offset + file.size]
    if any(change.before.search(code) or change.after not in code for change in changes):
        return False
    return len(_LOAD.findall(code)) == _LOADERS.get(file.name, 0) - sum(change.before is _LOAD for change in changes)


def volumes(firmware: bytes) -> tuple[bytes, tuple[volume.Volume, ...]]:
    """The decompressed bytes of a firmware, and the volumes in them: of the early phase, and of drivers."""
    start, room = _compressed(firmware)
    contents = _decompressed(piece(firmware, start, room, "compressed volumes"))
    inner = volume.sections(contents, 0, len(contents), "compressed volumes")
    found = [each for each in inner if each.type == volume.FIRMWARE_VOLUME]
    if len(found) != 2 or any(each.type not in {volume.FIRMWARE_VOLUME, volume.RAW} for each in inner):
        raise MeasurementError(f"firmware: {len(found)} compressed volumes, expected 2", hint=_HINT)
    return contents, tuple(volume.volume(contents, each.offset, "compressed volume") for each in found)


def _outer(firmware: bytes) -> tuple[volume.File, ...]:
    """The files that are not compressed."""
    return tuple(file for each in volume.volumes(firmware, "firmware") for file in each.files)


def _compressed(firmware: bytes) -> tuple[int, int]:
    """Where the compressed volumes are: offset and size of the LZMA stream with its header."""
    images = [
        section for file in _outer(firmware) for section in file.sections if section.type == volume.GUID_DEFINED
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
        raise MeasurementError(f"firmware: LZMA header {packed[:13].hex()} is not supported", hint=_HINT)
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_FILTER])
    try:
        found = decoder.decompress(packed[13:], max_length=size)
    except lzma.LZMAError as error:
        raise MeasurementError("firmware: its compressed volumes are malformed") from error
    if len(found) != size:
        raise MeasurementError(f"firmware: compressed volumes of {len(found)} bytes, their header says {size}")
    return found


def _packed(contents: bytes) -> bytes:
    header = _PROPERTIES + len(contents).to_bytes(8, "little")
    return header + lzma.compress(contents, lzma.FORMAT_RAW, filters=[_FILTER])


def _changed(firmware: bytes) -> bytes:
    """The decompressed bytes without modules that read disks or start programs, and with `CHANGES` made."""
    read, (early, drivers) = volumes(firmware)
    contents = bytearray(read)
    removed = {guid for modules in bootmodules.REMOVED.values() for guid in modules}
    _check(early.files, bootmodules.PEI)
    _check(drivers.files, bootmodules.DRIVERS, bootmodules.DRIVER)
    for file in drivers.files:
        if file.guid in removed:
            volume.pad(contents, file)
            continue
        loads = len(_LOAD.findall(contents, file.offset, file.offset + file.size))
        if loads != _LOADERS.get(file.name, 0):
            raise MeasurementError(f"firmware: {file.name} loads images in {loads} places, not known", hint=_HINT)
        for change in CHANGES:
            if change.module == file.name:
                _make(change, contents, file)
    return bytes(contents)


def _check(files: tuple[volume.File, ...], known: bootmodules.Modules, usual: int = bootmodules.PEI_DRIVER) -> None:
    """Refuse files other than the ``known``, and what may have more files or programs inside.

    They have the ``usual`` type, but for those of `bootmodules.TYPES`.
    """
    for file in files:
        if known.get(file.guid) != file.name:
            raise MeasurementError(f"firmware: module {file.guid} `{file.name}` is not known", hint=_HINT)
        kind = bootmodules.TYPES.get(file.guid, usual)
        if file.type != kind:
            raise MeasurementError(
                f"firmware: module {file.guid} `{file.name}` has type 0x{file.type:02x}, expected 0x{kind:02x}",
                hint=_HINT,
            )
        found = [section.type for section in file.sections]
        for other in found:
            if other not in _OF_MODULES and (kind, found) != (_OF_VOLUMES, [volume.GUID_DEFINED]):
                raise MeasurementError(f"firmware: section of type 0x{other:02x} in module `{file.name}`", hint=_HINT)
        programs = found.count(volume.PE32)
        if programs != bool(file.name):
            raise MeasurementError(f"firmware: {programs} programs in module {file.guid} `{file.name}`", hint=_HINT)
    missing = sorted(name or str(guid) for guid, name in known.items() if guid not in {file.guid for file in files})
    if missing or len(files) != len(known):
        raise MeasurementError(
            f"firmware: {len(files)} modules, expected {len(known)}; missing: {missing}", hint=_HINT
        )


def _make(change: Change, contents: bytearray, file: volume.File) -> None:
    found = list(change.before.finditer(contents, file.offset, file.offset + file.size))
    if len(found) != 1 or len(found[0][0]) != len(change.after):
        raise MeasurementError(
            f"firmware: {change.module} has {change.what} {len(found)} times, not once", hint=_HINT
        )
    start, end = found[0].span()
    contents[start:end] = change.after
