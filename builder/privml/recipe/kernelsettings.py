"""Kernel settings that a recipe may have: sysctls, words of the kernel command line, and kernel modules.

Each table is an allow-list with the type of each value. Any other setting needs an entry in the recipe's
`exceptions`, and those in `NEVER` are refused even then: our own settings, and what opens the guest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

SYSCTL = "sysctl"
OPTION = "kernel-option"
MODULE = "kernel-module"


@dataclass(frozen=True)
class Number:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"a number from {self.low} to {self.high}"

    def fits(self, value: str) -> bool:
        """Whether ``value`` is such a number."""
        return re.fullmatch(r"0|[1-9][0-9]{0,14}", value) is not None and self.low <= int(value) <= self.high


@dataclass(frozen=True)
class Word:
    """One of a few words; the empty word stands for an option without a value."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return " or ".join(word or "no value" for word in self.words)

    def fits(self, value: str) -> bool:
        """Whether ``value`` is one of them."""
        return value in self.words


_FLAG = Word(("",))
_COUNT = Number(1, 1 << 31)
SYSCTLS = {
    "fs.aio-max-nr": _COUNT,
    "fs.file-max": _COUNT,
    "fs.inotify.max_user_instances": _COUNT,
    "fs.inotify.max_user_watches": _COUNT,
    "fs.nr_open": Number(1024, 1 << 30),
    "kernel.pid_max": Number(1024, 4194304),
    "kernel.threads-max": Number(1024, 1 << 22),
    "net.core.netdev_max_backlog": _COUNT,
    "net.core.rmem_default": _COUNT,
    "net.core.rmem_max": _COUNT,
    "net.core.somaxconn": Number(1, 65535),
    "net.core.wmem_default": _COUNT,
    "net.core.wmem_max": _COUNT,
    "net.ipv4.tcp_fin_timeout": Number(1, 600),
    "net.ipv4.tcp_keepalive_intvl": Number(1, 3600),
    "net.ipv4.tcp_keepalive_probes": Number(1, 100),
    "net.ipv4.tcp_keepalive_time": Number(1, 86400),
    "net.ipv4.tcp_max_syn_backlog": _COUNT,
    "net.ipv4.tcp_slow_start_after_idle": Number(0, 1),
    "vm.dirty_background_ratio": Number(0, 100),
    "vm.dirty_ratio": Number(0, 100),
    "vm.max_map_count": Number(65530, 1 << 30),
    "vm.min_free_kbytes": _COUNT,
    "vm.nr_hugepages": Number(0, 1 << 24),
    "vm.overcommit_memory": Number(0, 2),
    "vm.overcommit_ratio": Number(0, 100),
    "vm.swappiness": Number(0, 200),
    "vm.vfs_cache_pressure": Number(0, 1000),
    "vm.zone_reclaim_mode": Number(0, 7),
}
OPTIONS: dict[str, Number | Word] = {
    "hugepages": Number(0, 1 << 24),
    "hugepagesz": Word(("2M", "1G")),
    "default_hugepagesz": Word(("2M", "1G")),
    "idle": Word(("poll", "halt", "nomwait")),
    "init_on_alloc": Word(("1",)),
    "init_on_free": Word(("1",)),
    "mitigations": Word(("auto", "auto,nosmt")),
    "nosmt": Word(("", "force")),
    "numa_balancing": Word(("enable", "disable")),
    "page_alloc.shuffle": Word(("1",)),
    "preempt": Word(("none", "voluntary", "full", "lazy")),
    "randomize_kstack_offset": Word(("on",)),
    "slab_nomerge": _FLAG,
    "swiotlb": Number(1, 1 << 24),
    "threadirqs": _FLAG,
    "transparent_hugepage": Word(("always", "madvise", "never")),
    "vsyscall": Word(("none",)),
}
MODULES = (
    "aesni_intel",
    "ghash_clmulni_intel",
    "loop",
    "overlay",
    "sch_fq",
    "sch_fq_codel",
    "squashfs",
    "tcp_bbr",
    "zram",
)


