"""The tables of a learnt platform: what its QEMU generated for some sizes, from which those of many sizes follow.

QEMU's tables depend on vCPUs and on memory, but in different places. So they are kept for each number of vCPUs with
one memory size, and for each memory size with one number of vCPUs. The tables of any pair are those of its number of
vCPUs with what its memory size changes. `platform learn` compares the outermost pairs with what QEMU says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from privml.base import strictjson
from privml.base.errors import MeasurementError, PrivmlError
from privml.base.sizes import MAX_VCPUS, size_text
from privml.machine.platform import Size
from privml.measure import acpi, smbios
from privml.measure.profiles import FW_CFG_ITEMS

FORMAT = "privml-tables/v1"
MAX_SIZE = 16 << 20
_MAX_FILE = 1 << 20
_MAX_ROWS = 4096
_MAX_MEMORY = 1 << 52
_WHAT = "tables of a platform"

Files = Mapping[str, bytes]
"""fw_cfg files by name."""


@dataclass(frozen=True)
class LearntTables:
    """What a QEMU of ``version`` generates: ``by_vcpus`` at ``base.memory``, ``by_memory`` at ``base.vcpus``."""

    version: str
    base: Size
    by_vcpus: Mapping[int, Files]
    by_memory: Mapping[int, Files]

    def files(self, size: Size) -> dict[str, bytes]:
        """The files of a machine of that size; ``MeasurementError`` for one that was not learnt."""
        if size.vcpus not in self.by_vcpus or size.memory not in self.by_memory:
            raise MeasurementError(
                f"{size}: this platform was learnt with {_ranges(self.by_vcpus)} vCPUs and "
                f"{', '.join(size_text(one) for one in sorted(self.by_memory))}",
                hint="learn it with this size too: `privml-build platform learn` has --vcpus and --memory",
            )
        base = self.by_vcpus[self.base.vcpus]
        cpus, memory = self.by_vcpus[size.vcpus], self.by_memory[size.memory]
        return {name: _merged(name, base[name], cpus[name], memory[name]) for name in base}

    def encoded(self) -> bytes:
        """The object's bytes, which `decode` reads: the same for the same tables."""
        objects: dict[str, Any] = {}

        def row(files: Files) -> dict[str, str]:
            names = {}
            for name, data in files.items():
                digest = hashlib.sha256(data).hexdigest()
                objects[digest] = {"size": len(data), "data": strictjson.b64(data.rstrip(b"\0"))}
                names[name] = digest
            return names

        rows = {
            "vcpus": [{"vcpus": count, "files": row(files)} for count, files in sorted(self.by_vcpus.items())],
            "memory": [{"memory": size, "files": row(files)} for size, files in sorted(self.by_memory.items())],
        }
        base = {"vcpus": self.base.vcpus, "memory": self.base.memory}
        return strictjson.canonical(
            {"format": FORMAT, "qemu": self.version, "base": base, **rows, "objects": objects}
        )


def measured_files(blobs: Files) -> dict[str, bytes]:
    """The files of a machine that decide a prediction."""
    names = {name for name, _ in acpi.measured(blobs)} | {smbios.TABLES} | {name for name, _ in FW_CFG_ITEMS}
    return {name: blobs[name] for name in sorted(names) if name in blobs}


