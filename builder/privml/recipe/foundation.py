"""Fields of a recipe: what a guest stands on, which are its distribution, its kernel and its firmware."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, WithJsonSchema, field_validator

from privml.recipe import distributions, tees
from privml.recipe.distributions import DISTRIBUTIONS, TOOLS
from privml.recipe.section import ALL, FIRMWARE, ROOT, PackageName, Section, about, given, one_of

_KERNEL = TOOLS.distribution.kernel.image
_KERNELS = f"^(?:{'|'.join(each.kernel.image for each in DISTRIBUTIONS.values())})[a-z0-9+.-]+$"


def _distribution(value: str) -> str:
    return one_of(value, list(DISTRIBUTIONS))


class Base(Section):
    """The distribution of the guest."""

    distribution: Annotated[
        str,
        AfterValidator(_distribution),
        about("The distribution.", TOOLS.distribution.name, ALL),
        WithJsonSchema({"type": "string", "enum": list(DISTRIBUTIONS)}),
    ]
    release: Annotated[
        str,
        about("The release, by its code name.", TOOLS.release.codename, ALL),
        WithJsonSchema(
            {"type": "string", "enum": sorted({name for each in DISTRIBUTIONS.values() for name in each.releases})}
        ),
    ]

    @field_validator("release")
    @classmethod
    def _of_the_distribution(cls, value: str, info: ValidationInfo) -> str:
        known = DISTRIBUTIONS.get(info.data.get("distribution", ""))
        return value if known is None else one_of(value, list(known.releases))

    @property
    def record(self) -> distributions.Base:
        """The records of distribution and release."""
        return distributions.base(self.distribution, self.release)


Suite = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9./-]*$", max_length=64),
    WithJsonSchema(
        {"type": "string", "enum": sorted({name for each in DISTRIBUTIONS.values() for name in each.suites})}
    ),
]
_LEFT_OUT = given("a suite; leave it out for the release's own")


class Kernel(Section):
    """The guest's kernel."""

    package: Annotated[
        PackageName,
        about(
            "The kernel's package; a metapackage is followed when the lock is made.", f"{_KERNEL}cloud-amd64", ROOT
        ),
        WithJsonSchema({"type": "string", "maxLength": 100, "pattern": _KERNELS}),
    ]
    suite: Annotated[
        Suite | None,
        _LEFT_OUT,
        about("The suite of the kernel, if not the release's own; other packages are not affected.", "sid", ROOT),
    ] = None
    modules: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]],
        about("Further kernel modules that the guest loads before it closes module loading.", "[tcp_bbr]", ROOT),
        Field(max_length=32),
    ] = Field(default_factory=list)
    options: Annotated[
        list[
            Annotated[
                str, StringConstraints(pattern=r"^[a-z0-9_-][a-z0-9_.-]*(=[A-Za-z0-9_.,:@/+-]*)?$", max_length=100)
            ]
        ],
        about("Further words of the measured kernel command line.", "[transparent_hugepage=never]", ROOT),
        Field(max_length=32),
    ] = Field(default_factory=list)


class FirmwareOf(Section):
    """The firmware that starts a guest of one TEE."""

    package: Annotated[
        PackageName,
        about(
            "The firmware's package; production requires one made for the TEE, because others trust the VMM.",
            next(TOOLS.distribution.firmwares(tees.BUILT[0], production=True)).package,
            FIRMWARE,
        ),
    ]
    suite: Annotated[
        Suite | None,
        _LEFT_OUT,
        about("The suite of the firmware, if not the release's own.", "sid", FIRMWARE),
    ] = None
