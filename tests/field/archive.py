"""The archive that is sent: made in one form, read strictly. Nothing is unpacked by anyone's names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.field import record
from tests.field.record import PAGE, RECORD, Report

from privml.base.errors import EvidenceError
from privml.base.files import read_start
from privml.evidence import ustar

MAX_SIZE = 64 << 20
WHAT = "field test"


@dataclass(frozen=True)
class Received:
    """A read archive: its record, and its files without record and page."""

    report: Report
    files: Mapping[str, bytes]
    sha256: str


def listed(report: Report, files: Mapping[str, bytes]) -> Report:
    """The record that names every file by its digest."""
    rows = {name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(files.items())}
    return replace(report, files=rows)


def encode(report: Report, page: str, files: Mapping[str, bytes]) -> bytes:
    """The archive. ``report`` lists ``files`` (``listed``)."""
    return ustar.encode([(RECORD, report.encode()), (PAGE, page.encode()), *sorted(files.items())])


def read(path: Path) -> Received:
    """Read an archive; ``EvidenceError`` unless it is whole, in its one form, and has only files known by name."""
    data = read_start(path, MAX_SIZE)
    if len(data) > MAX_SIZE:
        raise EvidenceError(f"{WHAT}: more than {MAX_SIZE >> 20} MiB")
    found = ustar.members(data, WHAT)
    for name in found:
        if name not in record.FILES:
            raise EvidenceError(f"{WHAT}: `{name[:80]}` is not one of its files")
    if RECORD not in found or PAGE not in found:
        raise EvidenceError(f"{WHAT}: {RECORD} or {PAGE} is missing")
    report, page = record.decode(found.pop(RECORD)), found.pop(PAGE)
    if listed(report, found) != report:
        raise EvidenceError(f"{WHAT}: its files are not those that {RECORD} lists")
    if ustar.encode([(RECORD, report.encode()), (PAGE, page), *sorted(found.items())]) != data:
        raise EvidenceError(f"{WHAT}: not the canonical archive (order, headers or padding differ)")
    return Received(report, found, hashlib.sha256(data).hexdigest())
