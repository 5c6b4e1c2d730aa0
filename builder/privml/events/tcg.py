"""Crypto-agile TCG event logs: the TPM's (``binary_bios_measurements``) and the CC log of a TD (``CCEL``).

Both have one layout: a TCG_PCR_EVENT (SHA-1 form) whose data is the Spec ID event, then TCG_PCR_EVENT2 records.
A TPM log has PCR numbers and one digest for each active bank; a CCEL has MrIndex and usually only SHA-384, and the
table is padded to its length with 0xFF (or zeros, where firmware did not write). Source: TCG PC Client
Platform Firmware Profile 1.06 sections 10.2 and 10.4.5; UEFI 2.10 section 38.4.2. All integers are little-endian.
Firmware for a TPM 1.2 writes TCG_PCR_EVENT records only, each with one SHA-1 digest (TCG EFI Platform 1.22).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.events.types import EV_NO_ACTION, is_known

ALG_SHA1 = 0x0004
ALG_SHA256 = 0x000B
ALG_SHA384 = 0x000C


@dataclass(frozen=True)
class Algorithm:
    """A hash algorithm of a log's bank: its name for people, and hashlib's name for it."""

    name: str
    hashlib: str


ALGORITHMS: Mapping[int, Algorithm] = {
    ALG_SHA384: Algorithm("SHA-384", "sha384"),
    0x000D: Algorithm("SHA-512", "sha512"),
    0x0029: Algorithm("SHA3-512", "sha3_512"),
    0x0028: Algorithm("SHA3-384", "sha3_384"),
    ALG_SHA256: Algorithm("SHA-256", "sha256"),
    0x0027: Algorithm("SHA3-256", "sha3_256"),
    0x0012: Algorithm("SM3-256", "sm3"),
    ALG_SHA1: Algorithm("SHA-1", "sha1"),
}
"""TPM algorithm numbers; the one whose digests are shown when a log has several comes first (a TD's is SHA-384)."""

MAX_LOG = 16 * 1024 * 1024
_SIGNATURE = b"Spec ID Event03\0"
_MAX_ALGORITHMS = 8
_END = 0xFFFFFFFF
_U32 = struct.Struct("<I")
_FIRST = struct.Struct("<II20sI")
_LAST_PCR = 23
_MAX_SHA1_DATA = 64 * 1024


@dataclass(frozen=True)
class LogEntry:
    """One TCG_PCR_EVENT2: ``index`` is a PCR number or an MrIndex, ``digests`` maps TPM algorithm to digest."""

    index: int
    type: int
    digests: Mapping[int, bytes]
    data: bytes

    @property
    def sha384(self) -> bytes:
        """The SHA-384 digest; ``EvidenceError`` when the log was written without that bank."""
        try:
            return self.digests[ALG_SHA384]
        except KeyError:
            raise EvidenceError("event log has no SHA-384 digests: the TPM's SHA-384 bank was not active") from None

    @property
    def bank(self) -> int:
        """The algorithm of the strongest digest."""
        return strongest(self.digests)

    @property
    def digest(self) -> bytes:
        """The strongest digest."""
        return self.digests[self.bank]


def bank_name(algorithm: int) -> str:
    """``SHA-384``, or the number of an algorithm that has no name here."""
    known = ALGORITHMS.get(algorithm)
    return known.name if known is not None else f"algorithm 0x{algorithm:04x}"


def strongest(banks: Iterable[int]) -> int:
    """The first of ``banks`` in the order of `ALGORITHMS`, or the first of unknown ones."""
    given = list(banks)
    return next((algorithm for algorithm in ALGORITHMS if algorithm in given), given[0] if given else ALG_SHA384)


def hashed_with(algorithm: int, data: bytes) -> bytes | None:
    """The digest of ``data``; None for an algorithm that this Python does not have."""
    try:
        return hashlib.new(ALGORITHMS[algorithm].hashlib, data, usedforsecurity=False).digest()
    except (KeyError, ValueError):
        return None


class _Reader:
    def __init__(self, data: bytes, offset: int, what: str) -> None:
        self.data = data
        self.offset = offset
        self.what = what

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise EvidenceError(
                f"{self.what}: cut off at byte {self.offset}: "
                f"{size} bytes expected, {len(self.data) - self.offset} left"
            )
        piece = self.data[self.offset : end]
        self.offset = end
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")


def _spec_id(data: bytes) -> dict[int, int]:
    """Algorithm number -> digest size, as the Spec ID event declares them."""
    reader = _Reader(data, 0, "event log: Spec ID event")
    if reader.take(16) != _SIGNATURE:
        raise EvidenceError("event log: the first event is not a `Spec ID Event03`: not a crypto-agile log")
    reader.take(8)  # platform class, version 2.0 minor/major/errata, size of UINTN: nothing depends on them
    count = reader.u32()
    if not 1 <= count <= _MAX_ALGORITHMS:
        raise EvidenceError(f"event log: {count} digest algorithms declared, expected 1 to {_MAX_ALGORITHMS}")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = reader.u16(), reader.u16()
        if algorithm in sizes or not 1 <= size <= 64:
            raise EvidenceError(f"event log: digest algorithm 0x{algorithm:04x} of {size} bytes is declared wrongly")
        sizes[algorithm] = size
    reader.take(reader.u8())
    if sizes.get(ALG_SHA384, 48) != 48:
        raise EvidenceError(f"event log: SHA-384 digests of {sizes[ALG_SHA384]} bytes declared, expected 48")
    return sizes


def parse_log(log: bytes) -> list[LogEntry]:
    """Decode a log without its initial Spec ID event; it may end with padding of 0xFF or zeros.

    Every event must have exactly one digest for each declared algorithm. ``EvidenceError`` for anything malformed:
    a log is attacker-supplied until a quote confirms its replay.
    """
    if len(log) > MAX_LOG:
        raise EvidenceError(f"event log: {len(log)} bytes, expected at most {MAX_LOG}")
    reader = _Reader(log, 0, "event log")
    _, kind, digest, size = _FIRST.unpack(reader.take(_FIRST.size))
    if kind != EV_NO_ACTION or digest != bytes(20):
        raise EvidenceError(
            "event log: the first event is not EV_NO_ACTION with a zero digest: not a crypto-agile log"
        )
    sizes = _spec_id(reader.take(size))
    entries: list[LogEntry] = []
    while reader.offset < len(log) and not _is_padding(log, reader.offset):
        start = reader.offset
        index, kind, count = reader.u32(), reader.u32(), reader.u32()
        if count != len(sizes):
            raise EvidenceError(f"event log: {count} digests at byte {start}, expected {len(sizes)}")
        digests: dict[int, bytes] = {}
        for _ in range(count):
            algorithm = reader.u16()
            if algorithm not in sizes or algorithm in digests:
                raise EvidenceError(f"event log: unexpected digest algorithm 0x{algorithm:04x} at byte {start}")
            digests[algorithm] = reader.take(sizes[algorithm])
        entries.append(LogEntry(index, kind, digests, reader.take(reader.u32())))
    return entries


def is_sha1_log(head: bytes) -> bool:
    """True when ``head`` begins with a TCG_PCR_EVENT of a TPM 1.2 log: a PCR, a known type, a plausible size."""
    if len(head) < _FIRST.size:
        return False
    index, kind, digest, size = _FIRST.unpack_from(head)
    following = head[_FIRST.size + size :][:8]
    if len(following) == 8 and following not in (bytes(8), b"\xff" * 8):
        pcr, next_kind = struct.unpack("<II", following)
        if pcr > _LAST_PCR or not is_known(next_kind):
            return False
    if index > _LAST_PCR or not is_known(kind) or size > _MAX_SHA1_DATA or _FIRST.size + size > len(head):
        return False
    if kind == EV_NO_ACTION:
        data = head[_FIRST.size : _FIRST.size + size]
        return bool(digest == bytes(20)) and data[:13] == _SIGNATURE[:13] and data[:16] != _SIGNATURE
    return bool(digest != bytes(20))


def parse_sha1_log(log: bytes) -> list[LogEntry]:
    """Decode the log of a TPM 1.2; padding as in ``parse_log``. ``EvidenceError`` for anything malformed."""
    if len(log) > MAX_LOG:
        raise EvidenceError(f"event log: {len(log)} bytes, expected at most {MAX_LOG}")
    reader = _Reader(log, 0, "event log (TPM 1.2)")
    entries: list[LogEntry] = []
    while reader.offset < len(log) and not _is_padding(log, reader.offset):
        start = reader.offset
        index, kind, digest, size = _FIRST.unpack(reader.take(_FIRST.size))
        if index > _LAST_PCR:
            raise EvidenceError(f"event log (TPM 1.2): PCR {index} at byte {start}, expected 0 to {_LAST_PCR}")
        entries.append(LogEntry(index, kind, {ALG_SHA1: digest}, reader.take(size)))
    return entries


def _is_padding(log: bytes, start: int) -> bool:
    """True when only 0xFF, or only zeros, follow; ``EvidenceError`` when 0xFF starts and something else follows."""
    if log[start : start + 4] == b"\xff" * min(4, len(log) - start):
        if log.count(b"\xff", start) != len(log) - start:
            raise EvidenceError(f"event log: the padding that starts at byte {start} is not all 0xFF")
        return True
    # An area that nobody filled: a record of zeros has no digest, so it cannot be one.
    return log[start : start + 12] == bytes(min(12, len(log) - start)) and log.count(0, start) == len(log) - start


def encode_log(entries: Iterable[LogEntry], algorithms: Mapping[int, int] | None = None, *, pad_to: int = 0) -> bytes:
    """Write a log that ``parse_log`` reads back as ``entries``, padded with 0xFF to ``pad_to`` bytes.

    ``algorithms`` maps algorithm number to digest size (SHA-384 only when None). ``EvidenceError`` when an entry's
    digests are not exactly those.
    """
    sizes = dict(algorithms) if algorithms is not None else {ALG_SHA384: 48}
    spec = _SIGNATURE + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(sizes))
    spec += b"".join(struct.pack("<HH", algorithm, size) for algorithm, size in sizes.items()) + b"\0"
    out = [_FIRST.pack(0, EV_NO_ACTION, bytes(20), len(spec)), spec]
    for entry in entries:
        if {algorithm: len(digest) for algorithm, digest in entry.digests.items()} != sizes:
            raise EvidenceError("event log: an entry's digests are not the declared algorithms")
        if entry.index == _END:
            raise EvidenceError("event log: index 0xffffffff marks the end of a log")
        out.append(struct.pack("<III", entry.index, entry.type, len(entry.digests)))
        out.extend(_digest(algorithm, entry.digests[algorithm]) for algorithm in sizes)
        out.extend((_U32.pack(len(entry.data)), entry.data))
    log = b"".join(out)
    return log + b"\xff" * max(0, pad_to - len(log))


def _digest(algorithm: int, digest: bytes) -> bytes:
    return struct.pack("<H", algorithm) + digest
