"""What `finalize` removes from the guest's root, and why; `lint` warns of overlay files that would be removed.

A pattern is a path relative to the root; `*` matches a part of one name, and everything below a match goes as well.
An engine's record adds its own patterns. What is not on `recipe.guestroot`'s lists of programs and units is removed
too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from privml.recipe import guestroot


@dataclass(frozen=True)
class Removal:
    """Patterns of removed paths with one reason, which ends the sentence "removed: ..."."""

    why: str
    patterns: tuple[str, ...]

    def takes(self, path: str) -> str | None:
        """The pattern that matches ``path`` or one of its folders; None if there is none."""
        parts = path.split("/")
        for pattern in self.patterns:
            wanted = pattern.split("/")
            if len(parts) >= len(wanted) and all(map(fnmatchcase, parts, wanted)):
                return pattern
        return None


REMOVALS = (
    Removal(
        "packages keep their state there, which differs between builds",
        (
            "etc/*-", "etc/.pwd.lock", "etc/alternatives", "etc/apt", "etc/debconf.conf", "etc/dpkg",
            "usr/lib/apt", "usr/lib/dpkg", "usr/lib/rpm", "usr/libexec/dpkg", "var/backups", "var/cache", "var/lib/*",
            "var/local", "var/lock", "var/log/*", "var/mail", "var/opt", "var/spool",
        ),
    ),
    Removal(
        "the guest has no logins, shells or terminals",
        (
            "etc/bash*", "etc/environment", "etc/inputrc", "etc/issue*", "etc/motd", "etc/pam.*", "etc/pam.conf",
            "etc/pam.d", "etc/profile*", "etc/security", "etc/shells", "etc/skel", "etc/ssh", "etc/subgid",
            "etc/subuid", "etc/terminfo", "etc/update-motd.d", "etc/vconsole.conf", "root/.*", "usr/lib/pam.d",
            "usr/lib/systemd/system/*/*getty*", "usr/lib/systemd/system/*/systemd-firstboot*",
            "usr/lib/systemd/system/*/systemd-logind*", "usr/lib/systemd/system/*getty*",
            "usr/lib/systemd/system/debug-shell*", "usr/lib/systemd/system/systemd-firstboot*",
            "usr/lib/systemd/system/systemd-logind*", "usr/lib/systemd/systemd-logind",
            "usr/lib/systemd/systemd-ssh-*", "usr/lib/systemd/systemd-sulogin-shell", "usr/lib/systemd/user",
            "usr/lib/systemd/user-*", "usr/lib/user-tmpfiles.d", "usr/lib/x86_64-linux-gnu/security",
            "etc/systemd/system/*/*getty*", "etc/systemd/system/*getty*", "etc/systemd/user", "etc/xdg",
        ),
    ),
    Removal(
        "nothing runs at a set time in the guest",
        (
            "etc/cron*", "etc/logrotate.d", "etc/systemd/system/*/*.timer", "usr/lib/systemd/system/*.timer",
            "usr/lib/systemd/system/*/*.timer",
        ),
    ),
    Removal(
        "the image's preset disables every unit, and only a unit's own Wants= or Requires= starts another",
        ("etc/systemd/system/*.requires/*", "etc/systemd/system/*.wants/*"),
    ),
    Removal(
        "kernel and initrd are made outside the root",
        (
            "boot", "efi", "etc/dracut*", "etc/initramfs-tools", "etc/kernel", "init", "usr/lib/dracut",
            "usr/lib/init", "usr/lib/initramfs-tools", "usr/lib/installkernel", "usr/lib/kernel", "usr/lib/linux*",
            "usr/lib/pcrlock.d",
        ),
    ),
    Removal(
        "units in the image do the same, from files in the measured root",
        (
            "etc/binfmt.d", "etc/credstore*", "etc/default", "etc/depmod.d", "etc/fstab", "etc/init.d",
            "etc/modprobe.d", "etc/modules", "etc/rc?.d", "etc/tmpfiles.d", "etc/udev", "usr/lib/binfmt.d",
            "usr/lib/credstore", "usr/lib/depmod.d", "usr/lib/environment.d", "usr/lib/modprobe.d",
            "usr/lib/sysctl.d", "usr/lib/systemd/system-shutdown/*", "usr/lib/systemd/system/*/ldconfig*",
            "usr/lib/systemd/system/*/systemd-hwdb-update*",
            "usr/lib/systemd/system/*/systemd-journal-catalog-update*",
            "usr/lib/systemd/system/*/systemd-update-done*", "usr/lib/tmpfiles.d", "usr/lib/udev",
        ),
    ),
    Removal(
        "the guest's programs do not read it",
        (
            "etc/bindresvport.blacklist", "etc/debian_version", "etc/ethertypes", "etc/gai.conf", "etc/host.conf",
            "etc/ld.so.conf*", "etc/libaudit.conf", "etc/locale.conf", "etc/localtime", "etc/mime.types",
            "etc/networks", "etc/opt", "etc/protocols", "etc/python3*", "etc/rmt", "etc/rpc", "etc/services",
            "etc/wgetrc", "etc/xattr.conf", "lib32", "libx32", "usr/games", "usr/include", "usr/lib/lsb",
            "usr/lib/mime", "usr/lib/python3/dist-packages/bcrypt*", "usr/lib/ssl/misc", "usr/lib/tc",
            "usr/lib/valgrind", "usr/lib/x86_64-linux-gnu/engines-3", "usr/lib/x86_64-linux-gnu/gconv",
            "usr/lib/x86_64-linux-gnu/libsystemd-core-*-none", "usr/lib/x86_64-linux-gnu/perl*", "usr/lib32",
            "usr/libexec/coreutils", "usr/libexec/libselinux", "usr/libx32", "usr/share", "usr/src",
        ),
    ),
    Removal("a path of the machine's owner, who has none in a guest", (
        "home", "media", "mnt", "opt", "srv", "usr/local",
    )),
)  # fmt: skip

_WRITTEN = frozenset({"etc/hostname", "etc/mtab", "etc/resolv.conf"})


def lost(path: str, programs: frozenset[str]) -> str | None:
    """Why an overlay file at ``path`` will not be in the image; None if it will.

    ``programs`` are the names that may be in ``/usr/bin`` and ``/usr/sbin``.
    """
    for removal in REMOVALS:
        if (pattern := removal.takes(path)) is not None:
            return f"`{pattern}` is removed: {removal.why}"
    folder, _, name = path.rpartition("/")
    if folder in ("usr/bin", "usr/sbin") and name not in programs:
        return "it is not on the list of programs"
    parts = path.split("/")
    if parts[:3] == ["usr", "lib", "systemd"] and len(parts) > 3 and parts[3] not in guestroot.SYSTEMD:
        return f"`usr/lib/systemd/{parts[3]}` is not on the list of systemd's parts"
    if path in _WRITTEN:
        return "the build writes this file itself"
    if bad := next((bad for bad in guestroot.FORBIDDEN if fnmatchcase(name, bad)), None):
        return f"names like `{bad}` are forbidden"
    return None
