"""The firmware of an SNP guest that starts nothing but its kernel: what is changed, and what is refused."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.unit import amdsev
from tests.unit.amdsev import PARTS, Module, Parts, boot_manager, file, guid_of, section, wide

from privml.base.errors import MeasurementError
from privml.measure import firmwarevolume as volume
from privml.measure.snp import bootmodules, table
from privml.measure.snp.bound import CHANGES, bound, is_bound, volumes

STOCK = PARTS.build()
BOUND = bound(STOCK)
REMOVED = {guid: name for modules in bootmodules.REMOVED.values() for guid, name in modules.items()}
STRANGER = uuid.UUID(int=77)


def drivers(firmware: bytes) -> dict[str, bytes]:
    """Name -> bytes of every module in the volume of drivers."""
    contents, (_, found) = volumes(firmware)
    return {each.name: contents[each.offset : each.offset + each.size] for each in found.files}


def test_modules_that_read_disks_or_start_programs_are_padding_and_no_other() -> None:
    before, after = drivers(STOCK), drivers(BOUND)
    assert set(before) == set(bootmodules.DRIVERS.values())
    assert set(before) - set(after) == set(REMOVED.values())
    assert {name for name, body in after.items() if body != before[name]} == {"BdsDxe", "PciBusDxe"}
    contents, (early, _) = volumes(STOCK)
    assert {each.name for each in early.files} == set(bootmodules.PEI.values())
    changed, _ = volumes(BOUND)
    assert changed[: early.offset + early.size] == contents[: early.offset + early.size]


def test_no_shim_no_fallback_program_and_no_option_rom_can_be_reached() -> None:
    before, after = drivers(STOCK), drivers(BOUND)
    for word in ("shim", "\\EFI\\BOOT\\BOOTX64.EFI"):
        assert wide(word) in before["BdsDxe"] and wide(word) not in after["BdsDxe"]
    # No name of fw_cfg, whose characters are bytes, is equal to what takes their place.
    for change in CHANGES[:2]:
        assert change.after.endswith(b"\0\0")
        assert all(unit > 0xFF for (unit,) in struct.iter_unpack("<H", change.after[:-2]))
        assert change.after in after["BdsDxe"]
    assert amdsev.LOAD in before["PciBusDxe"] and amdsev.LOAD not in after["PciBusDxe"]
    fails = bytes.fromhex("4883c8ff9090")  # or rax, -1; nop; nop: what LoadImage returns is an error
    assert after["PciBusDxe"] == before["PciBusDxe"].replace(amdsev.LOAD, fails)
    assert after["BdsDxe"].count(amdsev.LOAD) == 5


def test_nothing_reads_the_host_s_smbios_tables() -> None:
    """systemd-stub adds their strings to the kernel's command line."""
    assert {"SmbiosDxe", "SmbiosPlatformDxe"} <= set(drivers(STOCK)) - set(drivers(BOUND))


def test_layout_and_tables_stay_and_the_same_bytes_come_again() -> None:
    assert len(BOUND) == len(STOCK) and bound(STOCK) == BOUND != STOCK
    assert table.read(BOUND) == table.read(STOCK)
    assert BOUND[-amdsev.LAST :] == STOCK[-amdsev.LAST :]
    assert BOUND[: amdsev.FIRST] == STOCK[: amdsev.FIRST]


def test_padding_has_the_form_of_a_file() -> None:
    contents, (_, before) = volumes(STOCK)
    changed, _ = volumes(BOUND)  # reads every header again, with its checksum
    for each in before.files:
        if each.guid in REMOVED:
            found = changed[each.offset : each.offset + each.size]
            assert found[:16] == b"\xff" * 16 and found[18] == volume.FILE_PADDING and sum(found[:23]) % 256 == 0xAA
            assert found[20:23] == contents[each.offset + 20 : each.offset + 23]
            assert set(found[24:]) == {0xFF}


BDS, PCI, FAT, SECRET = guid_of("BdsDxe"), guid_of("PciBusDxe"), guid_of("Fat"), guid_of("SecretDxe")
LISTED = guid_of("")
NESTED = section(volume.FIRMWARE_VOLUME, amdsev.a_volume([], 256))


def compressed(data: bytes) -> bytes:
    return file(amdsev.VOLUMES, amdsev.IMAGE, data)


def with_program(guid: uuid.UUID, program: bytes) -> Parts:
    return PARTS.with_driver(guid, replace(PARTS.drivers[guid], program=program))


