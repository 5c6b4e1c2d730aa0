"""The locks an image was built with, stored next to it so that later commands use the same tools.

``NAME.lock.json`` is the lock that the manifest names by ``lock_sha256``, and ``NAME.tools.lock.json`` the tools lock
that this one names by ``tools_sha256``. Both are therefore authenticated by the manifest, through the digest of their
canonical form. `image --lock` accepts the first as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, InputsError
from privml.base.files import write_atomic
from privml.events.agent import AgentEvent
from privml.events.configuration import UNUSED
from privml.lock.lockfile import own_tools_lock, read_lock, read_tools_lock, serialise
from privml.lock.models import Lock
from privml.output.manifest import Manifest


@dataclass(frozen=True)
class MadeBy:
    """The lock of a built image, with the paths of this lock and the tools lock."""

    lock: Lock
    lock_path: Path
    tools_path: Path


def lock_file(directory: Path, manifest: Manifest) -> Path:
    """Path of the lock of the image in ``directory``."""
    return directory / f"{manifest.name}.lock.json"


def keep(directory: Path, manifest: Manifest, lock: Lock, tools_lock: Path) -> None:
    """Write both locks next to the image in ``directory``, unless they are there already."""
    own = lock_file(directory, manifest)
    for path, data in ((own, serialise(lock)), (own_tools_lock(own), tools_lock.read_bytes())):
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data)


def read(directory: Path, manifest: Manifest) -> MadeBy | None:
    """The locks next to an image, None when there are none; ``BuildError`` when it was not built with them."""
    lock_path = lock_file(directory, manifest)
    tools_path = own_tools_lock(lock_path)
    if not lock_path.is_file() or not tools_path.is_file():
        return None
    try:
        lock = read_lock(lock_path)
        _agree(lock_path, lock.digest, manifest.lock_sha256, "manifest.json", manifest.name)
        tools = read_tools_lock(tools_path)
    except InputsError as error:
        raise BuildError(error.message, hint=f"build it again with `privml-build image {manifest.name}`") from error
    _agree(tools_path, tools.digest, lock.tools_sha256, lock_path.name, manifest.name)
    return MadeBy(lock, lock_path, tools_path)


def extended_events(directory: Path, manifest: Manifest) -> tuple[AgentEvent, ...]:
    """The agent events that extend RTMR3: all of them, or none where the locked kernel cannot extend it."""
    made = read(directory, manifest)
    return () if made is not None and made.lock.rtmr3 == UNUSED else manifest.agent_events


def _agree(path: Path, got: str, expected: str, namer: str, image: str) -> None:
    if got != expected:
        raise BuildError(
            f"{path} is not the lock the image was built with: got digest {got}, {namer} names {expected}",
            hint=f"build it again with `privml-build image {image}`",
        )
