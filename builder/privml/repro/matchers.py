"""Matchers on two versions of a file, used by the table of causes.

Each matcher answers one question about a pair of byte strings, mostly whether they are equal apart from one kind of
change. They do not decide whether files differ: digests do that first.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from privml.base.errors import PrivmlError
from privml.lock.deb import members

Matcher = Callable[[bytes, bytes], bool]

_AROUND = 8 << 10
_WINDOW = 1 << 20

_MONTH = rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DAY = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
DATE = (
    rb"\d{4}[-/]\d\d[-/]\d\d(?:[T ]\d\d:?\d\d(?::?\d\d(?:[.,]\d+)?)?)?Z?"
    rb"|(?:" + _DAY + rb",? +)?(?:\d{1,2} " + _MONTH + rb"|" + _MONTH + rb" +\d{1,2}),? *(?:\d{4})?"
    rb"(?: *\d\d:\d\d(?::\d\d)?)?(?: *(?:AM|PM))?(?: *[A-Z]{3,4})?(?: *\d{4})?"
    rb"|\b\d\d:\d\d:\d\d\b|\b1[5-9]\d{8}(?:\d{3})?\b"
)
ZONE = rb"[+-]\d\d:?\d\d\b|\b(?:[A-Z][a-z]+/[A-Z][A-Za-z_]+|[A-Z]{1,3}ST|CET|GMT|UTC|EDT|PDT)\b"
UUID = rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
HEX = rb"\b[0-9a-fA-F]{16,}\b"
PATH = rb"/(?:build|dev/shm|home|mnt|private|root|run|srv|tmp|var/tmp|workspace)(?:/[^\s\0\"'<>:;,)]*)+"
TEMPORARY = rb"\btmp[a-z0-9_]{6,10}\b|\.[A-Za-z0-9]{6,10}\b"
ADDRESS = rb"\b0x[0-9a-fA-F]{6,16}\b"
JOBS = rb"-j ?\d+\b|\b(?:jobs|nproc|cpus|processors|threads|workers)\s*[=:]\s*\d+\b"
LOCALE = rb"\b(?:[a-z]{2,3}_[A-Z]{2}(?:[.@][\w-]+)*|C\.UTF-8|C\.utf8|POSIX|LC_ALL=C)"
BUILDER = rb"[\w.+-]+@[\w.-]+"
GIT = rb"-g[0-9a-f]{7,40}\b|-dirty\b"


@lru_cache(maxsize=1)
def window(a: bytes, b: bytes) -> tuple[bytes, bytes]:
    """The differing middle part of two texts with some context, in whole lines.

    Patterns are matched only there: matching over 32 MiB takes seconds, and equal parts do not name a cause.
    """
    head = _common(a, b)
    tail = min(_common(a[::-1], b[::-1]), min(len(a), len(b)) - head)
    start = max(0, head - _AROUND)
    start = a.rfind(b"\n", max(0, start - _AROUND), start) + 1 or start
    rest = max(0, tail - _AROUND)  # bytes cut from the end
    line = a.find(b"\n", len(a) - rest, len(a) - rest + _AROUND)
    rest = len(a) - line - 1 if line >= 0 else rest
    return a[start : len(a) - rest][:_WINDOW], b[start : len(b) - rest][:_WINDOW]


def _common(a: bytes, b: bytes) -> int:
    """Length of the common prefix."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def without(pattern: bytes) -> Matcher:
    """Equal after removing all matches of ``pattern``, at least one of which differed."""
    compiled = re.compile(pattern)

    def match(a: bytes, b: bytes) -> bool:
        a, b = window(a, b)
        return compiled.sub(b"\0", a) == compiled.sub(b"\0", b) and compiled.findall(a) != compiled.findall(b)

    return match


def head(magic: bytes, start: int, end: int) -> Matcher:
    """Both begin with ``magic`` and differ only between the offsets ``start`` and ``end``."""

    def match(a: bytes, b: bytes) -> bool:
        return a[: len(magic)] == magic == b[: len(magic)] and a[:start] + a[end:] == b[:start] + b[end:]

    return match


def holds(pattern: bytes) -> Matcher:
    """One of them contains ``pattern``."""
    compiled = re.compile(pattern)
    return lambda a, b: bool(compiled.search(a) or compiled.search(b))


def one_empty(a: bytes, b: bytes) -> bool:
    """Exactly one of them is empty or all zeros."""
    return bool(a.strip(b"\0")) != bool(b.strip(b"\0"))


def same_lines(a: bytes, b: bytes) -> bool:
    """The same lines in a different order."""
    a, b = window(a, b)
    lines = a.splitlines()
    return len(lines) > 1 and Counter(lines) == Counter(b.splitlines())


