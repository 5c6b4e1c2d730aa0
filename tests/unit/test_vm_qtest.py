"""The connection to QEMU's qtest socket, which exists before QEMU listens on it."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from privml.base.errors import HostError
from privml.vm.process import Child
from privml.vm.qtest import _Qtest


class Program(Child):
    """A fake child that reports to be running or to have ended."""

    def __init__(self, log: Path, *, runs: bool) -> None:
        self.name, self.log, self._runs = "qemu", log, runs

    def running(self) -> bool:
        return self._runs

    @property
    def status(self) -> int | None:
        return None if self._runs else 1


def test_a_created_socket_without_a_listener_is_waited_for(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))

    def late() -> None:
        time.sleep(0.2)
        server.listen()
        connection, _ = server.accept()
        connection.recv(100)
        connection.sendall(b"OK 0x7\n")
        connection.close()

    thread = threading.Thread(target=late)
    thread.start()
    qtest = _Qtest(tmp_path / "s", Program(tmp_path / "log", runs=True))
    assert qtest.command("inl 0") == "0x7"
    qtest.close()
    thread.join()
    server.close()


def test_an_ended_qemu_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"no such shape\n")
    with pytest.raises(HostError, match=r"exited with status 1\n.*no such shape"):
        _Qtest(tmp_path / "s", Program(tmp_path / "log", runs=False))
