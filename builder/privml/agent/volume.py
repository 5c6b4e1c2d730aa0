"""Volumes of models and data: disks provided by the host and checked against measured root hashes.

The host chooses which disk has the partition names; dm-verity with the parameters of the measured configuration
accepts only the right bytes. A wrong block is an I/O error and not a panic, so that a wrong volume fails
the stage and can be reported. dm-crypt decrypts an encrypted volume over its verity device, so the host's bytes are
checked before they are decrypted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from privml.agent.logonkey import logon_key
from privml.base.errors import HostError
from privml.base.run import run
from privml.events.crypt import CIPHER, KEY_SIZE, LAST_SECTOR, SECTOR_SIZE
from privml.events.verity import BLOCK_SIZE, Verity
from privml.events.volumes import Slot

_EROFS_MAGIC = 0xE0F5E1E2.to_bytes(4, "little")
_EROFS_OFFSET = 1024

Runner = Callable[[Sequence[str]], None]
KeyRing = Callable[[str, bytes], AbstractContextManager[None]]
"""Puts a key into the kernel, under a name that dm-crypt finds it by, for as long as the context lasts."""


def command(argv: Sequence[str]) -> None:
    """Run a tool of the guest; ``HostError`` with its output when it fails."""
    run(argv, timeout=180)


class Volumes:
    """Finds, opens and mounts volumes. ``runner`` starts dmsetup and mount, ``keyring`` has its keys."""

    def __init__(
        self,
        *,
        sys: Path = Path("/sys"),
        dev: Path = Path("/dev"),
        runner: Runner = command,
        keyring: KeyRing = logon_key,
        wait: float = 60.0,
    ) -> None:
        self._sys = sys
        self._dev = dev
        self._runner = runner
        self._keyring = keyring
        self._wait = wait

    def open(self, slot: Slot, verity: Verity, mount: Path, key: bytes | None = None) -> None:
        """Mount the filesystem of the volume at ``slot`` read-only; ``HostError`` if it does not match ``verity``.

        ``key`` decrypts an encrypted volume. The error begins with the volume's kind.
        """
        try:
            device = self._verified(slot.partition, verity)
            if key is not None:
                device = self._decrypted(slot.partition, device, verity, key)
            _check_filesystem(device)
            mount.mkdir(mode=0o755, exist_ok=True)
            self._runner(["mount", "-t", "erofs", "-o", "ro,nosuid,nodev,noexec", str(device), str(mount)])
        except HostError as error:
            raise HostError(f"{slot.kind.name}: {error.message}", hint=error.hint) from error

    def _verified(self, partition: str, verity: Verity) -> Path:
        """The device with the volume's bytes, each block checked up to the measured root hash."""
        data = self._find(partition)
        tree = self._find(f"{partition}-verity")
        device = self._map(partition, table(verity, data, tree))
        _prove(device, verity)
        return device

    def _decrypted(self, partition: str, device: Path, verity: Verity, key: bytes) -> Path:
        """The device with the plaintext of ``device``."""
        described = f"privml:{partition}"
        with self._keyring(described, key):
            plain = self._map(f"{partition}-plain", crypt_table(verity, device, described))
        _check_decrypted(plain, verity)
        return plain

    def _map(self, name: str, described: str) -> Path:
        """Create the device ``name`` of a device-mapper table."""
        options = ["--readonly", "--noudevsync", "--noudevrules"]
        self._runner(["dmsetup", "create", name, *options, "--table", described])
        return self._mapped(name)

    def _find(self, partition: str) -> Path:
        """The only partition with this name; waits a while, because disks appear late."""
        end = time.monotonic() + self._wait
        while True:
            found = sorted(self._named(partition))
            if len(found) == 1:
                return self._dev / found[0]
            if len(found) > 1:
                names = ", ".join(found)
                raise HostError(f"{len(found)} partitions are named {partition} ({names}), expected one")
            if time.monotonic() >= end:
                raise HostError(f"no partition is named {partition}: is its disk attached?")
            time.sleep(0.1)

    def _named(self, partition: str) -> list[str]:
        found = []
        for uevent in (self._sys / "class" / "block").glob("*/uevent"):
            try:
                text = uevent.read_text("utf-8", "replace")
            except OSError:
                continue  # the device disappeared in the meantime
            fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
            if fields.get("PARTNAME") == partition and fields.get("DEVNAME"):
                found.append(fields["DEVNAME"])
        return found

    def _mapped(self, name: str) -> Path:
        """The kernel's own node of the mapped device: udev creates the names in /dev/mapper at some later time."""
        for entry in (self._sys / "class" / "block").glob("dm-*"):
            with contextlib.suppress(OSError):
                if (entry / "dm" / "name").read_text().strip() == name:
                    return self._dev / entry.name
        raise HostError(f"device-mapper did not create a device named {name}")


def _prove(device: Path, verity: Verity) -> None:
    """Read the first and the last block, so that dm-verity checks both up to the root hash."""
    wrong = f"the volume does not match the measured configuration (root hash {verity.root_hash.hex()})"
    try:
        handle = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            first = os.pread(handle, BLOCK_SIZE, 0)
            last = os.pread(handle, BLOCK_SIZE, (verity.data_blocks - 1) * BLOCK_SIZE)
        finally:
            os.close(handle)
    except OSError as error:
        raise HostError(f"{wrong}: {error.strerror}") from error
    if len(first) != BLOCK_SIZE or len(last) != BLOCK_SIZE:
        raise HostError(f"{wrong}: it is shorter than {verity.data_blocks} blocks")


def _check_decrypted(device: Path, verity: Verity) -> None:
    """Raise ``HostError`` unless the first and the last sector of the decrypted ``device`` are what they must be.

    The key has the measured check value, so the fault is in how the volume was written.
    """
    with device.open("rb") as file:
        first = file.read(SECTOR_SIZE)
        file.seek((verity.data_blocks - 1) * BLOCK_SIZE)
        last = file.read(SECTOR_SIZE)
    if not _is_erofs(first):
        raise HostError("the measured volume has no erofs filesystem: it was encrypted with another key")
    if last != LAST_SECTOR:
        raise HostError(
            "the last sector of the measured volume is not the expected one: its sectors were numbered "
            f"otherwise when it was encrypted, expected one number for each {SECTOR_SIZE} bytes"
        )


def _check_filesystem(device: Path) -> None:
    with device.open("rb") as file:
        if not _is_erofs(file.read(BLOCK_SIZE)):
            raise HostError("the measured volume has no erofs filesystem")


def _is_erofs(first: bytes) -> bool:
    return first[_EROFS_OFFSET : _EROFS_OFFSET + 4] == _EROFS_MAGIC


def table(verity: Verity, data: Path, tree: Path) -> str:
    """The device-mapper table: every parameter is measured, only the two device names come from the host."""
    sectors = verity.data_blocks * (BLOCK_SIZE // 512)
    return (
        f"0 {sectors} verity 1 {data} {tree} {BLOCK_SIZE} {BLOCK_SIZE} {verity.data_blocks} {verity.hash_start} "
        f"sha256 {verity.root_hash.hex()} {verity.salt.hex()}"
    )


def crypt_table(verity: Verity, device: Path, key: str) -> str:
    """The device-mapper table that decrypts ``device`` with the logon key of that description."""
    sectors = verity.data_blocks * (BLOCK_SIZE // 512)
    return (
        f"0 {sectors} crypt {CIPHER} :{KEY_SIZE}:logon:{key} 0 {device} 0 "
        f"2 sector_size:{SECTOR_SIZE} iv_large_sectors"
    )
