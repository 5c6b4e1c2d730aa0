"""The results of checking devices: facts of each, revocation, reference values. `verify.nvidia` judges them.

`evidence.nvidia.signature` creates them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.evidence.claims import SignatureFacts, SignatureFailure
from privml.evidence.nvidia.families import Family


@dataclass(frozen=True, kw_only=True)
class DeviceFacts(SignatureFacts):
    """A report with a valid signature and chain.

    ``pdi`` (8 bytes) is the device's own id, from its boot ROM's certificate; ``fwid`` (48 bytes) the digest of the
    firmware that the signing key was made for.
    """

    family: Family
    pdi: bytes
    fwid: bytes


@dataclass(frozen=True)
class Unanswered:
    """A certificate without a usable revocation answer: why not, and what was expected."""

    certificate: str
    found: str
    expected: str


@dataclass(frozen=True)
class Revocation:
    """Revocation of all certificates below the roots that have an authority to ask.

    ``answered`` is their number, ``oldest`` the time (Unix seconds) of the oldest answer. ``revoked`` and
    ``unanswered`` name the others.
    """

    answered: int = 0
    oldest: int | None = None
    revoked: tuple[str, ...] = ()
    unanswered: tuple[Unanswered, ...] = ()


@dataclass(frozen=True)
class Rim:
    """Verified reference values: what NVIDIA says that a firmware measures.

    ``product`` is the chip, ``version`` that of the driver or VBIOS. ``measurements`` has the accepted digests (48
    bytes each) of each active index. ``sha256`` (hex) is of the file, ``root_sha256`` (hex) of its signer's root.
    """

    product: str
    version: str
    measurements: Mapping[int, tuple[bytes, ...]]
    sha256: str
    root_sha256: str


@dataclass(frozen=True)
class CheckedDevices:
    """The result for all devices of a document, in its order.

    ``rim_failures`` are reference values that could not be verified; ``unread`` names answers that no certificate
    needed or that could not be read.
    """

    devices: tuple[DeviceFacts | SignatureFailure, ...] = ()
    revocation: Revocation = Revocation()
    rims: tuple[Rim, ...] = ()
    rim_failures: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()


NO_DEVICES = CheckedDevices()
"""The result for a document without devices."""


def mismatches(rims: Sequence[Rim], measurements: Sequence[bytes], skip: frozenset[int] = frozenset()) -> list[int]:
    """The indices at which ``measurements`` differ from these reference values together.

    ``EvidenceError`` if two of them have values for the same index.
    """
    expected: dict[int, tuple[bytes, ...]] = {}
    for rim in rims:
        twice = expected.keys() & rim.measurements.keys()
        if twice:
            raise EvidenceError(f"two reference values for measurement {min(twice)}")
        expected.update(rim.measurements)
    return [
        index
        for index, accepted in sorted(expected.items())
        if index not in skip and (index >= len(measurements) or measurements[index] not in accepted)
    ]
