"""Wheels that compile C in the running process, and what the build makes beforehand instead.

A guest has no C compiler. Recipe, lock and image read these records; a version is added when `images` has what it
needs, and a test has shown that it works.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from privml.recipe.document import Path
from privml.recipe.python import name_of

if TYPE_CHECKING:
    from privml.recipe.models import Content


@dataclass(frozen=True)
class Compiling:
    """One version of a wheel that compiles C when it runs.

    ``folder`` of the wheel has ``changed``, a file that the build changes to import the modules ``modules`` instead
    of compiling them, and ``source``, which one of them is compiled from. The digests are those of the wheel's two
    files, and of the changed one.
    """

    wheel: str
    version: str
    folder: str
    changed: str
    before: str
    after: str
    source: str
    source_sha256: str
    modules: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path of the changed file in the wheel."""
        return f"{self.folder}/{self.changed}"


TRITON = Compiling(
    wheel="triton",
    version="3.6.0",
    folder="triton/backends/nvidia",
    changed="driver.py",
    before="4ad4b4440aa4a5ee15ac2382ae78a7aa8029986c22ec2acbd072a91810e85e94",
    after="3a36751c8f834ef870e859a353f542740141645dbdd42fd8ba028b600a3fd368",
    source="driver.c",
    source_sha256="439c1e886fa9eac7346d7523d03ba0a4c52aa4c9b518ea86d8659b5c07eb7dc9",
    modules=("cuda_utils", "privml_launcher"),
)
COMPILING: Mapping[str, Mapping[str, Compiling]] = MappingProxyType(
    {TRITON.wheel: MappingProxyType({TRITON.version: TRITON})}
)
"""Every wheel that is known to compile C, with the versions that work without a compiler."""

TOOLCHAIN = ("base-files", "gcc", "libc6-dev", "libpython3-dev")
"""The packages of the guest's release that compile for its Python, with all that they depend on."""


def record_of(wheel: str, version: str) -> Compiling | None:
    """The record of a wheel that compiles C; None for one that does not.

    ``ValueError`` for a version that does not work without a compiler.
    """
    versions = COMPILING.get(wheel)
    if versions is None:
        return None
    if version not in versions:
        raise ValueError(
            f"got {wheel} {version}, expected {' or '.join(versions)}: it compiles C when it runs, and the guest has "
            "no compiler; only for this version are its modules compiled when the image is built"
        )
    return versions[version]


def problems(content: Content) -> Iterator[tuple[Path, str, str]]:
    """Requirements that no version which works without a compiler satisfies: path, rule and text."""
    for number, each in enumerate(content.python.requirements if content.python else ()):
        wanted = Requirement(each)
        versions = COMPILING.get(name_of(each), {})
        if versions and not any(wanted.specifier.contains(version, prereleases=True) for version in versions):
            text = (
                f"got `{each}`, expected {' or '.join(versions)}: it compiles C when it runs, and the guest has no "
                "compiler"
            )
            yield ("python", "requirements", number), "python-compiler", text
