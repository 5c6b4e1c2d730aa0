"""Build the UKI and its two generated parts: the initrd and the kernel command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from privml.base.errors import BuildError
from privml.events.verity import Verity
from privml.image.tools import Bind, ToolsTree
from privml.measure import cpio
from privml.recipe.drivers import Driver
from privml.recipe.fabrics import Fabric

LOCKDOWN = "lockdown=integrity"
# Each parameter removes an attack path of the host, or keeps prompts off the console.
BASE_WORDS = (
    "console=ttyS0",
    "quiet",
    "loglevel=4",
    "panic=-1",
    "oops=panic",
    "sysctl.kernel.sysrq=0",  # not sysrq_always_enabled=0: the parameter enables SysRq whatever its value
    LOCKDOWN,
    "nohibernate",
    "systemd.show_status=no",
    "systemd.log_target=kmsg",
    "systemd.log_color=no",
    "systemd.gpt_auto=no",
    "systemd.import_credentials=no",
    "systemd.swap=no",
    "systemd.firstboot=no",
    "TERM=dumb",
)


def command_line(
    root: Verity, options: Sequence[str] = (), *, driver: Driver | None = None, fabric: Fabric | None = None
) -> str:
    """The complete kernel command line, with a recipe's ``options``. It is measured into RTMR2.

    A locked down kernel takes no modules of a ``driver``, so the agent locks it down later (`agent.lockdown`). The
    parameters of its modules are words of the line, since the guest has no `modprobe.d`.
    """
    words = [word for word in BASE_WORDS if driver is None or word != LOCKDOWN]
    parameters = (*(driver.parameters if driver else ()), *(fabric.parameters if fabric else ()))
    return " ".join((*words, *parameters, *options, f"privml.root={root.argument()}"))


def initrd(parts: Path, *, epoch: int) -> bytes:
    """Build the initrd from the files that finalize extracted from the tree (``parts``)."""
    members = {
        str(path.relative_to(parts)): cpio.Member(path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))
        for path in sorted(parts.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    for needed in ("init", "bin/busybox", "sbin/dmsetup"):
        if needed not in members:
            raise BuildError(f"initrd: {needed} is missing; found {sorted(members)}")
    for directory in ("dev", "proc", "sys", "run", "sysroot", "tmp"):
        members[directory] = cpio.Member(None)
    return cpio.archive(members, mtime=epoch)


def build(
    tools: ToolsTree, work: Path, *, kernel: Path, initrd: bytes, cmdline: str, release: str, name: str
) -> Path:
    """Build ``work/uki.efi`` with ukify and the stub of the tools tree; ``release`` is the kernel's ``uname -r``."""
    (work / "initrd").write_bytes(initrd)
    (work / "cmdline").write_text(cmdline)
    (work / "os-release").write_text(f"ID=privml\nNAME=privml\nVARIANT_ID={name}\n")
    if kernel != work / "vmlinuz":
        (work / "vmlinuz").write_bytes(kernel.read_bytes())
    tools.run(
        [
            "ukify",
            "build",
            "--linux=vmlinuz",
            "--initrd=initrd",
            "--cmdline=@cmdline",
            "--os-release=@os-release",
            f"--uname={release}",
            "--stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
            "--output=uki.efi",
        ],
        binds=[Bind(work, "/work", writable=True)],
        chdir="/work",
        what="ukify",
        error=BuildError,
    )
    for part in ("initrd", "cmdline", "os-release"):
        (work / part).unlink()
    return work / "uki.efi"
