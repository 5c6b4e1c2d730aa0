"""Platforms of Google Compute Engine: machines of a cloud, whose firmware and tables are the cloud's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from privml.base.sizes import size_text
from privml.recipe.hardware import Shape
from privml.recipe.platform import LearntTables
from privml.recipe.section import FIRMWARE, MACHINE, Section, Slug, about

KIND = "gce"
Sha384 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
Time = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class GceVmm(Section):
    """The virtual machine monitor, which nobody else has."""

    kind: Annotated[Literal["gce"], about("The kind of virtual machine monitor.", KIND, MACHINE)]


class GceFirmware(Section):
    """The firmware that Google endorsed; the endorsement is in the object that ``tables`` names."""

    sha384: Annotated[Sha384, about("The SHA-384 of the firmware, as endorsed.", "0" * 96, FIRMWARE)]
    svn: Annotated[int, about("Its security version on TDX.", 2, ge=0, le=0xFFFFFFFF)]
    endorsed_until: Annotated[
        Time, about("Until when the endorsement's certificate is valid.", "2034-01-01T00:00:00Z")
    ]


class GceRegisters(Section):
    """How the registers that depend on the platform are determined."""

    mrtd: Annotated[Literal["endorsement"], about("By Google's signed endorsement.", "endorsement")]
    rtmr0: Annotated[Literal["captures"], about("By captures of machines.", "captures")]


class GcePlatformFile(Section):
    """A file of ``recipes/platforms`` that `platform learn` wrote from captures (ADR 0087)."""

    schema_: Annotated[Literal[2], Field(alias="schema"), about("The version of this format.", 2)]
    name: Annotated[Slug, about("The file's name without .yaml.", "gce-c3")]
    description: Annotated[
        str,
        StringConstraints(min_length=1, max_length=400),
        about("A one-line description of the platform.", "Two machines of Google Compute Engine."),
    ]
    tee: Annotated[Literal["tdx"], about("The TEE of its guests.", "tdx", MACHINE)]
    vmm: Annotated[GceVmm, about("The virtual machine monitor.", moves=MACHINE)]
    firmware: Annotated[GceFirmware, about("The firmware that starts the guest.", moves=FIRMWARE)]
    registers: Annotated[GceRegisters, about("How platform-dependent registers are determined.")]
    sizes: Annotated[
        list[Shape],
        about(
            "The sizes of the captured machines; no other size is predicted.", "{vcpus: 4, memory: 16GiB}", MACHINE
        ),
        Field(min_length=1, max_length=64),
    ]
    tables: Annotated[LearntTables, about("The endorsement and the captured machines.", moves=MACHINE)]

    def lacks(self, vcpus: int, memory: int) -> str:
        """Why nothing is predicted for a size; empty if a machine of this size was captured."""
        known = [(one.vcpus, one.memory) for one in self.sizes]
        if (vcpus, memory) in known:
            return ""
        asked, *sizes = (f"{count} vCPU / {size_text(size)}" for count, size in ((vcpus, memory), *known))
        return f"{asked}: no machine of this size was captured for `{self.name}`, only {', '.join(sizes)}"
