"""What the launcher tells a machine that simulates a TEE: what that TEE's hardware would measure of its start.

A development guest reads it from fw_cfg, and simulates the TEE that the host chose. Predictions are never an input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from privml.base.errors import MeasurementError
from privml.measure.snp import table
from privml.measure.snp.hashes import KernelHashes
from privml.measure.snp.launch import Launcher
from privml.measure.snp.pages import PAGE

SIM_MRTD = "opt/org.privml/sim-mrtd"
SIM_LAUNCH = "opt/org.privml/sim-launch"
_DECIDING = ("-bios", "-kernel", "-initrd", "-append", "-smp")
"""QEMU's options that decide the launch digest; the last of each counts."""


def tdx(firmware: bytes) -> dict[str, bytes]:
    """fw_cfg items for a simulated TD: the MRTD of its firmware."""
    from privml.measure.mrtd import mrtd

    return {SIM_MRTD: mrtd(firmware).hex().encode()}


@dataclass(frozen=True)
class SnpLaunch:
    """The launch of a simulated SNP guest: its digest (48 bytes), and the page of hashes that its firmware checks.

    ``address`` is where QEMU puts the ``page``, which is empty without a kernel.
    """

    digest: bytes
    page: bytes
    address: int

    def written(self, directory: Path, seen: str) -> list[str]:
        """Write what QEMU reads to ``directory``, which it sees at ``seen``; its arguments."""
        (directory / "snp-launch").write_text(self.digest.hex())
        words = ["-fw_cfg", f"name={SIM_LAUNCH},file={seen}/snp-launch"]
        if self.page:
            (directory / "snp-hashes").write_bytes(self.page)
            words += ["-device", f"loader,file={seen}/snp-hashes,addr={self.address:#x},force-raw=on"]
        return words


def snp(argv: Sequence[str], read: Callable[[str], bytes], *, signature: int, features: int) -> SnpLaunch:
    """The launch of an SNP guest that QEMU, with hashes of its kernel, starts by the arguments ``argv``.

    ``read`` gives the content of a file that they name; ``signature`` and ``features`` are the processors' (`measure.
    snp.vmsa`). ``MeasurementError`` for a firmware that cannot start such a guest.
    """
    given = {name: value for name, value in pairwise(argv) if name in _DECIDING}
    if "-bios" not in given or "-smp" not in given:
        raise MeasurementError("simulation: QEMU's arguments name no firmware or no processors")
    firmware = read(given["-bios"])
    kernel = None
    if "-kernel" in given:
        initrd = read(given["-initrd"]) if "-initrd" in given else b""
        texts = (read(given["-kernel"]), initrd, given.get("-append", "").encode() + b"\0")
        kernel = KernelHashes(*(hashlib.sha256(text).digest() for text in texts))
    vcpus = int(given["-smp"].partition(",")[0])
    digest = Launcher(firmware, kernel).digest(vcpus, signature=signature, features=features)
    place = table.read(firmware).hashes
    if kernel is None or place is None:
        return SnpLaunch(digest, b"", 0)
    return SnpLaunch(digest, kernel.page(place), place - place % PAGE)
