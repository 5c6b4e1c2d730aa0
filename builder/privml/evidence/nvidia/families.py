"""One record for each family of NVIDIA devices that this version can judge.

Everything is from evidence of real devices: the names in their certificates, the number of measurements in their
reports. A family without public evidence to compare with has no record, and its devices are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.evidence.document import GPU, SWITCH


@dataclass(frozen=True)
class Family:
    """A family of devices.

    ``name`` is what statements and policies call it, ``chip`` what its certificates say, ``engine`` the on-chip
    processor that signs, ``identity`` the chip in the name of the authority above, ``measurements`` the number of
    records in a report, ``product`` the name in NVIDIA's reference values. ``board`` is in the ids of those of a
    switch, whose report does not say it (NVIDIA/nvtrust, ``nv_switch_verifier/config.py``).
    """

    name: str
    kind: str
    chip: str
    engine: str
    identity: str
    measurements: int
    product: str
    board: str = ""


HOPPER = Family("hopper", GPU, "GH100", "GSP", "GH100", 64, "GH100")
LS10 = Family("ls10", SWITCH, "LS_10", "FSP", "GH100", 31, "LS10", "5612_0002_890")
FAMILIES = (HOPPER, LS10)
ARCHITECTURES = tuple(family.name for family in FAMILIES if family.kind == GPU)
