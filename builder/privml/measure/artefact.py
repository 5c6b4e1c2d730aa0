"""Identify third-party artefacts by their content: firmware, PE, kernel, UKI, disk, fw_cfg blobs.

Each is described with what it measures to by itself. What depends on a machine is named in a note, never guessed.
The module of a kind is loaded when such a file is met: loading all of them costs more than measuring a firmware.
"""

from __future__ import annotations

from privml.measure import gpt, guidtable
from privml.measure.description import Description
from privml.measure.digest import Bytes

_MAX_VARIABLES = 1 << 22
_MAX_IN_MEMORY = 1 << 30  # a disk image may be bigger: it is read in pieces


def identify(data: Bytes) -> Description | None:
    """Identify ``data``; None for an unknown format, ``MeasurementError`` for a known but malformed one."""
    found = identify_by_magic(data)
    if found is not None or len(data) > _MAX_IN_MEMORY:
        return found
    from privml.measure import blobs

    return blobs.describe(data[:])


def identify_by_magic(data: Bytes) -> Description | None:
    """As ``identify``, for formats with bytes at a fixed place: disks, PE images, firmware and its variables."""
    if gpt.is_disk(data):
        from privml.measure import diskfile

        return diskfile.describe(data)
    if len(data) > _MAX_IN_MEMORY:
        return None
    if data[:2] == b"MZ":
        from privml.measure import images

        return images.describe(data[:])
    if data[-48:-32] == guidtable.FOOTER:
        from privml.measure import firmwarefile

        return firmwarefile.describe(data[:])
    if data[40:44] == b"_FVH" and len(data) <= _MAX_VARIABLES:
        from privml.measure import firmwarefile

        return firmwarefile.describe_variables(data[:])
    return None
