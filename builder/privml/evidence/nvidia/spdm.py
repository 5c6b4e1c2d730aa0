"""SPDM 1.1 GET_MEASUREMENTS: the request and the signed response of an NVIDIA device.

A report is the request (37 bytes) followed by the response; the signature covers both, without itself. Every byte has
a place: the fixed fields must have the values that a report over all measurements has. Source: DMTF DSP0274 1.1,
compared with reports of real GPUs and switches.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.errors import EvidenceError

MAX_REPORT = 16 * 1024
"""Bytes of a report. Real ones have 2 to 5 KiB; the driver's interface allows 8 KiB."""

NONCE_SIZE = 32
DIGEST_SIZE = 48
SIGNATURE_SIZE = 96
MAX_MEASUREMENTS = 127

REQUEST = bytes([0x11, 0xE0, 0x01, 0xFF])
"""Version 1.1, GET_MEASUREMENTS, a signature is requested, all measurements."""
SLOT = b"\0"
RESPONSE = bytes([0x11, 0x60, 0x00, 0x00])
"""Version 1.1, MEASUREMENTS, no count (all were requested), slot 0."""
_DMTF = 1
_DIGEST = 1
_RECORD = 3 + DIGEST_SIZE


@dataclass(frozen=True)
class Report:
    """A report: the requester's nonce, the measurements (48 bytes each), the device's nonce, the opaque data.

    ``measurements[n]`` is the record with index n + 1. ``signed`` is what ``signature`` (r || s, 96 bytes) covers.
    """

    nonce: bytes
    measurements: tuple[bytes, ...]
    device_nonce: bytes
    opaque: bytes
    signed: bytes
    signature: bytes


class _Reader:
    """Takes the bytes of a report in order."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) != size:
            raise EvidenceError(f"GPU report: it ends in {what} at byte {len(self.data)}")
        self.at += size
        return found

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def exactly(self, wanted: bytes, what: str) -> None:
        at = self.at
        found = self.take(len(wanted), what)
        if found != wanted:
            raise EvidenceError(f"GPU report: {what} is {found.hex()} at byte {at}, expected {wanted.hex()}")


def parse(data: bytes) -> Report:
    """Read a report; ``EvidenceError`` unless every byte is as expected."""
    if len(data) > MAX_REPORT:
        raise EvidenceError(f"GPU report: {len(data)} bytes, expected at most {MAX_REPORT}")
    reader = _Reader(data)
    reader.exactly(REQUEST, "request header")
    nonce = reader.take(NONCE_SIZE, "nonce")
    reader.exactly(SLOT, "slot")
    reader.exactly(RESPONSE, "response header")
    count = reader.number(1, "number of measurements")
    if not 1 <= count <= MAX_MEASUREMENTS:
        raise EvidenceError(f"GPU report: {count} measurements, expected 1 to {MAX_MEASUREMENTS}")
    size = reader.number(3, "length of the measurements")
    if size != count * (4 + _RECORD):
        raise EvidenceError(f"GPU report: {size} bytes of measurements, expected {count * (4 + _RECORD)}")
    measurements = []
    for index in range(1, count + 1):
        reader.exactly(
            bytes([index, _DMTF])
            + _RECORD.to_bytes(2, "little")
            + bytes([_DIGEST])
            + DIGEST_SIZE.to_bytes(2, "little"),
            f"header of measurement {index}",
        )
        measurements.append(reader.take(DIGEST_SIZE, f"measurement {index}"))
    device_nonce = reader.take(NONCE_SIZE, "device nonce")
    opaque = reader.take(reader.number(2, "length of the opaque data"), "opaque data")
    signed = data[: reader.at]
    signature = reader.take(SIGNATURE_SIZE, "signature")
    if reader.at != len(data):
        raise EvidenceError(f"GPU report: {len(data) - reader.at} bytes after the signature, expected none")
    return Report(nonce, tuple(measurements), device_nonce, opaque, signed, signature)


def encode(report: Report) -> bytes:
    """The bytes before the signature, from the fields other than ``signed`` and ``signature``."""
    records = b"".join(
        bytes([index, _DMTF])
        + _RECORD.to_bytes(2, "little")
        + bytes([_DIGEST])
        + DIGEST_SIZE.to_bytes(2, "little")
        + value
        for index, value in enumerate(report.measurements, start=1)
    )
    return b"".join(
        (
            REQUEST,
            report.nonce,
            SLOT,
            RESPONSE,
            len(report.measurements).to_bytes(1),
            len(records).to_bytes(3, "little"),
            records,
            report.device_nonce,
            len(report.opaque).to_bytes(2, "little"),
            report.opaque,
        )
    )
