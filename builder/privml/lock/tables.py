"""The tables of learnt platforms: objects of the store, from pools or from a file next to the platform's."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterable, Sequence
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.files import read_start
from privml.recipe.gceplatform import GcePlatformFile
from privml.recipe.loader import platforms_in, shipped
from privml.recipe.platform import LearntTables, PlatformFile
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool

_AGAIN = "learn the platform again with its QEMU, or restore the file"
_NOWHERE = "give the pool that has them, or learn the platform again with its QEMU"
_MAX_PACKED = 4 << 20
_MAX_WORKING_MEMORY = 128 << 20


def packed_path(platform: Path) -> Path:
    """The file with the compressed tables of the platform file ``platform``."""
    return platform.with_suffix(".tables.xz")


def pack(tables: bytes) -> bytes:
    """Compress an object with tables: those of all sizes are nearly the same, so about a thirtieth is left."""
    return lzma.compress(tables, preset=9 | lzma.PRESET_EXTREME)


def unpack(data: bytes, wanted: LearntTables, what: str) -> bytes:
    """The object ``wanted`` from its compressed file; ``InputsError`` if the file has other bytes."""
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_WORKING_MEMORY)
    try:
        found = reader.decompress(data, wanted.size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise InputsError(f"{what} is not an xz file: {error}", hint=_AGAIN) from error
    digest = hashlib.sha256(found).hexdigest()
    if len(found) > wanted.size or not reader.eof or reader.unused_data:
        raise InputsError(f"{what} is not one whole xz file of {wanted.size} bytes", hint=_AGAIN)
    if digest != wanted.sha256:
        raise InputsError(f"{what} has tables with the SHA-256 {digest}, expected {wanted.sha256}", hint=_AGAIN)
    return found


def tables_of(platforms: Iterable[PlatformFile | GcePlatformFile]) -> list[Item]:
    """The tables of learnt platforms, which only stores, pools and files next to the platforms have."""
    return [
        Item(one.tables.sha256, one.tables.size, f"the tables of platform {one.name}", (), _NOWHERE)
        for one in platforms
        if one.tables is not None
    ]


def carry(store: Store, digest: str, folders: Iterable[Path] = ()) -> bool:
    """Whether the store has the tables with this ``digest``; they are added from a file next to a platform's.

    Those of the recipes in ``folders`` are looked at, in ``recipes`` here and in privml-build itself.
    ``InputsError`` for a file with other bytes than its platform says; nothing is added then.
    """
    if store.has(digest):
        return True
    for folder in (*folders, Path("recipes"), shipped()):
        for one in platforms_in(folder):
            path = packed_path(folder / "platforms" / f"{one.name}.yaml")
            if one.tables is not None and one.tables.sha256 == digest and path.is_file():
                data = unpack(read_start(path, _MAX_PACKED), one.tables, f"platforms/{path.name}")
                store.add_bytes(data, expect=digest)
                return True
    return False


def bring_tables(
    store: Store,
    platforms: Iterable[PlatformFile | GcePlatformFile],
    pools: Sequence[Pool] = (),
    folders: Iterable[Path] = (),
) -> None:
    """Bring the tables of learnt platforms that are missing from the store; ``InputsError`` if nothing has them."""
    places = tuple(folders)
    missing = [item for item in tables_of(platforms) if not carry(store, item.sha256, places)]
    if missing:
        fetch(store, missing, pools=pools)


def known_tables(folders: Iterable[Path]) -> set[str]:
    """The SHA-256 of the tables of every platform file in these folders; files that cannot be read have none."""
    return {item.sha256 for folder in folders for item in tables_of(platforms_in(folder))}
