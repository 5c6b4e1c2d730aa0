"""Cross-check measurements with a third-party tool: ``tdx-measure`` (virtee), if it is on PATH.

It computes MRTD in one page order, and RTMR0 of plain OVMF up to 202502 (profile td-ovmf-202502). It does not support
events of newer firmware, nor UKIs. RTMR0 is therefore compared with our prediction under *its* rules and from the
same bytes, which covers the common rules (TD HOB, CFV, ACPI, Secure Boot variables). Its interface and output are
described in virtee/tdx-measure README.md and cli/src/main.rs.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError
from privml.base.run import run
from privml.machine.platform import Size
from privml.measure import acpi

PROGRAM = "tdx-measure"
_LINE = re.compile(r"^(MRTD|RTMR[0-3]): *([0-9a-f]*)$", re.MULTILINE)
_DIGEST = re.compile(r"[0-9a-f]{96}")


@dataclass(frozen=True)
class CrossCheck:
    """One register: the tool's value and our accepted values."""

    register: str
    theirs: str
    ours: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """True if the tool's value is one of ours."""
        return self.theirs in self.ours

    def __str__(self) -> str:
        if self.equal:
            return f"{self.register}: {PROGRAM} agrees ({self.theirs[:16]}..)"
        return f"{self.register}: {PROGRAM} says {self.theirs}, we say {' or '.join(self.ours)}"


def program() -> Path:
    """Path of the tool; ``HostError`` if it is not on PATH."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise HostError(
            f"{PROGRAM} is not on PATH",
            hint="install the third-party project virtee/tdx-measure",
        )
    return Path(found)


def measured_by(tool: Path, firmware: Path, blobs: Mapping[str, bytes], size: Size) -> dict[str, str]:
    """MRTD and RTMR0 (hex) of a direct boot from the tool. ``HostError`` if it fails or its output lacks them."""
    with tempfile.TemporaryDirectory(prefix="privml-cross-check.") as name:
        folder = Path(name)
        parts = {"acpi_tables": acpi.TABLES, "rsdp": acpi.RSDP, "table_loader": acpi.TABLE_LOADER}
        for part, blob in parts.items():
            (folder / f"{part}.bin").write_bytes(blobs[blob])
        boot_config: dict[str, object] = {"cpus": size.vcpus, "memory": f"{size.memory >> 20}M"}
        boot_config |= {"bios": str(firmware.absolute()), **{part: f"{part}.bin" for part in parts}}
        # The kernel is ignored with --platform-only, but the block is required.
        direct = {"kernel": "/dev/null", "initrd": "/dev/null", "cmdline": ""}
        metadata = folder / "metadata.json"
        metadata.write_text(json.dumps({"boot_config": boot_config, "direct": direct}))
        done = run([tool, "--platform-only", "--json", metadata], timeout=120, what=PROGRAM)
    return parse(done.stdout.decode("utf-8", "replace"))


def parse(text: str) -> dict[str, str]:
    """``mrtd`` and ``rtmr0`` from the tool's JSON or text output; ``HostError`` if they are missing."""
    found: dict[str, str] = {name.lower(): value for name, value in _LINE.findall(text)}
    if not found:
        try:
            value = json.loads(text[max(text.find("{"), 0) :])
        except ValueError:
            value = None
        found = {str(name): str(digest) for name, digest in value.items()} if isinstance(value, dict) else {}
    if not all(_DIGEST.fullmatch(found.get(name, "")) for name in ("mrtd", "rtmr0")):
        raise HostError(
            f"{PROGRAM} printed no MRTD and RTMR0: {text.strip()[:200]!r}",
            hint="unsupported output format: expected JSON with mrtd and rtmr0, or lines of `MRTD: HEX`",
        )
    return {name: found[name] for name in ("mrtd", "rtmr0")}


def judge(theirs: Mapping[str, str], mrtd: tuple[bytes, bytes], rtmr0: bytes) -> tuple[CrossCheck, ...]:
    """Compare ``mrtd`` in both page orders and ``rtmr0`` under the tool's rules."""
    return (
        CrossCheck("MRTD", theirs["mrtd"], tuple(value.hex() for value in mrtd)),
        CrossCheck("RTMR0 by its rules", theirs["rtmr0"], (rtmr0.hex(),)),
    )
