"""A disk that firmware boots a UKI from: one EFI system partition with the removable-media path, and files beside it.

The disk is made for the boot at hand; firmware measures its partition table into RTMR1, so its GUIDs are fixed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from privml.base.errors import HostError
from privml.image.tools import Bind, ToolsTree

LOADER = "EFI/BOOT/BOOTX64.EFI"
ADDONS = f"{LOADER}.extra.d"
_SEED = "3c9c2b1e-6f0d-4f4e-9d0b-6a1c2f1f8a55"
_EPOCH = "1"
_SLACK = 16 << 20  # FAT structures, and room so that mkfs.fat chooses one FAT width for all UKIs
_PARTITION = """[Partition]
Type=esp
Format=vfat
CopyFiles=/:/
SizeMinBytes={size}
SizeMaxBytes={size}
"""


def make(tools: ToolsTree, uki: Path, target: Path, more: Mapping[str, bytes] | None = None) -> Path:
    """Write the disk ``target`` (raw, GPT) that boots ``uki``; ``more`` maps paths on it to their bytes."""
    with tempfile.TemporaryDirectory(prefix="privml-disk.") as name:
        work = Path(name)
        files = {LOADER: uki.read_bytes(), **(more or {})}
        for path, body in files.items():
            place = work / "tree" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(body)
        size = -(-(sum(map(len, files.values())) + _SLACK) // _SLACK) * _SLACK
        (work / "repart").mkdir()
        (work / "repart/10-esp.conf").write_text(_PARTITION.format(size=size))
        target.unlink(missing_ok=True)
        tools.run(
            [
                "systemd-repart", "--empty=create", "--size=auto", "--dry-run=no", "--no-pager", "--offline=yes",
                f"--seed={_SEED}", "--root=/work/tree", "--definitions=/work/repart", f"/disk/{target.name}",
            ],
            binds=[Bind(work, "/work", writable=True), Bind(target.parent.resolve(), "/disk", writable=True)],
            env={"SOURCE_DATE_EPOCH": _EPOCH},
            what="systemd-repart",
            error=HostError,
        )  # fmt: skip
    return target
