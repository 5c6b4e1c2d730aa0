"""Keys in the kernel's keyring, so that dm-crypt gets them without being shown to any program.

A key of type `logon` can be used by the kernel, and read by nobody. It is added to this process's session keyring,
which systemd makes for each unit (`KeyringMode=private`) and which the programs that the process starts share. The
kernel looks there when dmsetup loads the table, and dm-crypt makes its own copy.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator

from privml.base.errors import HostError

_ADD_KEY, _KEYCTL = 248, 250  # x86_64, arch/x86/entry/syscalls/syscall_64.tbl
_UNLINK = 9  # include/uapi/linux/keyctl.h
_SESSION_KEYRING = -3

Call = Callable[..., int]
"""A system call: its number and arguments; ``OSError`` when it fails."""


def kernel(number: int, *arguments: object) -> int:
    """A system call; ``OSError`` when it fails."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    result = int(call(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


@contextlib.contextmanager
def logon_key(description: str, key: bytes, call: Call = kernel) -> Iterator[None]:
    """Have ``key`` in the session keyring for as long as the context lasts; ``HostError`` if the kernel refuses it.

    The part of ``description`` before the colon is required by the kernel.
    """
    payload = ctypes.create_string_buffer(key, len(key))
    keyring = ctypes.c_long(_SESSION_KEYRING)
    try:
        number = call(_ADD_KEY, b"logon", description.encode(), payload, ctypes.c_size_t(len(key)), keyring)
    except OSError as error:
        raise HostError(f"keyring: the kernel did not take the key {description}: {error.strerror}") from error
    finally:
        ctypes.memset(payload, 0, len(key))
    try:
        yield
    finally:
        call(_KEYCTL, ctypes.c_long(_UNLINK), ctypes.c_long(number), keyring)
