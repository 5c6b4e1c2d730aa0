"""The form of Google's launch endorsements, read byte for byte; `evidence.gce` checks their signatures.

A ``VMLaunchEndorsement`` holds a ``VMGoldenMeasurement`` as bytes, and a signature over exactly these bytes.
Source: google/gce-tcb-verifier, proto/endorsement.proto.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.evidence.protobuf import BYTES, VARINT, Message

MAX_SIZE = 64 << 10
MAX_BUNDLE = 16 << 10
"""Bytes of the certificates in ``ca_bundle``."""
_MAX_CERTIFICATE = 8 << 10
_MAX_SIGNATURE = 1024
_DIGEST = (48, 48)
GIB = 1 << 30


@dataclass(frozen=True)
class EndorsedMrtd:
    """One value: of machines with ``ram_gib`` of memory, or of all (0), and of those whose firmware accepts all of it
    (``early_accept``)."""

    ram_gib: int
    early_accept: bool
    mrtd: bytes

    def fits(self, memory: int) -> bool:
        """True if it is for machines with that many bytes of memory."""
        return self.ram_gib in (0, memory // GIB)

    def __str__(self) -> str:
        machines = f"{self.ram_gib} GiB" if self.ram_gib else "any memory"
        return f"{self.mrtd.hex()}, {machines}{', all memory accepted early' if self.early_accept else ''}"


def is_endorsement(head: bytes, size: int) -> bool:
    """True if a file of ``size`` bytes that begins with ``head`` has the outer form of an endorsement.

    That is a field 1 of 128 bytes or more, which begins with a timestamp and leaves room for a signature only.
    """
    if head[:1] != b"\x0a" or size > MAX_SIZE or head[1:2] < b"\x80":
        return False
    inner = 0
    for place, byte in enumerate(head[1:4]):
        inner |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            at = 2 + place
            return head[at : at + 1] == b"\x0a" and 0 < size - at - inner <= _MAX_SIGNATURE + 8
    return False


@dataclass(frozen=True)
class Unverified:
    """The parts of an endorsement whose signature is not checked yet. ``signed`` are the bytes that it covers."""

    signed: bytes
    signature: bytes
    certificate: bytes
    bundle: bytes
    firmware_sha384: bytes
    svn: int
    values: tuple[EndorsedMrtd, ...]
    signed_at: int
    changelist: int


def parse(data: bytes) -> Unverified:
    """Read every byte of an endorsement; ``EvidenceError`` for any other encoding than a serialiser's."""
    if len(data) > MAX_SIZE:
        raise EvidenceError(f"endorsement-encoding: {len(data)} bytes, expected at most {MAX_SIZE}")
    outer = _message(data, "VMLaunchEndorsement", {1: BYTES, 2: BYTES})
    signed, signature = outer.data(1, sizes=(1, MAX_SIZE)), outer.data(2, sizes=(1, _MAX_SIGNATURE))
    kinds = {1: BYTES, 2: VARINT, 3: BYTES, 4: BYTES, 5: BYTES, 6: BYTES, 7: BYTES, 8: BYTES}
    golden = _message(signed, "VMGoldenMeasurement", kinds)
    time = _message(golden.data(1, sizes=(0, 32)), "timestamp", {1: VARINT, 2: VARINT})
    time.number(2, bits=30)
    golden.data(3, sizes=(0, 64))
    if golden.has(7):
        _snp(golden.data(7, sizes=(1, MAX_SIZE)))
    if not golden.has(8):
        raise EvidenceError("endorsement-tdx: it has no values for TDX, expected VMTdx")
    tdx = _message(golden.data(8, sizes=(1, MAX_SIZE)), "VMTdx", {1: VARINT, 2: BYTES}, frozenset({2}))
    return Unverified(
        signed=signed,
        signature=signature,
        certificate=golden.data(4, sizes=(1, _MAX_CERTIFICATE)),
        bundle=golden.data(6, sizes=(1, MAX_BUNDLE)),
        firmware_sha384=golden.data(5, sizes=_DIGEST),
        svn=tdx.number(1, bits=32),
        values=_values(tdx.each(2, sizes=(1, 128))),
        signed_at=time.number(1, bits=34),
        changelist=golden.number(2, bits=64),
    )


def _message(
    data: bytes, name: str, known: dict[int, int], repeated: frozenset[int] = frozenset(), *, zeros: bool = False
) -> Message:
    return Message(data, f"endorsement-encoding: {name}", known, repeated, zeros=zeros)


def _values(rows: tuple[bytes, ...]) -> tuple[EndorsedMrtd, ...]:
    found: list[EndorsedMrtd] = []
    for row in rows:
        part = _message(row, "VMTdx.Measurement", {1: VARINT, 2: VARINT, 3: BYTES})
        found.append(EndorsedMrtd(part.number(1, bits=32), part.flag(2), part.data(3, sizes=_DIGEST)))
    if not found:
        raise EvidenceError("endorsement-tdx: no value of MRTD, expected at least one")
    return tuple(found)


def _snp(data: bytes) -> None:
    """Read the part for SEV-SNP, none of which is used: every byte must have a meaning."""
    kinds = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES}
    part = _message(data, "VMSevSnp", kinds, frozenset({2}))
    part.number(1, bits=32)
    part.number(5, bits=64)
    for field in (3, 4):
        part.data(field, sizes=(16, 16) if part.has(field) else (0, 0))
    part.data(6, sizes=(0, MAX_BUNDLE))
    counts = []
    for row in part.each(2, sizes=(1, 128)):
        # Serialisers write both fields of a map's entry, also when they are zero.
        entry = _message(row, "VMSevSnp.measurements", {1: VARINT, 2: BYTES}, zeros=True)
        counts.append(entry.number(1, bits=32))
        entry.data(2, sizes=_DIGEST)
    if len(set(counts)) != len(counts):
        raise EvidenceError("endorsement-encoding: VMSevSnp.measurements: the same number of vCPUs twice")
