"""The vendor's archives for switches, made by tests: the real layout in small."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping

from tests.unit.runfile_file import RECORD, VERSION
from tests.unit.test_lock_deb import Entry, file, folder, link, tar

from privml.recipe.fabrics import Fabric

assert RECORD.fabric is not None
BOARD: Fabric = RECORD.fabric
_PROGRAMS = ("bin/nv-fabricmanager", "bin/nvidia-fabricmanager-start.sh", "bin/nvswitch-audit", "bin/nscq-cli")
_FILES = {
    "manager": (
        *_PROGRAMS[:3],
        "LICENSE",
        "etc/fabricmanager.cfg",
        "etc/fabricmanager_multinode.cfg",
        "include/nv_fm_agent.h",
        "include/nv_fm_types.h",
        "lib/libnvfm.so.1",
        "sbin/fm_run_package_installer.sh",
        "share/nvidia/nvswitch/dgx2_hgx2_topology",
        "share/nvidia/nvswitch/dgxa100_hgxa100_topology",
        "share/nvidia/nvswitch/dgxh100_hgxh100_topology",
        "share/nvidia/nvswitch/dgxh800_hgxh800_topology",
        "systemd/nvidia-fabricmanager.service",
        "third-party-notices.txt",
    ),
    "nscq": ("LICENSE", "bin/nscq-cli", f"lib/libnvidia-nscq.so.{VERSION}"),
}
_LINKS = {
    "manager": {"lib/libnvfm.so": "libnvfm.so.1"},
    "nscq": {
        "lib/libnvidia-nscq.so": "libnvidia-nscq.so.2",
        "lib/libnvidia-nscq.so.2": "libnvidia-nscq.so.2.0",
        "lib/libnvidia-nscq.so.2.0": f"libnvidia-nscq.so.{VERSION}",
    },
}


def entries(name: str, top: str | None = None, changes: Mapping[str, bytes | None] | None = None) -> list[Entry]:
    """The entries of an archive, with other content for some files; None leaves a file out."""
    place = BOARD.archives[name].name if top is None else top
    content: dict[str, bytes | None] = {each: f"content of {each}".encode() for each in _FILES[name]}
    content |= changes or {}
    made = [folder(place), folder(f"{place}/lib")]
    for each, data in content.items():
        if data is not None:
            made.append(file(f"{place}/{each}", data, 0o755 if each in _PROGRAMS else 0o644))
    return [*made, *(link(f"{place}/{each}", target) for each, target in _LINKS[name].items())]


def packed(rows: Iterable[Entry]) -> bytes:
    """An archive of these entries."""
    return lzma.compress(tar(rows, ""), preset=0)


def made(name: str, top: str | None = None, changes: Mapping[str, bytes | None] | None = None) -> bytes:
    """One of the archives (``manager`` or ``nscq``)."""
    return packed(entries(name, top, changes))