def decode(data: bytes) -> LearntTables:
    """Read an object; ``MeasurementError`` if it is malformed, or if a file does not match its digest."""
    try:
        document = strictjson.loads(data, what=_WHAT, limit=MAX_SIZE)
        _fields(document, "format", "qemu", "base", "vcpus", "memory", "objects")
        if document["format"] != FORMAT:
            raise MeasurementError(f"{_WHAT}: format {str(document['format'])[:40]}, expected {FORMAT}")
        objects = {name: _file(name, one) for name, one in _mapping(document["objects"]).items()}
        base = _fields(document["base"], "vcpus", "memory")
        found = LearntTables(
            str(document["qemu"]),
            Size(_number(base["vcpus"], MAX_VCPUS), _number(base["memory"], _MAX_MEMORY)),
            dict(_rows(document["vcpus"], "vcpus", MAX_VCPUS, objects)),
            dict(_rows(document["memory"], "memory", _MAX_MEMORY, objects)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MeasurementError(f"{_WHAT}: malformed: {error}") from error
    except PrivmlError as error:
        if isinstance(error, MeasurementError):
            raise
        raise MeasurementError(error.message) from error
    if found.base.vcpus not in found.by_vcpus or found.base.memory not in found.by_memory:
        raise MeasurementError(f"{_WHAT}: the base {found.base} is not among its sizes")
    names = {tuple(sorted(files)) for files in (*found.by_vcpus.values(), *found.by_memory.values())}
    if len(names) != 1:
        raise MeasurementError(f"{_WHAT}: its sizes do not all have the same files")
    return found


def _rows(value: object, key: str, most: int, objects: Mapping[str, bytes]) -> Iterator[tuple[int, dict[str, bytes]]]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_ROWS:
        raise MeasurementError(f"{_WHAT}: {key}: expected a list of 1 to {_MAX_ROWS} rows")
    last = 0
    for each in value:
        row = _fields(each, key, "files")
        number = _number(row[key], most)
        if number <= last:
            raise MeasurementError(f"{_WHAT}: {key} {number} follows {last}, expected a larger number")
        last = number
        yield number, {name: objects[digest] for name, digest in _mapping(row["files"]).items()}


def _file(name: str, value: object) -> bytes:
    one = _fields(value, "size", "data")
    size, data = one["size"], strictjson.unb64(one["data"])
    if type(size) is not int or not len(data) <= size <= _MAX_FILE:
        raise MeasurementError(f"{_WHAT}: a file of {str(size)[:20]} bytes, expected at most {_MAX_FILE}")
    whole = data.ljust(size, b"\0")
    found = hashlib.sha256(whole).hexdigest()
    if found != name:
        raise MeasurementError(f"{_WHAT}: a file has the SHA-256 {found}, expected {name[:64]}")
    return whole


def _fields(value: object, *names: str) -> dict[str, Any]:
    found = _mapping(value)
    if set(found) != set(names):
        raise MeasurementError(f"{_WHAT}: got the fields {sorted(found)[:8]}, expected {sorted(names)}")
    return found


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MeasurementError(f"{_WHAT}: expected an object")
    return value


def _number(value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise MeasurementError(f"{_WHAT}: got the number {str(value)[:20]}, expected 1 to {most}")
    return value


def _ranges(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    ends = [ordered[0], *(end for pair in pairwise(ordered) if pair[1] != pair[0] + 1 for end in pair), ordered[-1]]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in pairs)


def _merged(name: str, base: bytes, cpus: bytes, memory: bytes) -> bytes:
    """The file of a size, from that of its vCPUs and that of its memory; ``base`` is that of neither."""
    if memory == base:
        return cpus
    if cpus == base:
        return memory
    if name != acpi.TABLES:
        return _patched(name, base, cpus, memory)
    whole = [acpi.tables(each) for each in (base, cpus, memory)]
    if len({tuple(table.name for table in each) for each in whole}) != 1 or len(cpus) != len(memory):
        raise MeasurementError(f"{name}: its tables are not the same for each number of vCPUs and memory size")
    parts = [
        _patched(
            f"{name} {ours.name}",
            *(
                blob[table.start : table.start + table.length]
                for blob, table in ((base, ours), (cpus, a), (memory, b))
            ),
        )
        for ours, a, b in zip(*whole, strict=True)
    ]
    return b"".join(parts).ljust(len(cpus), b"\0")


def _patched(name: str, base: bytes, one: bytes, other: bytes) -> bytes:
    """``base`` with the changes of both; ``MeasurementError`` if they are not in different places."""
    (first, first_end, before), (second, second_end, after) = sorted((_change(base, one), _change(base, other)))
    if first_end <= second:
        return base[:first] + before + base[first_end:second] + after + base[second_end:]
    if not len(base) == len(one) == len(other):
        raise MeasurementError(f"{name}: bytes {second} to {first_end} depend on vCPUs and on memory")
    found = bytearray(one)
    for at, (old, ours, theirs) in enumerate(zip(base, one, other, strict=True)):
        if theirs != old:
            if ours != old:
                raise MeasurementError(f"{name}: byte {at} depends on vCPUs and on memory")
            found[at] = theirs
    return bytes(found)


def _change(base: bytes, new: bytes) -> tuple[int, int, bytes]:
    """Where ``new`` differs from ``base``: the first and the last changed byte of ``base``, and what is there now."""
    shortest = min(len(base), len(new))
    prefix = next((at for at in range(shortest) if base[at] != new[at]), shortest)
    suffix = next((at for at in range(shortest - prefix) if base[-1 - at] != new[-1 - at]), shortest - prefix)
    return prefix, len(base) - suffix, new[prefix : len(new) - suffix]
