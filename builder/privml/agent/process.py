"""The processes that the boot process starts and watches."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from privml.agent.volume import command


class Process(Protocol):
    """How to start a service and check that it runs."""

    def start(self) -> None:
        """Start it; the caller waits until it is ready."""

    def alive(self) -> bool:
        """False once its processes have exited."""


class Restartable(Process, Protocol):
    """A process that may be started again."""

    def stop(self) -> None:
        """End what is left of it, and remove its directory, its socket and its shared memory."""


class Unit:
    """A systemd unit, which gives its program a user and a sandbox of its own."""

    def __init__(self, name: str, sys: Path = Path("/sys")) -> None:
        self._name = name
        self._events = sys / "fs" / "cgroup" / "system.slice" / name / "cgroup.events"

    def start(self) -> None:
        """Start the unit."""
        command(["systemctl", "start", self._name])

    def stop(self) -> None:
        """Stop the unit: systemd kills its control group and removes its runtime directory."""
        command(["systemctl", "stop", self._name])

    def alive(self) -> bool:
        """Whether the unit's control group holds a process; read from the cgroup file, without calling systemctl."""
        try:
            return "populated 1" in self._events.read_text().splitlines()
        except OSError:
            return False
