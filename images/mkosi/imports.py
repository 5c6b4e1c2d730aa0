"""Import modules of Python wheels as the guest would, and refuse every program that they start but for a few.

Runs in the guest's Python and root, in a sandbox without a network: argv has the programs that may run, by their paths
and separated by colons, and the module. The kernel asks the first process about each program that the second, or what
it starts, wants to execute (seccomp_unotify(2)), so native code is watched too. Ends with the status of the import;
the last lines of its errors name what was refused: `refused: PATH`.
"""

import ctypes
import fcntl
import importlib
import os
import select
import socket
import struct
import sys

allowed, module = set(sys.argv[1].split(":")), sys.argv[2]
# linux/seccomp.h, linux/filter.h, asm/unistd_64.h
SECCOMP, SET_MODE_FILTER, NEW_LISTENER, NO_NEW_PRIVS = 317, 1, 8, 38
RECEIVE, SEND, CONTINUE = 0xC0502100, 0xC0182101, 1
EXECVE, EXECVEAT, X86_64 = 59, 322, 0xC000003E
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
KILL, NOTIFY, ALLOW = 0x80000000, 0x7FC00000, 0x7FFF0000
ENOENT, EACCES, PAGE = 2, 13, 4096
FILTER = (
    (LOAD, 0, 0, 4), (EQUAL, 1, 0, X86_64), (RETURN, 0, 0, KILL),
    (LOAD, 0, 0, 0), (EQUAL, 1, 0, EXECVE), (EQUAL, 0, 1, EXECVEAT), (RETURN, 0, 0, NOTIFY), (RETURN, 0, 0, ALLOW),
)
libc = ctypes.CDLL(None, use_errno=True)


def watched(to: socket.socket) -> None:
    """Let the other process decide about every program that this one starts from now on."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in FILTER))
    program = ctypes.create_string_buffer(struct.pack("H6xQ", len(FILTER), ctypes.addressof(code)))
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = libc.syscall(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, program)
    if listener < 0:
        sys.exit(f"programs cannot be watched here: seccomp: {os.strerror(ctypes.get_errno())}")
    socket.send_fds(to, [b"x"], [listener])
    os.close(listener)


def text_of(pid: int, address: int) -> str:
    """The path at ``address`` of a process that waits; `?` if it cannot be read."""
    buffer = ctypes.create_string_buffer(PAGE)
    size = PAGE - address % PAGE  # the next page may not be there
    found = b""
    while b"\0" not in found and len(found) < PAGE:
        here = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), size)
        there = (ctypes.c_uint64 * 2)(address + len(found), size)
        one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
        got = libc.process_vm_readv(pid, here, one, there, one, none)
        if got <= 0:
            return "?"
        found, size = found + buffer.raw[:got], PAGE
    return found.partition(b"\0")[0].decode(errors="replace")


def decide(listener: int, refused: list[str]) -> None:
    """Answer one question; the path is compared once, and what is started then is a file of the read-only root."""
    notice = bytearray(80)
    try:
        fcntl.ioctl(listener, RECEIVE, notice)
        number, pid, call, first, second = struct.unpack_from("QI4xi12xQQ", notice)
        name = text_of(pid, second if call == EXECVEAT else first)
        if name in allowed:
            error, flags = 0, CONTINUE
        else:
            refused.append(name)
            error, flags = -EACCES if os.path.exists(name) else -ENOENT, 0  # as in the guest, where it can
        fcntl.ioctl(listener, SEND, bytearray(struct.pack("QqiI", number, 0, error, flags)))
    except FileNotFoundError:
        pass  # it ended while it waited


for place in {os.environ.get(name, "/tmp") for name in ("HOME", "TMPDIR")}:
    os.makedirs(place, exist_ok=True)
mine, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    mine.close()
    watched(theirs)
    theirs.close()
    importlib.import_module(module)
    sys.exit(0)
theirs.close()
_, fds, _, _ = socket.recv_fds(mine, 1, 1)
refused: list[str] = []
poll = select.poll()
ended = os.pidfd_open(child)
for descriptor in (*fds, ended):
    poll.register(descriptor, select.POLLIN)
while True:
    ready = dict(poll.poll())
    if fds and ready.get(fds[0], 0) & select.POLLIN:
        decide(fds[0], refused)
    elif ended in ready:
        break
    else:
        poll.unregister(fds[0])  # nothing is watched any more
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
for name in dict.fromkeys(refused):
    print(f"refused: {name}", file=sys.stderr)
sys.stderr.flush()
os._exit(status if status >= 0 else 128 - status)
