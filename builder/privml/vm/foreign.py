"""A QEMU that is not of the tools: found by its path, run in the sandbox, asked for its version and machine types."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError, MeasurementError, UsageError
from privml.base.files import sha256_file
from privml.image.tools import Bind, ToolsTree
from privml.machine.qemu import AcceleratorName
from privml.vm.process import Child
from privml.vm.qmp import Qmp
from privml.vm.qtest import Qemu

_VERSION = re.compile(r"QEMU emulator version ([0-9]+\.[0-9]+\.[0-9]+)(?: \(([ -'*-~]{1,120})\))?")
_TYPE = re.compile(r"^(\S+) .*?(?:\(alias of (\S+)\).*)?$")
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_LEAVES = (10, 2)
"""The first version that can be told to exit with its parent."""
_TIMEOUT = 20.0


@dataclass(frozen=True)
class ForeignQemu:
    """A QEMU's ``version`` and ``package`` as it gives them, and the SHA-256 of its ``binary``."""

    qemu: Qemu
    version: str
    package: str | None
    binary: str

    def machine(self, name: str) -> str:
        """The machine type that ``name`` stands for; ``UsageError`` if this QEMU does not have it."""
        types = {}
        for line in _said(self.qemu, "-machine", "help").splitlines():
            if (match := _TYPE.match(line)) is not None:
                types[match[1]] = match[2] or match[1]
        if name not in types:
            known = sorted(each for each in types if each.startswith("pc-q35"))
            raise UsageError(f"QEMU {self.version} has no machine type `{name}`: it has {', '.join(known) or 'none'}")
        return types[name]


def find(tools: ToolsTree, path: Path) -> ForeignQemu:
    """The QEMU at ``path``: of this host, or of a tree of unpacked packages with its own loader.

    ``UsageError`` if there is none; ``MeasurementError`` for one that names two versions.
    """
    qemu = _placed(tools, path)
    said = _said(qemu, "--version")
    match = _VERSION.match(said)
    if match is None:
        raise UsageError(f"{path} is not QEMU: `--version` prints `{said[:80].strip()}`")
    version, package = match[1], match[2]
    leaves = tuple(map(int, version.split(".")[:2])) >= _LEAVES
    qemu = Qemu(qemu.tools, qemu.program, qemu.binds, leaves, _accelerator(qemu))
    asked = _asked_version(qemu)
    if asked != version:
        raise MeasurementError(f"{path}: `--version` says {version}, its monitor says {asked}: expected one version")
    return ForeignQemu(qemu, version, package, sha256_file(path))


def _placed(tools: ToolsTree, path: Path) -> Qemu:
    where = path.absolute()
    if not where.is_file():
        raise UsageError(f"--qemu: {path} is not a file, expected a QEMU, such as /usr/bin/qemu-system-x86_64")
    where = where.resolve()
    for parent in where.parents:
        root = parent.parent
        if parent.name == "usr" and (root / _LOADER).exists():
            return Qemu(tools.other(root), f"/{where.relative_to(root)}")
    # Its firmware and ROMs are next to it: bin and share have one parent.
    prefix = where.parent.parent
    return Qemu(tools.other(Path("/")), str(where), (Bind(prefix, str(prefix)),))


def _accelerator(qemu: Qemu) -> AcceleratorName:
    """How the machine is made without running it: by TCG where there is one, as packages leave qtest's module out."""
    return "stopped" if "tcg" in _said(qemu, "-accel", "help").split() else "qtest"


def _said(qemu: Qemu, *words: str) -> str:
    done = qemu.tools.run([qemu.program, *words], binds=qemu.binds, timeout=_TIMEOUT, what=f"QEMU {' '.join(words)}")
    return done.stdout.decode("utf-8", "replace")


def _asked_version(qemu: Qemu) -> str:
    with tempfile.TemporaryDirectory(prefix="privml-qemu.") as name:
        directory = Path(name)
        child = Child(
            qemu.tools,
            [
                qemu.program, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none", "-S",
                "-qmp", "unix:/vm/qmp.sock,server=on,wait=off",
                *qemu.exits,
            ],
            directory / "qemu.log",
            binds=[Bind(directory, "/vm", writable=True), *qemu.binds],
        )  # fmt: skip
        try:
            child.connect(directory / "qmp.sock").close()
            with Qmp(directory / "qmp.sock") as qmp:
                version = qmp.command("query-version")["qemu"]
        except (OSError, ValueError, KeyError) as error:
            raise HostError(f"QEMU does not answer at its monitor: {error}\n{child.tail()}") from error
        finally:
            child.stop()
    return ".".join(str(version.get(part)) for part in ("major", "minor", "micro"))
