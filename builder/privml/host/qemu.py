"""The QEMU of this host: its version and package, and the platforms whose tables are from it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError
from privml.base.files import sha256_file
from privml.base.run import run
from privml.host.line import Line
from privml.recipe.platform import NO_TEE, SNP, PlatformFile

_FOLDERS = ("usr/local/bin", "usr/bin", "usr/libexec")
_NAMES = ("qemu-system-x86_64", "qemu-kvm")
_VERSION = re.compile(r"QEMU emulator version ([0-9.]+)(?: \((.*?)\))?")
_SECONDS = 5.0
_UNKNOWN = "of unknown version"


@dataclass(frozen=True)
class QemuFact:
    """The QEMU of this host: path, version and package, whether it has tdx-guest, and the platforms of it."""

    path: str
    version: str
    package: str
    tdx_guest: bool
    platforms: tuple[str, ...]

    @property
    def name(self) -> str:
        """Path, version and package, for a person to read."""
        return f"{self.path} {self.version}{f' ({self.package})' if self.package else ''}"


def program(argv: Sequence[str]) -> str:
    """The output of a program of this host; empty if it fails."""
    try:
        return run(argv, timeout=_SECONDS, what=argv[0]).stdout.decode("utf-8", "replace")
    except HostError:
        return ""


def look(
    root: Path, platforms: Iterable[PlatformFile], ask: Callable[[Sequence[str]], str] = program
) -> QemuFact | None:
    """The QEMU below ``root``, which of ``platforms`` are of it; None if there is none."""
    folders = os.pathsep.join(str(root / folder) for folder in _FOLDERS)
    path = next((found for name in _NAMES if (found := shutil.which(name, path=folders))), None)
    if path is None:
        return None
    match = _VERSION.search(ask([path, "--version"]))
    version, package = (match[1], match[2] or "") if match is not None else (_UNKNOWN, "")
    binary = sha256_file(Path(path))
    # Nothing that an SNP guest measures depends on QEMU's version.
    tds = [one for one in platforms if one.tee not in (NO_TEE, SNP)]
    fits = tuple(sorted(one.name for one in tds if _is_of(one, binary, package)))
    return QemuFact(path, version, package, "tdx-guest" in ask([path, "-object", "help"]), fits)


def _is_of(platform: PlatformFile, binary: str, package: str) -> bool:
    """Whether a platform's tables are those of a QEMU: the same binary, or of the same package if it names none."""
    vmm = platform.vmm
    return vmm.binary == binary if vmm.binary is not None else bool(package) and vmm.package == package


def fitting(qemu: QemuFact) -> Iterator[Line]:
    """Which platforms are of this QEMU, or how to learn one."""
    if qemu.platforms:
        verb = "fits it" if len(qemu.platforms) == 1 else "fit it"
        yield Line("ok", "platform", f"{', '.join(qemu.platforms)} {verb}")
        return
    remedy = f"privml-build platform learn NAME --qemu {qemu.path} -- ARGS"
    yield Line("warn", "platform", "no platform here is of it", remedy)
