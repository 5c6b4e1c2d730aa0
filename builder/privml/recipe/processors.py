"""CPU models of QEMU with which SNP guests can be started, and the identity that each has in CPUID.

Every vCPU of an SNP guest starts with its CPUID signature in a register, which is measured. A model with a version,
such as EPYC-Milan-v2, has the same identity. Source: QEMU target/i386/cpu.c, builtin_x86_defs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Identity(NamedTuple):
    """Family, model and stepping of a CPU, the extended parts included."""

    family: int
    model: int
    stepping: int


EPYC: Mapping[str, Identity] = {
    "EPYC": Identity(23, 1, 2),
    "EPYC-Rome": Identity(23, 49, 0),
    "EPYC-Milan": Identity(25, 1, 1),
    "EPYC-Genoa": Identity(25, 17, 0),
    "EPYC-Turin": Identity(26, 0, 0),
}
"""The models by name, the oldest first."""
_VERSION = re.compile(r"-v[1-9][0-9]?$")


def identity_of(model: str) -> Identity | None:
    """The identity of QEMU's CPU model ``model``; None if no SNP guest is predicted with it.

    ``host`` is one of these: the guest would have the identity of whatever processor its host has.
    """
    return EPYC.get(_VERSION.sub("", model))