REFUSED: dict[str, tuple[Parts, str]] = {
    "no kernel's hash is checked": (replace(PARTS, hashes=None), "checks no kernel's hash"),
    "a driver that is not known": (PARTS.with_driver(STRANGER, Module("VirtioNetDxe", b"MZ")), "`VirtioNetDxe`"),
    "a driver without a name": (PARTS.with_driver(STRANGER, Module("", b"")), "is not known"),
    "a driver under another name": (PARTS.with_driver(FAT, Module("Fat2", b"MZ")), "`Fat2` is not known"),
    "a driver under another GUID": (
        PARTS.with_driver(FAT, None).with_driver(STRANGER, Module("Fat", b"MZ")),
        "`Fat` is not known",
    ),
    "a driver to remove is not there": (PARTS.with_driver(FAT, None), "missing: ['Fat']"),
    "a driver to keep is not there": (PARTS.with_driver(BDS, None), "missing: ['BdsDxe']"),
    "a driver twice": (replace(PARTS, again=(FAT,)), "89 modules, expected 88"),
    "a driver twice and another not there": (
        replace(PARTS.with_driver(guid_of("UdfDxe"), None), again=(FAT,)),
        "missing: ['UdfDxe']",
    ),
    "an early module that is not known": (
        replace(PARTS, early={**PARTS.early, STRANGER: Module("NewPei", b"MZ")}),
        "`NewPei` is not known",
    ),
    "an early module is not there": (replace(PARTS, early=dict(list(PARTS.early.items())[:-1])), "Tcg2PlatformPei"),
    "a volume inside a module": (
        PARTS.with_driver(BDS, replace(PARTS.drivers[BDS], more=NESTED)),
        "section of type 0x17 in module `BdsDxe`",
    ),
    "something compressed inside a module": (
        PARTS.with_driver(BDS, replace(PARTS.drivers[BDS], more=section(volume.COMPRESSED, bytes(9)))),
        "section of type 0x01 in module `BdsDxe`",
    ),
    "no name of a shim": (with_program(BDS, boot_manager(shim="shin")), "the name of a shim 0 times"),
    "two names of a shim": (with_program(BDS, boot_manager() + wide("shim")), "the name of a shim 2 times"),
    "no fallback program": (with_program(BDS, boot_manager(fallback="\\x")), "fallback program 0 times"),
    "one more call of LoadImage": (with_program(BDS, boot_manager(loads=6)), "BdsDxe loads images in 6 places"),
    "one call of LoadImage less": (with_program(BDS, boot_manager(loads=4)), "BdsDxe loads images in 4 places"),
    "two loads of option ROMs": (with_program(PCI, amdsev.LOAD * 2), "PciBusDxe loads images in 2 places"),
    "a load of option ROMs by another register": (
        with_program(PCI, amdsev.LOAD + bytes.fromhex("ff92c8000000")),
        "PciBusDxe loads images in 2 places",
    ),
    "another driver loads images": (with_program(guid_of("SecretDxe"), amdsev.LOAD), "SecretDxe loads images"),
    "one compressed volume": (
        replace(PARTS, inner=lambda early, drivers: section(volume.FIRMWARE_VOLUME, drivers)),
        "1 compressed volumes",
    ),
    "a third compressed volume": (
        replace(PARTS, inner=lambda early, drivers: PARTS.inner(early, drivers) + NESTED),
        "3 compressed volumes",
    ),
    "something else next to the volumes": (
        replace(PARTS, inner=lambda early, drivers: PARTS.inner(early, drivers) + section(volume.PE32, b"MZ")),
        "compressed volumes, expected 2",
    ),
    "another compression": (replace(PARTS, guid=STRANGER), "expected LZMA"),
    "other LZMA properties": (replace(PARTS, header=lambda size: b"\x5e" + PARTS.header(size)[1:]), "LZMA header"),
    "volumes of more than 64 MiB": (replace(PARTS, header=lambda size: PARTS.header(1 << 27)), "LZMA header"),
    "volumes longer than their stream": (replace(PARTS, header=lambda size: PARTS.header(size + 1)), "volumes of"),
    "a malformed stream": (replace(PARTS, stream=lambda data: b"\xff" * 4000), "malformed"),
    "two compressed sections": (
        replace(PARTS, images=lambda image: [file(amdsev.VOLUMES, amdsev.IMAGE, image)] * 2),
        "4 modules, expected 3",
    ),
    "no compressed section": (
        replace(PARTS, images=lambda image: [file(amdsev.VOLUMES, amdsev.IMAGE, b"")]),
        "0 compressed sections",
    ),
    "a driver that is not compressed": (
        replace(PARTS, images=lambda image: [Module("Evil", b"MZ").file(STRANGER), compressed(image)]),
        "`Evil` is not known",
    ),
    "a volume that is not compressed": (
        replace(PARTS, images=lambda image: [file(STRANGER, amdsev.IMAGE, NESTED), compressed(image)]),
        f"module {STRANGER} `` is not known",
    ),
    "a volume next to the compressed ones": (
        replace(PARTS, images=lambda image: [file(amdsev.VOLUMES, amdsev.IMAGE, NESTED + image)]),
        "section of type 0x17",
    ),
    "a program next to the compressed volumes": (
        replace(PARTS, images=lambda image: [compressed(image + section(volume.PE32, b"MZ"))]),
        "section of type 0x02",
    ),
    "another first program": (replace(PARTS, first=Module("SecMain2", b"MZ", amdsev.SEC)), "`SecMain2` is not known"),
    "a first program of another type": (
        replace(PARTS, first=Module("SecMain", b"MZ")),
        "has type 0x07, expected 0x03",
    ),
    "two first programs": (
        replace(PARTS, first=Module("SecMain", b"MZ", amdsev.SEC, section(volume.PE32, b"MZ"))),
        "2 programs",
    ),
    "a volume inside the first program": (
        replace(PARTS, first=Module("SecMain", b"MZ", amdsev.SEC, NESTED)),
        "section of type 0x17 in module `SecMain`",
    ),
    "a kept driver as an application": (
        PARTS.with_driver(SECRET, replace(PARTS.drivers[SECRET], kind=0x09)),
        "`SecretDxe` has type 0x09, expected 0x07",
    ),
    "a kept driver as a file of volumes": (
        PARTS.with_driver(SECRET, replace(PARTS.drivers[SECRET], kind=0x0B)),
        "`SecretDxe` has type 0x0b",
    ),
    "an early module as a driver": (
        replace(PARTS, early={guid: replace(each, kind=amdsev.DRIVER) for guid, each in PARTS.early.items()}),
        "has type 0x07",
    ),
    "a kept driver with two programs": (
        PARTS.with_driver(SECRET, replace(PARTS.drivers[SECRET], more=section(volume.PE32, b"MZ"))),
        "2 programs in module",
    ),
    "a list of drivers with a program": (
        PARTS.with_driver(LISTED, replace(PARTS.drivers[LISTED], more=section(volume.PE32, b"MZ"))),
        "1 programs in module",
    ),
    **{
        f"{what} of LoadImage": (with_program(SECRET, bytes.fromhex(code)), "SecretDxe loads images in 1 places")
        for what, code in {
            "a call with an index": "41ff9424c8000000",
            "a call with a line feed as its index": "ff940ac8000000",
            "a jump": "ffa0c8000000",
            "a jump with an index": "41ffa424c8000000",
        }.items()
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_firmware_is_refused(name: str) -> None:
    parts, why = REFUSED[name]
    with pytest.raises(MeasurementError) as caught:
        bound(parts.build())
    assert why in caught.value.message
    assert not is_bound(parts.build())


def test_a_firmware_that_was_changed_already_is_refused() -> None:
    with pytest.raises(MeasurementError, match="missing: "):
        bound(BOUND)


def test_contents_that_do_not_fit_are_refused() -> None:
    # Words from a small list: the fast mode needs more bytes for them than all the removed modules leave.
    source = random.Random(1)
    words = [source.randbytes(source.randrange(3, 9)) for _ in range(300)]
    parts = with_program(guid_of("DxeCore"), b"".join(source.choices(words, k=30_000)))
    with pytest.raises(MeasurementError, match="the changed volumes need"):
        bound(replace(parts, spare=0).build())


def left(**changes: Module | None) -> Parts:
    """The parts of `BOUND`, with these drivers in the place of their own, or without them."""
    contents, (_, found) = volumes(BOUND)
    parts = replace(PARTS, drivers={each.guid: PARTS.drivers[each.guid] for each in found.files})
    for each in found.files:
        (code,) = (part for part in each.sections if part.type in {volume.PE32, volume.RAW})
        if each.name:
            program = contents[code.offset : code.offset + code.size]
            parts = parts.with_driver(each.guid, replace(PARTS.drivers[each.guid], program=program))
    for name, module in changes.items():
        parts = parts.with_driver(guid_of(name), module)
    return parts


def program_of(parts: Parts, name: str) -> bytes:
    return parts.drivers[guid_of(name)].program


LEFT = left()
NOT_BOUND: dict[str, Parts] = {
    "no kernel's hash is checked": replace(LEFT, hashes=None),
    "a file that is not compressed": replace(
        LEFT, images=lambda image: [Module("Evil", b"MZ").file(STRANGER), compressed(image)]
    ),
    "an early module less": replace(LEFT, early=dict(list(PARTS.early.items())[:-1])),
    "a kept module less": left(SecretDxe=None),
    "a kept module of another type": left(SecretDxe=Module("SecretDxe", b"MZ", 0x09)),
    "a kept module that loads images": left(SecretDxe=Module("SecretDxe", amdsev.LOAD)),
    "a removed module": left(Fat=PARTS.drivers[FAT]),
    "SMBIOS": left(SmbiosDxe=PARTS.drivers[guid_of("SmbiosDxe")]),
    "the package's boot manager": left(BdsDxe=PARTS.drivers[BDS]),
    "the package's bus driver": left(PciBusDxe=PARTS.drivers[PCI]),
    "a shim, and its name out of reach": left(BdsDxe=Module("BdsDxe", program_of(LEFT, "BdsDxe") + wide("shim"))),
    "a fallback program, and its name out of reach": left(
        BdsDxe=Module("BdsDxe", program_of(LEFT, "BdsDxe") + wide("\\EFI\\BOOT\\BOOTX64.EFI"))
    ),
    "no name of a shim": left(
        BdsDxe=Module("BdsDxe", program_of(LEFT, "BdsDxe").replace(CHANGES[0].after, bytes(10)))
    ),
    "a boot manager that loads more": left(BdsDxe=Module("BdsDxe", program_of(LEFT, "BdsDxe") + amdsev.LOAD)),
    "a bus driver that loads": left(PciBusDxe=Module("PciBusDxe", program_of(LEFT, "PciBusDxe") + amdsev.LOAD)),
    "a bus driver without the error": left(PciBusDxe=Module("PciBusDxe", b"MZ")),
}


def test_the_derived_firmware_is_bound_however_it_is_packed() -> None:
    assert is_bound(BOUND) and is_bound(LEFT.build())
    assert not is_bound(STOCK) and not is_bound(b"") and not is_bound(STOCK[:-1])


@pytest.mark.parametrize("name", NOT_BOUND)
def test_another_firmware_is_not_bound(name: str) -> None:
    assert not is_bound(NOT_BOUND[name].build())


Damage = Callable[[bytearray, int], None]


def put(at: int, *values: int) -> Damage:
    def damage(data: bytearray, start: int) -> None:
        data[start + at : start + at + len(values)] = bytes(values)

    return damage


VOLUME = amdsev.FIRST  # the one with the compressed file, whose header is at 120
DAMAGES: dict[str, tuple[Damage, str]] = {
    "signature": (put(40, 0), "no firmware volume"),
    "checksum": (put(50, 0, 0), "malformed header"),
    "header of an odd length": (put(48, 55, 0), "malformed header"),
    "file: checksum": (put(120 + 16, 0), "malformed file"),
    "file: state": (put(120 + 23, 0x78), "malformed file"),
    "file: size": (put(120 + 20, 5, 0, 0), "malformed file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_malformed_volume_is_refused(name: str) -> None:
    damage, why = DAMAGES[name]
    data = bytearray(STOCK)
    damage(data, VOLUME)
    with pytest.raises(MeasurementError, match=why):
        bound(bytes(data))


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (32, (8192).to_bytes(8, "little"), "malformed header"),
        (32, (40).to_bytes(8, "little"), "malformed header"),
        (45, b"\xf6", "erased bits"),
        (52, b"\xf0\xff", "extension|bytes 65"),
    ],
    ids=["past the end", "smaller than its header", "erased bits are 0", "an extension outside"],
)
def test_a_volume_whose_header_does_not_fit_it_is_refused(at: int, value: bytes, why: str) -> None:
    data = bytearray(amdsev.a_volume([], 4096))
    data[at : at + len(value)] = value
    data[50:52] = bytes(2)
    data[50:52] = struct.pack("<H", -sum(struct.unpack("<32H", data[:64])) % 65536)
    with pytest.raises(MeasurementError, match=why):
        volume.volume(bytes(data), 0, "x")


def test_bytes_after_the_last_file_of_a_volume_are_refused() -> None:
    good = amdsev.a_volume([file(STRANGER, amdsev.RAW, b"x")], 4096)
    assert len(volume.volume(good, 0, "x").files) == 1
    with pytest.raises(MeasurementError, match="after the last file"):
        volume.volume(good[:-1] + b"\0", 0, "x")


@pytest.mark.parametrize(
    ("attributes", "state", "why"),
    [(0x01, 0xF8, "not supported"), (0x40, 0xF8, "not supported"), (0, 0xF0, "malformed file")],
    ids=["a large file", "summed data", "a deleted file"],
)
def test_files_of_other_kinds_are_refused(attributes: int, state: int, why: str) -> None:
    data = amdsev.a_volume([file(STRANGER, amdsev.RAW, b"x", attributes=attributes, state=state)], 4096)
    with pytest.raises(MeasurementError, match=why):
        volume.volume(data, 0, "x")


def test_a_file_with_two_names_is_refused() -> None:
    names = section(volume.USER_INTERFACE, wide("one")) + section(volume.USER_INTERFACE, wide("two"))
    with pytest.raises(MeasurementError, match="2 names"):
        volume.volume(amdsev.a_volume([file(STRANGER, amdsev.DRIVER, names)], 4096), 0, "x")
