"""Option ROMs and their compression: any bytes give drivers or a named error, and packed data round-trips."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_measure_optionrom import driver, image, stored

from privml.base.errors import MeasurementError
from privml.measure import lzh, optionrom

ROM = image(b"bios", code=0, last=False) + image(stored(driver(bytes(range(256)))), how=1)


@given(st.binary(max_size=4000))
def test_stored_bytes_round_trip(data: bytes) -> None:
    assert lzh.decompress(stored(data)) == data


@given(st.binary(max_size=400), st.integers(0, 1 << 32))
def test_decompression_of_any_stream_ends(data: bytes, size: int) -> None:
    packed = struct.pack("<II", len(data), size & 0xFFFF) + data
    try:
        assert len(lzh.decompress(packed)) == size & 0xFFFF
    except MeasurementError as error:
        assert error.message.startswith("compressed image")


@given(st.lists(st.tuples(st.integers(0, len(ROM) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(ROM)))
def test_any_change_of_a_rom_is_read_or_refused(changes: list[tuple[int, int]], length: int) -> None:
    rom = bytearray(ROM)
    for place, value in changes:
        rom[place] = value
    try:
        found = optionrom.drivers(bytes(rom[:length]))
    except MeasurementError:
        return
    assert all(len(one.authenticode) == 48 for one in found)