@dataclass(frozen=True)
class Never:
    """Settings of one kind for which no exception exists, by pattern of their names, and why."""

    kind: str
    why: str
    patterns: tuple[str, ...]


_CONNECTIONS = "no connection begins in the guest (ADR 0012)"
_OURS = "the guest's own settings are the same in every image"
_START = "it can start another program or a shell"
_ENTROPY = "keys come from the kernel's random numbers"
NEVER = (
    Never(OPTION, _OURS, (
        "console*", "lockdown", "loglevel", "nohibernate", "oops", "panic*", "privml.*", "quiet", "sysctl.*",
        "systemd.*",
    )),
    Never(OPTION, _START, (
        "-*", "[0-9s]", "auto", "bootconfig", "emergency", "init", "initrd*", "rd.*", "rdinit", "resume*", "ro",
        "root*", "rw", "single", "udev.*",
    )),
    Never(OPTION, "it lets code or a debugger into the kernel, or its data out", (
        "acpi*", "crashkernel", "dm-mod.*", "dm_verity.*", "earlycon*", "earlyprintk*", "efi*", "evm*", "ftrace*",
        "ima*", "kdb*", "kexec*", "kgdb*", "lsm*", "mem", "memmap*", "module.*", "security", "trace*",
    )),
    Never(OPTION, _CONNECTIONS, ("ip", "ipv6.*", "mptcp*", "net.*", "netconsole*", "nfs*")),
    Never(OPTION, _ENTROPY, ("random.*", "rng*")),
    Never(OPTION, "it is a part of the TEE or of a GPU", ("cc*", "mem_encrypt*", "nvidia*", "sev*", "tdx*", "tsm*")),
    Never(SYSCTL, _OURS, (
        "dev.*", "fs.protected_*", "fs.suid_dumpable", "kernel.core_*", "kernel.dmesg_restrict", "kernel.io_uring*",
        "kernel.kexec*", "kernel.kptr_restrict", "kernel.modules_disabled", "kernel.perf_event*", "kernel.sysrq*",
        "kernel.unprivileged_*", "kernel.yama.*",
    )),
    Never(SYSCTL, _CONNECTIONS, ("net.ipv4.conf.*", "net.ipv4.ip_*", "net.ipv6.*", "net.mptcp.*", "net.vsock.*")),
    Never(SYSCTL, _START, (
        "fs.binfmt*", "kernel.hotplug", "kernel.modprobe*", "kernel.poweroff_cmd", "kernel.usermodehelper*",
    )),
    Never(SYSCTL, "it lets code or a debugger into the kernel, or its data out", (
        "kernel.bpf*", "kernel.ftrace*", "kernel.panic*", "kernel.printk*", "net.core.bpf*",
    )),
    Never(SYSCTL, _ENTROPY, ("kernel.keys*", "kernel.random.*")),
    Never(MODULE, _CONNECTIONS, (
        "*vsock*", "9p*", "bridge", "ceph", "cifs", "hv_sock", "ip_tunnel", "ipip", "iscsi*", "macvlan", "mptcp*",
        "nbd", "netconsole", "nfs*", "ppp*", "rbd", "sctp", "sit", "slip*", "tap", "tun", "usbip*", "veth", "vhost*",
        "virtiofs", "vmw_*", "vxlan", "wireguard",
    )),
    Never(MODULE, "it is a part of the TEE or of a GPU", (
        "amdgpu", "i915", "nouveau", "nvidia*", "sev*", "tdx*", "tsm*", "vfio*", "xe",
    )),
)  # fmt: skip


def never(kind: str, name: str) -> str | None:
    """Why no exception exists for the setting ``name``; None if one may."""
    patterns = ((each.why, pattern) for each in NEVER if each.kind == kind for pattern in each.patterns)
    return next((why for why, pattern in patterns if fnmatchcase(name, pattern)), None)


def module_name(text: str) -> str:
    """The kernel's spelling of a module's name."""
    return text.replace("-", "_")
