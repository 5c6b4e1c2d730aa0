"""Which Debian packages a recipe's guest is made of."""

from __future__ import annotations

from privml.engines.registry import engine_named
from privml.recipe.loader import Recipe

# apt is Essential to itself alone; a guest has no use for a package manager.
ESSENTIAL = ("?and(?essential,?not(?exact-name(apt)))", "base-files")
SYSTEM = (
    "systemd",
    "systemd-sysv",
    "udev",
    # systemd only recommends it, and runs it for every mount unit.
    "mount",
    "kmod",
    "dmsetup",
    # systemd loads it at run time, and without it silently leaves out the system call filters of our units.
    "libseccomp2",
)
INITRD = ("busybox-static",)
AGENT = ("python3-minimal", "libpython3-stdlib", "python3-cryptography", "python3-h11")

# Packages that give a way in, or change what runs; a production recipe's closure may not hold them.
FORBIDDEN_IN_PRODUCTION = (
    "apt",
    "cloud-init",
    "dracut",
    "gdb",
    "initramfs-tools",
    "openssh-server",
    "ovmf-generic",
    "qemu-guest-agent",
    "strace",
    "sudo",
    "swtpm",
)


def guest_packages(recipe: Recipe) -> tuple[str, ...]:
    """What to ask apt for; the kernel's metapackage is narrowed to its parts when the lock is made."""
    inference = recipe.content.inference
    engine = () if inference is None else engine_named(inference.engine).packages
    return (*ESSENTIAL, *SYSTEM, *INITRD, *AGENT, *engine, recipe.content.kernel.package)


def firmware_packages(recipe: Recipe) -> tuple[str, ...]:
    """The package that the firmware file is taken from; nothing of it enters the guest."""
    return (recipe.content.firmware.package,)
