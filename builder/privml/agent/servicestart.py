"""Start the image's own services, and notice when one that is required ends."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from privml.agent.layout import Layout
from privml.agent.process import Process
from privml.base.errors import HostError
from privml.events.configuration import Service

_PAUSE = 0.05


class OwnServices:
    """The services of this machine. ``process`` has the one of a name, ``wait`` bounds each start in seconds."""

    def __init__(self, layout: Layout, process: Callable[[str], Process], *, wait: float) -> None:
        self._layout = layout
        self._process = process
        self._wait = wait
        self._required: dict[str, Process] = {}

    def start(self, service: Service) -> bool:
        """Start a service, and wait until it accepts connections.

        False if it does not; ``HostError`` then if it is required.
        """
        process = self._process(service.name)
        process.start()
        listens = self._listens(service.name, process)
        if service.required:
            if not listens:
                raise HostError(f"services: {service.name} does not listen on its socket")
            self._required[service.name] = process
        return listens

    def ended(self) -> str:
        """The name of a required service that has ended; empty if all run."""
        return next((name for name, process in self._required.items() if not process.alive()), "")

    def _listens(self, name: str, process: Process) -> bool:
        """Wait until the service accepts connections; False if it ends first, or takes too long."""
        end = time.monotonic() + self._wait
        while time.monotonic() < end:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(self._layout.service_socket(name)))
                return True
            if not process.alive():
                return False
            time.sleep(_PAUSE)
        return False
