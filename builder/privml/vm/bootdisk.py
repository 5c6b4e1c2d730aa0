"""A disk from which firmware boots a UKI: one EFI system partition with the removable-media path.

The disk is made for a single boot. Firmware measures its partition table into RTMR1, so its GUIDs are fixed.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from privml.base.errors import HostError
from privml.image.tools import Bind, ToolsTree

LOADER = "EFI/BOOT/BOOTX64.EFI"
_SEED = "3c9c2b1e-6f0d-4f4e-9d0b-6a1c2f1f8a55"
_EPOCH = "1"
_SLACK = 16 << 20  # FAT structures, and room so that mkfs.fat chooses the same FAT width for all UKIs
_PARTITION = """[Partition]
Type=esp
Format=vfat
CopyFiles=/:/
SizeMinBytes={size}
SizeMaxBytes={size}
"""


def make(tools: ToolsTree, uki: Path, target: Path) -> Path:
    """Write the disk ``target`` (raw, GPT) that boots ``uki``."""
    with tempfile.TemporaryDirectory(prefix="privml-disk.") as name:
        work = Path(name)
        loader = work / "tree" / LOADER
        loader.parent.mkdir(parents=True)
        shutil.copyfile(uki, loader)
        size = -(-(loader.stat().st_size + _SLACK) // _SLACK) * _SLACK
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
