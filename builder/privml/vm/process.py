"""A long-running program of the tools tree (QEMU, swtpm): runs in the sandbox and is always stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from privml.base.errors import HostError
from privml.base.run import BASE_ENVIRONMENT
from privml.image.tools import Bind, ToolsTree
from privml.vm.unixsocket import connected


class Child:
    """A running program. ``log`` is its output; ``stop`` sends SIGTERM, then SIGKILL."""

    def __init__(
        self,
        tools: ToolsTree,
        argv: Sequence[str],
        log: Path,
        *,
        binds: Sequence[Bind] = (),
        network: bool = False,
        devices: bool = False,
    ) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                tools.command(argv, binds=binds, network=network, devices=devices),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(BASE_ENVIRONMENT),
                start_new_session=True,
                umask=0o022,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def running(self) -> bool:
        """True until it has exited."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float) -> int | None:
        """Wait for its exit; returns the status, or None on timeout."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def await_path(self, path: Path, timeout: float = 20) -> None:
        """Wait until the child has created ``path``; ``HostError`` if it exits or time runs out."""
        self.await_until(path.exists, f"did not create {path.name}", timeout)

    def connect(self, path: Path, timeout: float = 20) -> socket.socket:
        """Connect to the child's Unix socket ``path``; ``HostError`` as for ``await_path``.

        The file exists before the child listens, so refused connections are retried.
        """
        connections: list[socket.socket] = []

        def answers() -> bool:
            try:
                connections.append(connected(path))
            except OSError:
                return False
            return True

        self.await_until(answers, f"does not answer at {path.name}", timeout)
        return connections[0]

    def await_until(self, ready: Callable[[], bool], complaint: str, timeout: float) -> None:
        """Wait until ``ready``; ``HostError`` with the child's output if it exits first or time runs out."""
        end = time.monotonic() + timeout
        while not ready():
            if not self.running():
                raise HostError(f"{self.name} exited with status {self.status}\n{self.tail()}")
            if time.monotonic() > end:
                raise HostError(f"{self.name} {complaint} within {timeout:g} s\n{self.tail()}")
            time.sleep(0.05)

    def tail(self, lines: int = 30) -> str:
        """The last lines of its output."""
        text = self.log.read_bytes().decode("utf-8", "replace") if self.log.exists() else ""
        return "\n".join("  | " + line for line in text.splitlines()[-lines:])

    def kill(self) -> None:
        """Kill it at once (SIGKILL)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait(5.0)

    def stop(self) -> None:
        """Stop its whole session: SIGTERM, then SIGKILL."""
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            if not self.running():
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self.wait(patience)
