"""Read a Linux kernel module: an ELF relocatable file of x86-64 with a table of facts in `.modinfo`.

Only what the checks of a built driver need. Every offset is checked against the file before it is used, and counts
are bounded by the file's size, so that a malformed file is a `BuildError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from privml.base.errors import BuildError

_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_RELOCATABLE, _X86_64 = 1, 62
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB, _NOBITS = 2, 8
_UNDEFINED = 0
_WEAK = 2
_EXPORT = "__ksymtab_"
_TEXT_LIMIT = 1 << 20


@dataclass(frozen=True)
class KernelModule:
    """``facts`` are the lines of `.modinfo` by key; ``needed`` are the symbols that another module or the kernel must
    export, ``exports`` those that this module exports; ``sections`` are the names of its sections.
    """

    facts: dict[str, tuple[str, ...]]
    needed: frozenset[str]
    exports: frozenset[str]
    sections: tuple[str, ...]

    def fact(self, key: str) -> str:
        """The only value of ``key``; empty if there is none or several."""
        values = self.facts.get(key, ())
        return values[0] if len(values) == 1 else ""


@dataclass(frozen=True)
class _Section:
    name: int
    kind: int
    offset: int
    size: int
    link: int
    entry: int


def parse(data: bytes, what: str) -> KernelModule:
    """Read a module; ``BuildError`` if it is anything else, or cut short."""
    file = _File(data, what)
    sections = file.sections()
    names = tuple(file.text(file.strings, section.name) for section in sections)
    tables = [section for section in sections if section.kind == _SYMTAB]
    if len(tables) != 1:
        raise file.wrong(f"{len(tables)} symbol tables, expected one")
    if names.count(".modinfo") != 1:
        raise file.wrong("no section .modinfo")
    facts: dict[str, list[str]] = {}
    for line in file.body(sections[names.index(".modinfo")]).split(b"\0"):
        key, equals, value = line.partition(b"=")
        if equals:
            facts.setdefault(key.decode("utf-8", "replace"), []).append(value.decode("utf-8", "replace"))
    needed, exports = set(), set()
    for name, binding, section in file.symbols(tables[0], sections):
        if name.startswith(_EXPORT):
            exports.add(name.removeprefix(_EXPORT))
        elif name and section == _UNDEFINED and binding != _WEAK:
            needed.add(name)
    return KernelModule(
        {key: tuple(values) for key, values in facts.items()}, frozenset(needed), frozenset(exports), names
    )


class _File:
    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        if len(data) < _HEADER.size or not data.startswith(_IDENT):
            raise self.wrong("no ELF header of a 64-bit little-endian file")
        _, kind, machine, _, _, _, at, _, size, _, _, each, count, names = _HEADER.unpack_from(data)
        if (kind, machine) != (_RELOCATABLE, _X86_64) or size != _HEADER.size:
            raise self.wrong(f"type {kind} for machine {machine}, expected a relocatable file for x86-64")
        if each != _SECTION.size or not count > 0 or at + count * each > len(data) or names >= count:
            raise self.wrong("its table of sections is outside the file")
        self._table = at
        self._count = count
        self.strings = self.body(self._section(names))

    def wrong(self, text: str) -> BuildError:
        return BuildError(f"{self._what} is not a kernel module: {text}")

    def sections(self) -> list[_Section]:
        return [self._section(number) for number in range(self._count)]

    def _section(self, number: int) -> _Section:
        row = _SECTION.unpack_from(self._data, self._table + number * _SECTION.size)
        return _Section(row[0], row[1], row[4], row[5], row[6], row[9])

    def body(self, section: _Section) -> bytes:
        end = section.offset + section.size
        if section.kind == _NOBITS or end > len(self._data):
            raise self.wrong("a section is outside the file")
        return self._data[section.offset : end]

    def text(self, table: bytes, at: int) -> str:
        end = table.find(b"\0", at, at + _TEXT_LIMIT)
        if at >= len(table) or end < 0:
            raise self.wrong("a name is outside its table")
        return table[at:end].decode("utf-8", "replace")

    def symbols(self, table: _Section, sections: list[_Section]) -> Iterator[tuple[str, int, int]]:
        """Name, binding and section number of each symbol."""
        if table.entry != _SYMBOL.size or table.size % _SYMBOL.size or table.link >= len(sections):
            raise self.wrong("its symbol table is malformed")
        names = self.body(sections[table.link])
        for name, info, _, section, _, _ in _SYMBOL.iter_unpack(self.body(table)):
            yield self.text(names, name), info >> 4, section


def exported(symvers: bytes, what: str) -> frozenset[str]:
    """The symbols of a kernel's Module.symvers; ``BuildError`` if a line is not one of such a file."""
    found = set()
    for line in symvers.decode("ascii", "replace").splitlines():
        fields = line.split("\t")
        if len(fields) < 4 or not fields[0].startswith("0x"):
            raise BuildError(f"{what}: got the line `{line[:80]}`, expected a symbol with its checksum and module")
        found.add(fields[1])
    return frozenset(found)
