"""Forbid outgoing connections from the guest's services with a cgroup BPF program, before there is a TLS key.

The services run in ``system.slice``. The programs on that group refuse every ``connect`` and every datagram with an
address with EPERM, whichever process uses the socket. Server and engine talk over a unix socket, so in the guest's
network nothing needs to be allowed, not even the loopback. In a network of its own, which has no other device, a
process may connect to 127.0.0.0/8: processes of an engine that share a model find each other so. TCP fast open
counts as a connect. systemd has no such setting (its address filters look at packets, so they would cut off the
callers too), and seccomp cannot read addresses. The network daemon, which must speak DHCP, is in a group of its own;
it sees no prompt.
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
_NETNS_COOKIE = 122  # bpf_get_netns_cookie: of the socket's network, or with NULL of the guest's


def _program(*instructions: tuple[int, int, int, int]) -> bytes:
    """A BPF program of (opcode, registers: source << 4 | target, offset, constant)."""
    return b"".join(_INSTRUCTION.pack(*each) for each in instructions)


NEVER = _program((0xB7, 0x00, 0, 0), (0x95, 0, 0, 0))
"""r0 = 0; exit: refuse."""
OWN_LOOPBACK = _program(
    (0xBF, 0x16, 0, 0),  # r6 = r1, the context
    (0x61, 0x62, 4, 0),  # r2 = the address, its first byte lowest
    (0x57, 0x02, 0, 0xFF),
    (0x55, 0x02, 7, 127),  # not 127.0.0.0/8: refuse
    (0x85, 0x00, 0, _NETNS_COOKIE),
    (0xBF, 0x07, 0, 0),  # r7 = the socket's network
    (0xB7, 0x01, 0, 0),
    (0x85, 0x00, 0, _NETNS_COOKIE),
    (0x1D, 0x70, 2, 0),  # it is the guest's: refuse
    (0xB7, 0x00, 0, 1),
    (0x95, 0x00, 0, 0),
    (0xB7, 0x00, 0, 0),
    (0x95, 0x00, 0, 0),
)
"""Allow a connection to the loopback of a network that is not the guest's; refuse every other."""
HOOKS = {"connect4": 10, "connect6": 11, "sendmsg4": 14, "sendmsg6": 15}
"""Hook name -> the kernel's attach type."""
PROGRAMS = {"connect4": OWN_LOOPBACK}
"""Hook name -> its program, where that is not ``NEVER``."""

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
    """Attach the programs to the services' group and check that they are; ``HostError`` when one is not."""
    try:
        group = os.open(sys / GROUP, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"outbound: no control group {GROUP}: {error.strerror}") from error
    try:
        for name, hook in HOOKS.items():
            try:
                program = _load(bpf, hook, PROGRAMS.get(name, NEVER))
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


def _load(bpf: Bpf, hook: int, program: bytes) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"MIT")
    # prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name,
    # prog_ifindex, expected_attach_type
    attributes = struct.pack(
        "<IIQQIIQII16sII",
        _CGROUP_SOCK_ADDR,
        len(program) // _INSTRUCTION.size,
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
