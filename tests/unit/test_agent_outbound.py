"""The filter against connections from the guest: its BPF program, and the error on a kernel that cannot load it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path

import pytest

from privml.agent import outbound
from privml.base.errors import HostError

GUEST, OWN = 1, 4711
"""Cookies of networks: the guest's, and one of an engine."""


def result(program: bytes, address: str, network: int) -> int:
    """Interpret ``program`` for a connection to ``address`` from a socket in ``network``; 1 allows it."""
    code = list(struct.iter_unpack("<BBhi", program))
    context = object()
    registers: list[object] = [None] * 11
    registers[1] = context
    position = 0
    while True:
        opcode, both, offset, constant = code[position]
        target, source = both & 15, both >> 4
        position += 1
        match opcode:
            case 0xB7:
                registers[target] = constant
            case 0xBF:
                registers[target] = registers[source]
            case 0x61:
                assert registers[source] is context
                assert offset == 4
                registers[target] = int.from_bytes(socket.inet_aton(address), "little")
            case 0x57:
                registers[target] = int(str(registers[target])) & constant
            case 0x55:
                position += offset if registers[target] != constant else 0
            case 0x1D:
                position += offset if registers[target] == registers[source] else 0
            case 0x85:
                assert constant == 122
                registers[0] = network if registers[1] is context else GUEST
                registers[1:6] = [None] * 5  # as the kernel leaves them
            case 0x95:
                return int(str(registers[0]))
            case _:
                raise AssertionError(f"opcode {opcode:#x}")


def test_only_the_loopback_of_another_network_is_allowed() -> None:
    hooks = {name: outbound.PROGRAMS.get(name, outbound.NEVER) for name in outbound.HOOKS}
    addresses = ("127.0.0.1", "127.255.255.254", "126.255.255.255", "128.0.0.1", "1.0.0.127", "10.0.2.2", "0.0.0.0")
    allowed = {
        (name, address, network)
        for name, program in hooks.items()
        for address in addresses
        for network in (GUEST, OWN)
        if result(program, address, network)
    }
    assert allowed == {("connect4", "127.0.0.1", OWN), ("connect4", "127.255.255.254", OWN)}


class Kernel:
    """A model of bpf(2): programs are file descriptors, and a cgroup has programs at hooks."""

    def __init__(self, *, refuses: int | None = None, forgets: bool = False) -> None:
        self.refuses, self.forgets = refuses, forgets
        self.loaded: list[tuple[int, bytes]] = []
        self.attached: dict[int, int] = {}

    def __call__(self, command: int, attributes: bytearray) -> int:
        if command == self.refuses:
            raise PermissionError(1, "Operation not permitted")
        if command == 5:
            kind, count, code, licence = struct.unpack_from("<IIQQ", attributes)
            assert kind == 18
            assert ctypes.string_at(licence) == b"MIT"
            self.loaded.append((struct.unpack_from("<I", attributes, 68)[0], ctypes.string_at(code, count * 8)))
            return os.open("/dev/null", os.O_RDONLY)
        group, *_ = struct.unpack_from("<I", attributes)
        assert os.readlink(f"/proc/self/fd/{group}").endswith("system.slice")
        if command == 8:
            _, _, hook, flags = struct.unpack("<IIII", attributes)
            assert flags == 2
            self.attached[hook] = 1
        else:
            (hook,) = struct.unpack_from("<I", attributes, 4)
            struct.pack_into("<I", attributes, 24, 0 if self.forgets else self.attached.get(hook, 0))
        return 0


@pytest.fixture
def sys_tree(tmp_path: Path) -> Path:
    (tmp_path / outbound.GROUP).mkdir(parents=True)
    return tmp_path


def test_every_hook_gets_the_program_and_no_descriptor_leaks(sys_tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    kernel = Kernel()
    outbound.close_outbound(sys_tree, kernel)
    programs = [outbound.OWN_LOOPBACK, *[outbound.NEVER] * 3]
    assert kernel.loaded == list(zip(outbound.HOOKS.values(), programs, strict=True))
    assert set(kernel.attached) == {10, 11, 14, 15}
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        (Kernel(refuses=5), "connect4: Operation not permitted"),
        (Kernel(refuses=8), "connect4: Operation not permitted"),
        (Kernel(refuses=16), "connect4: Operation not permitted"),
        (Kernel(forgets=True), "does not list the program for connect4"),
    ],
)
def test_a_kernel_without_cgroup_bpf_is_an_error(sys_tree: Path, kernel: Kernel, text: str) -> None:
    with pytest.raises(HostError, match=text):
        outbound.close_outbound(sys_tree, kernel)


def test_a_missing_cgroup_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no control group fs/cgroup/system\.slice"):
        outbound.close_outbound(tmp_path, Kernel())
