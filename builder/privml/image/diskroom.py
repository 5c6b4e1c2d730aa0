"""Check before a large build that there is room for it: a full disk would end it after many minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

from privml.base.errors import HostError
from privml.base.steps import say
from privml.lock.contents import debs
from privml.lock.models import Lock
from privml.store.objects import Store
from privml.store.room import STORE_HINT

# mkosi and systemd-repart each have a copy of the wheels in a tree, and the image has them compressed. Measured with
# those of a large engine: 2.7 times their size.
COPIES = 3
REST = 2 << 30
"""What an image needs without its wheels: packages, driver, compiler, kernel."""
REST_OF_DISK = 1 << 30
"""The disk of an image without its models, data and wheels."""


def of_build(wheels: int) -> int:
    """Bytes that a build needs next to its output, for wheels of so many bytes."""
    return COPIES * wheels + REST


def of_disk(lock: Lock) -> int:
    """Bytes of ``disk.raw``: models and data as in the lock, the root, and the partition with the UKI.

    The root has the wheels, about as well compressed as their own files.
    """
    inside = {file.sha256: file.size for file in lock.volume_objects}
    return sum(inside.values()) + sum(wheel.size for wheel in lock.wheels) + REST_OF_DISK


def of_inputs(lock: Lock) -> int:
    """Bytes of all inputs of a lock in a store."""
    files = {package.sha256: package.size for package in debs(lock)}
    files |= {wheel.sha256: wheel.size for wheel in lock.wheels}
    files |= {file.sha256: file.size for file in lock.volume_objects}
    return sum(files.values())


def check_store(lock: Lock, store: Store) -> None:
    """``HostError`` if the store has no room for the wheels that must still be fetched."""
    missing = sum(wheel.size for wheel in lock.imported if not store.has(wheel.sha256))
    if missing:
        check(store.root, missing, "the wheels in the store", STORE_HINT)


def check(place: Path, need: int, what: str, hint: str) -> None:
    """Say how much room is needed on the file system of ``place``; ``HostError`` if it has less."""
    free = shutil.disk_usage(_existing(place)).free
    text = f"{what} need about {_gigabytes(need)} in {place}, and {_gigabytes(free)} are free"
    if free < need:
        raise HostError(f"disk-room: {text}", hint=hint)
    say(text)


def is_one_disk(one: Path, other: Path) -> bool:
    """True if both folders, which need not be there yet, are on one file system."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(place: Path) -> Path:
    """The folder itself, or the one in which it will be made."""
    return next(each for each in (place.absolute(), *place.absolute().parents) if each.is_dir())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
