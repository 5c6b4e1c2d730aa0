"""Waiting for a child's socket: it may exist before the child listens, and the child may have ended."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from privml.base.errors import HostError
from privml.vm.process import Child

SERVER = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
time.sleep(0.4)
listener.listen()
connection, _ = listener.accept()
connection.sendall(b"hello")
time.sleep(60)
"""


@pytest.fixture
def bare() -> Any:
    """A tools tree without a sandbox."""
    return SimpleNamespace(command=lambda argv, **_: list(argv))


@pytest.fixture
def children() -> Iterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        child.stop()


def start(bare: Any, children: list[Child], tmp_path: Path, words: Sequence[str]) -> Child:
    children.append(Child(bare, [sys.executable, "-c", *words], tmp_path / "log"))
    return children[-1]


def test_a_socket_without_a_listener_is_waited_for(bare: Any, children: list[Child], tmp_path: Path) -> None:
    child = start(bare, children, tmp_path, [SERVER, str(tmp_path / "s")])
    child.await_path(tmp_path / "s")
    with child.connect(tmp_path / "s") as connection:
        connection.settimeout(20)
        assert connection.recv(5) == b"hello"


def test_a_child_that_exited_is_reported_with_its_output(bare: Any, children: list[Child], tmp_path: Path) -> None:
    child = start(bare, children, tmp_path, ["import sys; sys.exit('no such machine')"])
    with pytest.raises(HostError, match="exited with status 1\n  \\| no such machine"):
        child.connect(tmp_path / "s")


def test_a_child_that_never_listens_is_an_error(bare: Any, children: list[Child], tmp_path: Path) -> None:
    child = start(bare, children, tmp_path, ["import time; time.sleep(60)"])
    with pytest.raises(HostError, match=r"does not answer at s within 0\.2 s"):
        child.connect(tmp_path / "s", timeout=0.2)


FAR = """
import os, socket, sys, time
os.chdir(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind("s")
listener.listen()
connection, _ = listener.accept()
connection.sendall(b"hello")
time.sleep(60)
"""


def test_a_socket_may_be_at_a_longer_path_than_the_kernel_takes(
    bare: Any, children: list[Child], tmp_path: Path
) -> None:
    """As below a long TMPDIR: QEMU sees a short path in its sandbox, and we do not."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    child = start(bare, children, tmp_path, [FAR, str(folder)])
    with child.connect(folder / "s") as connection:
        connection.settimeout(20)
        assert connection.recv(5) == b"hello"
