"""Forbid outgoing connections from the guest's services with a cgroup BPF program, before there is a TLS key.

The services run in ``system.slice``. The program on that group refuses every ``connect`` and every datagram with an
address with EPERM, whichever process uses the socket. Server and engine talk over a unix socket, so nothing needs to
be allowed, not even the loopback. TCP fast open counts as a connect. systemd has no such setting (its address filters
look at packets, so they would cut off the callers too), and seccomp cannot read addresses. The network daemon, which
must speak DHCP, is in a group of its own; it sees no prompt.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

from privml.base.errors import HostError

GROUP = "fs/cgroup/system.slice"
_BPF = 321  # x86_64, include/uapi/asm-generic/unistd.h
_PROG_LOAD, _PROG_ATTACH, _PROG_QUERY = 5, 8, 16
_CGROUP_SOCK_ADDR = 18
_ALLOW_MULTI = 2
_INSTRUCTION = struct.Struct("<BBhi")
NEVER = _INSTRUCTION.pack(0xB7, 0, 0, 0) + _INSTRUCTION.pack(0x95, 0, 0, 0)
"""r0 = 0; exit: refuse."""
HOOKS = {"connect4": 10, "connect6": 11, "sendmsg4": 14, "sendmsg6": 15}
"""Hook name -> the kernel's attach type."""

Bpf = Callable[[int, bytearray], int]
"""The bpf system call: command and attributes; the kernel may write into the attributes."""


def kernel(command: int, attributes: bytearray) -> int:
    """The bpf system call; ``OSError`` when it fails."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = int(call(_BPF, command, buffer, len(attributes)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def close_outbound(sys: Path = Path("/sys"), bpf: Bpf = kernel) -> None:
    """Attach the program to the services' group and check that it is attached; ``HostError`` when it is not."""
    try:
        group = os.open(sys / GROUP, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"outbound: no control group {GROUP}: {error.strerror}") from error
    try:
        for name, hook in HOOKS.items():
            try:
                program = _load(bpf, hook)
                try:
                    bpf(_PROG_ATTACH, bytearray(struct.pack("<IIII", group, program, hook, _ALLOW_MULTI)))
                finally:
                    os.close(program)
                if not _count(bpf, group, hook):
                    raise HostError(f"outbound: the kernel does not list the program for {name} after attaching it")
            except OSError as error:
                raise HostError(f"outbound: {name}: {error.strerror}") from error
    finally:
        os.close(group)


def _load(bpf: Bpf, hook: int) -> int:
    code = ctypes.create_string_buffer(NEVER, len(NEVER))
    license_ = ctypes.create_string_buffer(b"MIT")
    # prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name,
    # prog_ifindex, expected_attach_type
    attributes = struct.pack(
        "<IIQQIIQII16sII",
        _CGROUP_SOCK_ADDR,
        len(NEVER) // _INSTRUCTION.size,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        0,
        0,
        0,
        0,
        0,
        b"privml_outbound",
        0,
        hook,
    )
    return bpf(_PROG_LOAD, bytearray(attributes))


def _count(bpf: Bpf, group: int, hook: int) -> int:
    """Number of programs attached to this hook of the group."""
    # target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt; the kernel fills in the last one.
    ids = ctypes.create_string_buffer(64 * 4)
    attributes = bytearray(struct.pack("<IIIIQII", group, hook, 0, 0, ctypes.addressof(ids), 64, 0))
    bpf(_PROG_QUERY, attributes)
    return int(struct.unpack_from("<I", attributes, 24)[0])
