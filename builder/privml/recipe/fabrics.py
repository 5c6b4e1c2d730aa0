"""Boards whose GPUs are linked by switches: what a guest needs besides the driver to use one in protected PCIe mode.

NVIDIA's programs for the switches are not in the driver's runfile. They are archives of their own
(`NAME-linux-x86_64-VERSION-archive.tar.xz`), each for exactly one version of the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from privml.engines.engine import DRIVER_LIBRARIES

_LIBRARIES = DRIVER_LIBRARIES.removeprefix("/")
FOLDER = f"{_LIBRARIES}/nvswitch"
"""The folder of Fabric Manager's configuration and of the board's topology in the guest."""
NAMES = ("manager", "nscq")
"""What recipes call the archives: Fabric Manager, and the library that reads the switches."""


@dataclass(frozen=True)
class Archive:
    """One of the vendor's archives: ``name`` is the only folder in it, which has the version.

    ``files`` are those that the guest gets, by their path in the folder, ``links`` names of links next to a file, by
    the path of the file in the guest. ``licences`` are those of its content.
    """

    name: str
    files: Mapping[str, str]
    licences: tuple[str, ...]
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fabric:
    """A board of ``gpus`` GPUs of one architecture and ``switches`` switches, which a guest has as a whole.

    ``archives`` are the vendor's, by their name in recipes. ``parameters`` are those of the driver's modules for this
    mode (``MODULE.NAME=VALUE``), ``guest`` packages of the release that its programs need, and ``programs`` these.
    ``untried`` says what of it was never done here.
    """

    architecture: str
    gpus: int
    switches: int
    archives: Mapping[str, Archive]
    parameters: tuple[str, ...]
    guest: tuple[str, ...]
    programs: tuple[str, ...]
    untried: str = ""


def hopper_board(version: str) -> Fabric:
    """NVIDIA's HGX board of H100, H200 or H20 GPUs, for one version of the driver.

    Source of the layouts: NixOS (`fabricmanager.nix`, which links the program with libc and zlib only), meta-dstack's
    recipes of both archives, and the files that tinfoilsh/cvmimage takes of 595.71.05. Source of the parameter:
    tinfoilsh/cvmimage and Dstack-TEE. NVIDIA's user guide says that a single board needs no other file.
    """
    licences = ("License For Customer Use of NVIDIA Software",)
    library = f"libnvidia-nscq.so.{version}"
    topology = "dgxh100_hgxh100_topology"
    return Fabric(
        architecture="hopper",
        gpus=8,
        switches=4,
        archives=MappingProxyType(
            {
                "manager": Archive(
                    f"fabricmanager-linux-x86_64-{version}-archive",
                    {
                        "bin/nv-fabricmanager": "usr/bin/nv-fabricmanager",
                        f"share/nvidia/nvswitch/{topology}": f"{FOLDER}/{topology}",
                    },
                    licences,
                ),
                "nscq": Archive(
                    f"libnvidia_nscq-linux-x86_64-{version}-archive",
                    {f"lib/{library}": f"{_LIBRARIES}/{library}"},
                    licences,
                    {f"{_LIBRARIES}/{library}": ("libnvidia-nscq.so.2",)},
                ),
            }
        ),
        parameters=("nvidia.NVreg_RegistryDwords=RmEnableProtectedPcie=0x1",),
        guest=("zlib1g",),
        programs=("nv-fabricmanager",),
        untried="neither its archives nor such a board were at hand, so nothing of it was run; the first `lock` on a "
        "machine that reaches NVIDIA, and the first start on a board, show whether it is right",
    )
