"""Tables of learnt platforms: many sizes from few readings, and a strict object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from learnt_tables import generated

from privml.base import strictjson
from privml.base.errors import MeasurementError
from privml.machine.platform import Size
from privml.measure import acpi, smbios
from privml.measure.tables import LearntTables, decode, measured_files

GIB = 1 << 30
BASE = Size(4, 4 * GIB)
COUNTS, MEMORY = (1, 2, 3, 4, 9), (1 * GIB, 4 * GIB, 64 * GIB)


def learnt() -> LearntTables:
    return LearntTables(
        "10.0.13",
        BASE,
        {count: measured_files(generated(Size(count, BASE.memory))) for count in COUNTS},
        {memory: measured_files(generated(Size(BASE.vcpus, memory))) for memory in MEMORY},
    )


def test_every_pair_follows_from_one_reading_of_each() -> None:
    found = learnt()
    for count in COUNTS:
        for memory in MEMORY:
            size = Size(count, memory)
            assert found.files(size) == measured_files(generated(size)), str(size)


def test_only_what_a_prediction_needs_is_kept() -> None:
    assert set(measured_files(generated(BASE))) == {
        acpi.TABLE_LOADER, acpi.RSDP, acpi.TABLES, smbios.TABLES, "BootMenu", "bootorder",
    }  # fmt: skip


@pytest.mark.parametrize("size", [Size(5, 4 * GIB), Size(4, 2 * GIB)])
def test_a_size_that_was_not_learnt_is_named(size: Size) -> None:
    with pytest.raises(MeasurementError, match=r"was learnt with 1\.\.4, 9 vCPUs and 1GiB, 4GiB, 64GiB") as caught:
        learnt().files(size)
    assert str(size) in caught.value.message
    assert "--vcpus and --memory" in str(caught.value.hint)


def test_bytes_that_both_move_are_refused() -> None:
    found = learnt()
    size = Size(1, 1 * GIB)
    name = smbios.TABLES
    both = {**found.by_memory[size.memory], name: b"X" + found.by_memory[size.memory][name][1:]}
    other = {**found.by_vcpus[size.vcpus], name: b"Y" + found.by_vcpus[size.vcpus][name][1:]}
    moved = LearntTables("1.0.0", BASE, {**found.by_vcpus, 1: other}, {**found.by_memory, 1 * GIB: both})
    with pytest.raises(MeasurementError, match="etc/smbios/smbios-tables: byte 0 depends on vCPUs and on memory"):
        moved.files(size)


def test_an_object_is_read_back_and_is_canonical() -> None:
    data = learnt().encoded()
    assert decode(data) == learnt()
    assert decode(data).encoded() == data


def broken(change: Any) -> bytes:
    document = json.loads(learnt().encoded())
    change(document)
    return strictjson.canonical(document)


BROKEN = {
    "format": (
        lambda one: one.update(format="privml-tables/v2"),
        "format privml-tables/v2, expected privml-tables/v1",
    ),
    "field": (lambda one: one.update(more=1), "got the fields"),
    "base": (lambda one: one["base"].update(vcpus=7), "is not among its sizes"),
    "count": (lambda one: one["vcpus"][0].update(vcpus=0), "got the number 0"),
    "order": (lambda one: one["vcpus"].reverse(), "expected a larger number"),
    "empty": (lambda one: one.update(memory=[]), "expected a list of 1 to 4096 rows"),
    "object": (lambda one: one["objects"].clear(), "malformed"),
    "files": (lambda one: one["vcpus"][0]["files"].pop("BootMenu"), "do not all have the same files"),
    "list": (lambda one: one.update(objects=[]), "expected an object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_object_is_refused(name: str) -> None:
    change, said = BROKEN[name]
    with pytest.raises(MeasurementError) as caught:
        decode(broken(change))
    assert said in caught.value.message


@pytest.mark.parametrize(("field", "value"), [("data", "QUJD"), ("size", 1 << 21), ("size", True), ("data", "%")])
def test_a_file_that_does_not_match_its_digest_is_refused(field: str, value: object) -> None:
    def change(document: dict[str, Any]) -> None:
        digest = document["vcpus"][0]["files"]["bootorder"]
        document["objects"][digest][field] = value

    with pytest.raises(MeasurementError, match=r"tables of a platform|base64"):
        decode(broken(change))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"{" * 100])
def test_what_is_not_an_object_is_refused(data: bytes) -> None:
    with pytest.raises(MeasurementError):
        decode(data)
