"""The image's firmware, derived from the distribution's binary as locked.

A TD's loses the Secure Boot keys enrolled in it. The variable store (CFV) is measured into RTMR0, not MRTD, so the
derivation leaves MRTD alone. virt-fw-vars is GPL and runs as a process. An SNP guest's loses everything that could
start another program than the kernel whose hash is measured (`measure.snp.bound`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from privml.base.errors import BuildError
from privml.image.tools import Bind, ToolsTree
from privml.lock import deb
from privml.measure.snp.bound import bound
from privml.recipe.distributions import Firmware

_KEY_VARIABLES = ("PK", "KEK", "db", "dbx")


def derive(tools: ToolsTree, target: Path, firmware: Firmware, debs: dict[str, bytes]) -> str:
    """Make ``target`` of the locked ``firmware``; ``debs`` holds its packages (name -> bytes).

    Returns the hex SHA-256 of the original binary in the package.
    """
    data = _find(firmware.file, debs)
    source = hashlib.sha256(data).hexdigest()
    if firmware.bound:
        target.write_bytes(bound(data))
        return source
    if not firmware.enrolled_keys:
        target.write_bytes(data)
        return source
    source_file = target.with_suffix(".in")
    source_file.write_bytes(data)
    words = [word for variable in _KEY_VARIABLES for word in ("-d", variable)]
    tools.run(
        ["virt-fw-vars", "-i", f"/work/{source_file.name}", *words, "-o", f"/work/{target.name}"],
        binds=[Bind(target.parent, "/work", writable=True)],
        what="virt-fw-vars",
        error=BuildError,
    )
    source_file.unlink()
    return source


def _find(path: str, debs: dict[str, bytes]) -> bytes:
    wanted = PurePosixPath(path)
    for name, body in sorted(debs.items()):
        with deb.tar_of(body, "data.tar", name) as archive:
            for entry in archive:
                if entry.isfile() and PurePosixPath(entry.name) == wanted:
                    source = archive.extractfile(entry)
                    assert source is not None
                    return source.read()
    raise BuildError(f"firmware: no locked package contains {path}; searched {', '.join(sorted(debs))}")
