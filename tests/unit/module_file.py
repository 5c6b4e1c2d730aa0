"""Kernel modules made in tests: small ELF files with a symbol table and `.modinfo`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

EXPORT = "__ksymtab_"


def made(
    facts: Iterable[tuple[str, str]] = (("version", "550.163.01"), ("vermagic", "7.3.4+deb13-amd64 SMP preempt")),
    needed: Iterable[str] = (),
    exports: Iterable[str] = (),
    weak: Iterable[str] = (),
    sections: Iterable[str] = (),
) -> bytes:
    """A module that needs and exports these symbols, and has further empty sections."""
    symbols = [
        *((name, 1, 0) for name in needed),
        *((name, 2, 0) for name in weak),
        *((EXPORT + name, 0, 1) for name in exports),
    ]
    strings, table = b"\0", struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    for name, binding, section in symbols:
        table += struct.pack("<IBBHQQ", len(strings), binding << 4, 0, section, 0, 0)
        strings += name.encode() + b"\0"
    modinfo = b"".join(f"{key}={value}".encode() + b"\0" for key, value in facts)
    bodies: Mapping[str, tuple[int, bytes, int, int]] = {
        ".modinfo": (1, modinfo, 0, 0),
        ".symtab": (2, table, 3, 24),
        ".strtab": (3, strings, 0, 0),
        **dict.fromkeys(sections, (1, b"", 0, 0)),
    }
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*bodies, ".shstrtab"))
    rows, data, at = [bytes(64)], b"", 64
    for name, (kind, body, link, entry) in (*bodies.items(), (".shstrtab", (3, names, 0, 0))):
        where = names.index(b"\0" + name.encode() + b"\0") + 1
        rows.append(struct.pack("<IIQQQQIIQQ", where, kind, 0, 0, at + len(data), len(body), link, 0, 1, entry))
        data += body
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, at + len(data), 0, 64, 0, 0, 64, len(rows),
        len(rows) - 1,
    )  # fmt: skip
    return header + data + b"".join(rows)
