"""The same machine measured by a tool of others: ``tdx-measure`` (virtee), when it is on PATH.

It knows MRTD in one page order, and RTMR0 of plain OVMF up to 202502 (profile td-ovmf-202502). It does not know what
newer firmware adds, nor a UKI. So RTMR0 is held against our prediction by *its* rules, from the same bytes: the rules
that both share (TD HOB, CFV, ACPI, Secure Boot variables). Its interface and output: virtee/tdx-measure README.md and
cli/src/main.rs.
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
from privml.machine.platform import Shape
from privml.measure import acpi

PROGRAM = "tdx-measure"
_LINE = re.compile(r"^(MRTD|RTMR[0-3]): *([0-9a-f]*)$", re.MULTILINE)
_DIGEST = re.compile(r"[0-9a-f]{96}")


@dataclass(frozen=True)
class CrossCheck:
    """One register: what the tool says, and what we say it must."""

    register: str
    theirs: str
    ours: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """True when the tool's value is one of ours."""
        return self.theirs in self.ours

    def __str__(self) -> str:
        if self.equal:
            return f"{self.register}: {PROGRAM} agrees ({self.theirs[:16]}..)"
        return f"{self.register}: {PROGRAM} says {self.theirs}, we say {' or '.join(self.ours)}"


def program() -> Path:
    """Where the tool is; ``HostError`` when it is not on PATH."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise HostError(
            f"{PROGRAM} is not on PATH",
            hint="it is a project of others (virtee/tdx-measure); put it there",
        )
    return Path(found)


def measured_by(tool: Path, firmware: Path, blobs: Mapping[str, bytes], shape: Shape) -> dict[str, str]:
    """MRTD and RTMR0 (hex) of a direct boot, by the tool. ``HostError`` when it fails or its output has neither."""
    with tempfile.TemporaryDirectory(prefix="privml-cross-check.") as name:
        folder = Path(name)
        parts = {"acpi_tables": acpi.TABLES, "rsdp": acpi.RSDP, "table_loader": acpi.TABLE_LOADER}
        for part, blob in parts.items():
            (folder / f"{part}.bin").write_bytes(blobs[blob])
        boot_config: dict[str, object] = {"cpus": shape.vcpus, "memory": f"{shape.memory >> 20}M"}
        boot_config |= {"bios": str(firmware.absolute()), **{part: f"{part}.bin" for part in parts}}
        # The kernel is not looked at with --platform-only, but the block must be there.
        direct = {"kernel": "/dev/null", "initrd": "/dev/null", "cmdline": ""}
        metadata = folder / "metadata.json"
        metadata.write_text(json.dumps({"boot_config": boot_config, "direct": direct}))
        done = run([tool, "--platform-only", "--json", metadata], timeout=120, what=PROGRAM)
    return parse(done.stdout.decode("utf-8", "replace"))


def parse(text: str) -> dict[str, str]:
    """``mrtd`` and ``rtmr0`` out of the tool's JSON or its lines of text; ``HostError`` when they are not there."""
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
            hint="its output has changed: known are JSON with mrtd and rtmr0, and lines of `MRTD: HEX`",
        )
    return {name: found[name] for name in ("mrtd", "rtmr0")}


def judge(theirs: Mapping[str, str], mrtd: tuple[bytes, bytes], rtmr0: bytes) -> tuple[CrossCheck, ...]:
    """``mrtd`` in both page orders, ``rtmr0`` by the tool's own rules."""
    return (
        CrossCheck("MRTD", theirs["mrtd"], tuple(value.hex() for value in mrtd)),
        CrossCheck("RTMR0 by its rules", theirs["rtmr0"], (rtmr0.hex(),)),
    )
