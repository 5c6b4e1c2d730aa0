"""Whether this process can make the namespaces that every program of a tools tree runs in."""

from __future__ import annotations

import os
import sys

from privml.base.errors import HostError
from privml.base.run import run

_PIVOT = "pivot_root"
# The test includes mount(2): where AppArmor restricts it, a user namespace can be created but not used. It includes
# pivot_root(2), which docker's seccomp profile forbids even with CAP_SYS_ADMIN. Other errors than EPERM mean that the
# root is an initramfs, which mkosi's sandbox can leave.
_TRIAL = f"""
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
flags = 0x20000 | (0 if os.geteuid() == 0 else 0x10000000)
if libc.unshare(flags) or libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None):
    sys.exit(os.strerror(ctypes.get_errno()))
if libc.mount(b"none", b"/proc", b"tmpfs", 0, None):
    sys.exit(os.strerror(ctypes.get_errno()))
os.chdir("/proc")
if libc.{_PIVOT}(b".", b".") and ctypes.get_errno() == errno.EPERM:
    sys.exit("{_PIVOT}: " + os.strerror(errno.EPERM))
"""


def problem() -> str:
    """Why a build cannot create its namespaces; empty if it can."""
    done = run([sys.executable, "-I", "-c", _TRIAL], check=False, what="testing namespaces")
    return "" if done.returncode == 0 else done.stderr.decode("utf-8", "replace").strip() or "unknown"


def words(problem: str, *, root: bool) -> tuple[str, str]:
    """``problem`` as a sentence, and what to do."""
    if problem.startswith(_PIVOT):
        text = f"namespaces do not work: {problem}"
        return text, f"allow {_PIVOT} in this container's seccomp profile (docker: --security-opt seccomp=unconfined)"
    if root:
        return f"root, namespaces do not work: {problem}", "run outside this container, or give it CAP_SYS_ADMIN"
    remedy = "allow user namespaces (sysctl user.max_user_namespaces), or be root"
    return f"not root, namespaces do not work: {problem}", remedy


def require() -> None:
    """Raise ``HostError`` if a build cannot create its namespaces."""
    if found := problem():
        text, remedy = words(found, root=os.geteuid() == 0)
        raise HostError(f"userns: {text}", hint=remedy)
