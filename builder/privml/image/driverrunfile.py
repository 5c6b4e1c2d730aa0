"""What an image takes of a driver's runfile: the modules' source, and files of the user space.

The tar file in it is unpacked by the tools' own program, in the sandbox; it is read here, and nothing of it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarFile

from privml.base.errors import InputsError
from privml.base.files import remove_tree
from privml.base.steps import step
from privml.image.tools import Bind, ToolsTree
from privml.lock import runfile, vendortar
from privml.lock.models import Runfile
from privml.store.objects import Store

_TAR = "payload.tar"
_SECONDS = 900.0


def unpack_source(folder: str, locked: Runfile, store: Store, tools: ToolsTree, target: Path) -> None:
    """Unpack the modules' source, ``folder`` in the runfile, to the new directory ``target``."""
    with _tar_of(locked, store, tools, target.with_name("runfile")) as archive:
        vendortar.unpack(archive, folder, target, _said(locked))


def files_in(
    wanted: Collection[str], locked: Runfile, store: Store, tools: ToolsTree, place: Path
) -> dict[str, bytes]:
    """The content of the files ``wanted``; ``place`` is a new directory for the time of reading."""
    with _tar_of(locked, store, tools, place) as archive:
        return vendortar.read(archive, wanted, _said(locked))


def _said(locked: Runfile) -> str:
    return f"driver-runfile: {locked}"


@contextmanager
def _tar_of(locked: Runfile, store: Store, tools: ToolsTree, place: Path) -> Iterator[TarFile]:
    """The tar file of a runfile, unpacked in the new directory ``place`` and removed after use."""
    place.mkdir(parents=True)
    try:
        with step(f"Unpacking {locked}"):
            with store.path(locked.sha256, verify=True).open("rb") as file:
                head = runfile.header(file, str(locked))
                packed = place / f"{_TAR}{head.compression.suffix}"
                runfile.copy_payload(file, head.start, packed)
            # A small file can unpack to one that fills the disk.
            tools.run(
                ["prlimit", f"--fsize={runfile.MAX_TAR}", *head.compression.program, f"/work/{packed.name}"],
                binds=[Bind(place, "/work", writable=True)],
                timeout=_SECONDS,
                what=f"driver-runfile: unpacking {locked}",
                error=InputsError,
            )
        with (place / _TAR).open("rb") as file, vendortar.opened(file, _said(locked)) as archive:
            yield archive
    finally:
        remove_tree(place)
