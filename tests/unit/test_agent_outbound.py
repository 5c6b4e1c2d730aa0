"""The filter against connections from the guest: its BPF program, and the error on a kernel that cannot load it."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import pytest

from privml.agent import outbound
from privml.base.errors import HostError


def test_the_bpf_program_always_refuses() -> None:
    assert list(struct.iter_unpack("<BBhi", outbound.NEVER)) == [(0xB7, 0, 0, 0), (0x95, 0, 0, 0)]  # r0 = 0; exit


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
    assert kernel.loaded == [(hook, outbound.NEVER) for hook in outbound.HOOKS.values()]
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
