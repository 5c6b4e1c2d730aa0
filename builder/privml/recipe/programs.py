"""Programs that a recipe may keep in /usr/bin: never a shell or a way to become another user, and with an exception
those that can run other programs.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from privml.recipe import guestroot

PROGRAM = "program"
SHELLS = (
    "csh", "elvish", "fish", "lksh", "loksh", "mksh", "nu", "oksh", "posh", "pwsh", "rbash", "rzsh", "sash",
    "static-sh", "tcsh", "toybox", "xonsh", "yash",
)  # fmt: skip
SET_ID = (
    "chage", "chfn", "chsh", "doas", "expiry", "fusermount*", "gpasswd", "newgidmap", "newgrp", "newuidmap", "passwd",
    "pkexec", "ping*", "runuser", "sg", "unix_chkpwd", "wall", "write",
)  # fmt: skip
RUN_OTHERS = frozenset({
    "at", "awk", "batch", "bwrap", "chroot", "chrt", "cpulimit", "dbus-daemon", "ed", "emacs", "env", "ex", "expect",
    "find", "flock", "gawk", "git", "guile", "ionice", "java", "ld.so", "linux32", "linux64", "lua", "make", "mawk",
    "nano", "nawk", "nice", "nohup", "node", "nodejs", "nsenter", "original-awk", "parallel", "php", "prlimit",
    "pypy3", "rsync", "ruby", "run-parts", "runcon", "script", "sed", "setarch", "setpriv", "setsid", "setuidgid",
    "start-stop-daemon", "stdbuf", "systemd-nspawn", "systemd-run", "tar", "taskset", "tclsh", "time", "timeout",
    "tini", "uclampset", "unshare", "vi", "vim", "watch", "xargs",
})  # fmt: skip
"""Programs that start others by their arguments or input, apart from Python, which every guest has."""


def never(name: str) -> str | None:
    """Why no recipe may keep the program ``name``; None if one may."""
    if any(fnmatchcase(name, each) for each in (*guestroot.FORBIDDEN, *SHELLS)):
        return "there is no shell, no login and no tool for connections or debugging in the guest (ADR 0011)"
    if any(fnmatchcase(name, each) for each in SET_ID):
        return "no program in the guest has a set-id bit"
    return None


def runs_others(name: str) -> bool:
    """Whether the program can start others, at any version in its name."""
    return name in RUN_OTHERS or name.rstrip("0123456789.") in RUN_OTHERS