def same_words(a: bytes, b: bytes) -> bool:
    """Text with the same words in a different order, such as a printed set or hash table."""
    if b"\0" in a or b"\0" in b:
        return False
    a, b = window(a, b)
    words = re.findall(rb"[\w.+/-]+", a)
    return len(words) > 1 and Counter(words) == Counter(re.findall(rb"[\w.+/-]+", b))


def same_json(a: bytes, b: bytes) -> bool:
    """The same JSON value in a different order or spelling."""
    if a.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


def same_columns(column: int) -> Matcher:
    """The same ``:`` separated lines except for one column."""

    def match(a: bytes, b: bytes) -> bool:
        def cut(data: bytes) -> list[list[bytes]]:
            rows = [line.split(b":") for line in data.splitlines()]
            return sorted(row[:column] + row[column + 1 :] for row in rows)

        return cut(a) == cut(b)

    return match


def same_accounts(a: bytes, b: bytes) -> bool:
    """The same names with different numbers."""

    def names(data: bytes) -> list[bytes]:
        return sorted(line.split(b":")[0] for line in data.splitlines())

    return names(a) == names(b) and b":" in a


def unpacked(data: bytes) -> bytes | None:
    """The content of a gzip, xz or zlib stream; None for anything else."""
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data)
        if data[:6] == b"\xfd7zXZ\0":
            return lzma.decompress(data)
        if data[:1] == b"\x78":
            return zlib.decompress(data)
    except (OSError, EOFError, lzma.LZMAError, zlib.error):
        return None
    return None


def same_unpacked(a: bytes, b: bytes) -> bool:
    """Two compressed streams of the same bytes. For zstd, which this Python cannot read, any two streams match."""
    if a[:4] == b"\x28\xb5\x2f\xfd" == b[:4]:
        return True
    first = unpacked(a)
    return first is not None and first == unpacked(b)


def listed(data: bytes) -> list[tuple[str, bytes]] | None:
    """(name, content digest) of the members of a zip, tar or ar archive, in order; None for anything else."""
    try:
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return [(item.filename, b"%08x" % item.CRC) for item in archive.infolist()]
        if data[:8] == b"!<arch>\n":
            return [(name, bytes(body)) for name, body in members(data, "archive")]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found = []
            for item in tar:
                body = tar.extractfile(item) if item.isfile() else None
                found.append((item.name, body.read() if body else item.linkname.encode()))
            return found
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, PrivmlError):
        return None


def same_members(a: bytes, b: bytes) -> bool:
    """Archives with the same members in the same order; only headers (times, owners) differ."""
    first = listed(a)
    return bool(first) and first == listed(b)


def reordered_members(a: bytes, b: bytes) -> bool:
    """Archives with the same members in a different order."""
    first, second = listed(a), listed(b)
    return bool(first) and second is not None and first != second and sorted(first or []) == sorted(second)


def pe_stamp(a: bytes, b: bytes) -> bool:
    """PE images that differ only in TimeDateStamp (and checksum)."""

    def cut(data: bytes) -> bytes | None:
        start = int.from_bytes(data[0x3C:0x40], "little")
        if data[:2] != b"MZ" or data[start : start + 4] != b"PE\0\0":
            return None
        return data[: start + 8] + data[start + 12 : start + 88] + data[start + 92 :]

    first = cut(a)
    return first is not None and first == cut(b)


def build_id(a: bytes, b: bytes) -> bool:
    """ELF files that differ only in their GNU build id."""
    note = re.compile(rb"\x14\0\0\0\x03\0\0\0GNU\0.{20}", re.DOTALL)
    return a[:4] == b"\x7fELF" and note.sub(b"", a) == note.sub(b"", b) and note.findall(a) != note.findall(b)


def module_signature(a: bytes, b: bytes) -> bool:
    """Kernel modules that differ only in their appended signature."""
    mark = b"~Module signature appended~\n"
    if not (a.endswith(mark) or b.endswith(mark)):
        return False

    def body(data: bytes) -> bytes:
        if not data.endswith(mark):
            return data
        size = int.from_bytes(data[-len(mark) - 4 : -len(mark)], "big")
        return data[: max(0, len(data) - len(mark) - 12 - size)]

    return body(a) == body(b)


def pyc_header(a: bytes, b: bytes) -> bool:
    """Compiled Python with the same code; only the source's time or size in the header differs."""
    return a[2:4] == b"\r\n" == b[2:4] and a[16:] == b[16:]


def pyc_code(a: bytes, b: bytes) -> bool:
    """Compiled Python whose code has the same length in a different order."""
    return a[2:4] == b"\r\n" == b[2:4] and a[16:] != b[16:]


def key_material(a: bytes, b: bytes) -> bool:
    """Newly generated keys or certificates."""
    a, b = window(a, b)
    return bool(
        re.search(rb"-----BEGIN [A-Z ]*(?:KEY|CERTIFICATE)|^ssh-(?:rsa|ed25519) ", a + b"\n" + b, re.MULTILINE)
    )
