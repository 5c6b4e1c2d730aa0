"""A real engine's process on this machine, as the boot of a guest starts and watches it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from privml.base.errors import HostError
from privml.engines.engine import Engine


class EngineProcess:
    """An engine with ``folder`` as its directory and ``place`` as its working directory, or this process's own.

    It and all that it starts run on the ``processors``, or on those of this process.
    """

    def __init__(
        self,
        record: Engine,
        folder: Path,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        place: Path | None = None,
        processors: Collection[int] = (),
    ) -> None:
        self.argv, self.environment = list(argv), environment
        self.socket, self.log = folder / record.socket_name, folder / "engine.log"
        self._place, self._processors = place, processors
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it says goes to a file."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self._place, start_new_session=True,
            )  # fmt: skip
        if self._processors:
            os.sched_setaffinity(self._process.pid, self._processors)

    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it with all its processes."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self._process.pid, number)
                self._process.wait(20)

    def said(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def processor_time(self) -> float:
        """Seconds of processor time of all its processes."""
        assert self._process is not None
        ticks = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self._process.pid:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until its processes compute nothing for two seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = self.processor_time()
            time.sleep(2)
            if self.processor_time() - before < 0.4:
                return
        raise HostError(f"the engine still computes after {seconds:g} s")
