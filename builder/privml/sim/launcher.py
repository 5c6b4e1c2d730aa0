"""What the launcher of a development guest tells it by fw_cfg: which TEE it simulates, and a digest of its launch."""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import HostError
from privml.base.strictjson import unhex
from privml.events.registers import DIGEST_SIZE

FOLDER = Path("/sys/firmware/qemu_fw_cfg/by_name/opt/org.privml")
SIM_MRTD = FOLDER / "sim-mrtd/raw"
"""The MRTD of a simulated TD, in hex."""
SIM_LAUNCH = FOLDER / "sim-launch/raw"
"""The launch digest of a simulated SNP guest, in hex."""


def read(path: Path, what: str) -> bytes:
    """The bytes of ``path``; ``HostError`` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise HostError(f"simulation: {what} ({path}) cannot be read: {error.strerror}") from error


def digest(path: Path, what: str) -> bytes:
    """The digest (48 bytes) that ``path`` holds in hex; ``EvidenceError`` for anything else."""
    text = read(path, what).decode("ascii", "replace").strip("\n\0 ")
    return unhex(text, DIGEST_SIZE, what=path.parent.name)
