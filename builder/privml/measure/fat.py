"""Read one file out of a FAT file system by its 8.3 path: the boot loader of an EFI system partition.

Source: Microsoft FAT specification 1.03 (August 2005). Read only, no long names: the path that firmware falls back
to, ``EFI/BOOT/BOOTX64.EFI``, is short. Every chain is bounded by the number of clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure.digest import Bytes, piece, unsigned

REMOVABLE = ("EFI", "BOOT", "BOOTX64.EFI")
_ENTRY = 32
_DIRECTORY, _VOLUME = 0x10, 0x08
_MAX_DIRECTORY = 1 << 20
_MAX_FILE = 1 << 30
_FAT12_CLUSTERS, _FAT16_CLUSTERS = 4085, 65525


@dataclass(frozen=True)
class _Volume:
    data: Bytes
    start: int
    bits: int
    cluster_bytes: int
    clusters: int
    fat: int
    root: int
    root_bytes: int
    root_cluster: int
    first: int

    def next(self, cluster: int) -> int:
        """The cluster after ``cluster``; 0 at the chain's end."""
        if self.bits == 12:
            pair = unsigned(self.data, self.fat + cluster * 3 // 2, 2, "FAT")
            value = pair >> 4 if cluster & 1 else pair & 0xFFF
        else:
            width = self.bits // 8
            value = unsigned(self.data, self.fat + cluster * width, width, "FAT") & 0x0FFFFFFF
        limit = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self.bits]
        return 0 if value >= limit else self._checked(value)

    def _checked(self, cluster: int) -> int:
        if not 2 <= cluster < self.clusters + 2:
            raise MeasurementError(f"FAT: cluster {cluster} of a chain is not one of {self.clusters}")
        return cluster

    def chain(self, cluster: int, limit: int) -> bytes:
        """The contents of a chain, at most ``limit`` bytes rounded up to a cluster."""
        parts: list[bytes] = []
        following = self._checked(cluster)
        while following:
            if len(parts) * self.cluster_bytes >= limit or len(parts) > self.clusters:
                break
            parts.append(
                piece(
                    self.data,
                    self.first + (following - 2) * self.cluster_bytes,
                    self.cluster_bytes,
                    f"FAT cluster {following}",
                )
            )
            following = self.next(following)
        return b"".join(parts)


def _volume(image: Bytes, start: int) -> _Volume:
    if piece(image, start + 510, 2, "FAT boot sector") != b"\x55\xaa":
        raise MeasurementError("not a FAT file system: there is no 55 aa at the end of its first sector")

    def field(at: int, size: int) -> int:
        return unsigned(image, start + at, size, "FAT boot sector")

    sector, per_cluster, reserved, copies = field(11, 2), field(13, 1), field(14, 2), field(16, 1)
    entries, total = field(17, 2), field(19, 2) or field(32, 4)
    fat_sectors = field(22, 2) or field(36, 4)
    powers = sector in (512, 1024, 2048, 4096) and per_cluster and not per_cluster & (per_cluster - 1)
    if not powers or not reserved or not 1 <= copies <= 4 or not fat_sectors:
        raise MeasurementError("not a FAT file system: its boot sector's sizes are not plausible")
    root_sectors = -(-entries * _ENTRY // sector)
    before_data = reserved + copies * fat_sectors + root_sectors
    if before_data >= total:
        raise MeasurementError(f"FAT: {total} sectors, of which {before_data} come before the data")
    clusters = (total - before_data) // per_cluster
    bits = 12 if clusters < _FAT12_CLUSTERS else 16 if clusters < _FAT16_CLUSTERS else 32
    if (bits == 32) != (entries == 0):
        raise MeasurementError(f"FAT: {clusters} clusters and {entries} root entries do not fit together")
    return _Volume(
        data=image,
        start=start,
        bits=bits,
        cluster_bytes=per_cluster * sector,
        clusters=clusters,
        fat=start + reserved * sector,
        root=start + (before_data - root_sectors) * sector,
        root_bytes=entries * _ENTRY,
        root_cluster=field(44, 4) if bits == 32 else 0,
        first=start + before_data * sector,
    )


def read(image: Bytes, start: int, path: tuple[str, ...] = REMOVABLE) -> bytes:
    """The file at ``path`` of the file system that begins at byte ``start``.

    ``MeasurementError`` when it is not a FAT, the file does not exist, or a chain is malformed.
    """
    volume = _volume(image, start)
    directory = (
        piece(image, volume.root, volume.root_bytes, "FAT root directory")
        if volume.bits != 32
        else volume.chain(volume.root_cluster, _MAX_DIRECTORY)
    )
    for name in path[:-1]:
        attributes, cluster, _ = _find(directory, name)
        if not attributes & _DIRECTORY:
            raise MeasurementError(f"FAT: `{name}` is not a directory")
        directory = volume.chain(cluster, _MAX_DIRECTORY)
    attributes, cluster, size = _find(directory, path[-1])
    if attributes & _DIRECTORY or size > _MAX_FILE:
        raise MeasurementError(f"FAT: `{path[-1]}` is not a file, or is larger than {_MAX_FILE} bytes")
    data = volume.chain(cluster, size) if size else b""
    if len(data) < size:
        raise MeasurementError(f"FAT: `{path[-1]}` says {size} bytes, its chain has {len(data)}")
    return data[:size]


def _find(directory: bytes, name: str) -> tuple[int, int, int]:
    stem, _, extension = name.partition(".")
    wanted = stem.encode("ascii").ljust(8) + extension.encode("ascii").ljust(3)
    for at in range(0, len(directory) - _ENTRY + 1, _ENTRY):
        row = directory[at : at + _ENTRY]
        if row[0] == 0:
            break
        # A long name's row has the volume bit too; a deleted row's first byte is not a letter.
        if row[:11] == wanted and not row[11] & _VOLUME:
            cluster = int.from_bytes(row[20:22], "little") << 16 | int.from_bytes(row[26:28], "little")
            return row[11], cluster, int.from_bytes(row[28:32], "little")
    raise MeasurementError(f"FAT: there is no `{name}`")
