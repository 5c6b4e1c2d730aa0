"""The verbs as a user runs them, and the guest that `run` keeps until it is stopped."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

_URL = re.compile(r"https://127\.0\.0\.1:([0-9]{1,5})(?:/v1)? ")
_KEPT = 64 * 1024
_STOP = 60.0


def command(*words: str) -> list[str]:
    """The command line of a verb of this installation."""
    return [str(Path(sys.executable).with_name("privml-build")), *words]


def last(said: str) -> str:
    """The last line that says something, without a hint."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("hint:")]
    return lines[-1] if lines else "it said nothing"


class Guest:
    """`privml-build run`, which serves until it is interrupted."""

    def __init__(self, argv: list[str]) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._said = {"out": "", "err": ""}
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=("out", self._process.stdout), daemon=True),
            threading.Thread(target=self._read, args=("err", self._process.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            self._said[name] = (self._said[name] + line)[-_KEPT:]
        stream.close()

    def port(self, seconds: float) -> int | None:
        """The port once the guest is ready; None if it has ended, or is not ready in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            match = _URL.search(self._said["out"])
            if match is not None:
                return int(match[1])
            if self._process.poll() is not None:
                return None
            time.sleep(0.1)
        return None

    @property
    def running(self) -> bool:
        """True until its process ends."""
        return self._process.poll() is None

    def ended(self) -> tuple[int, str]:
        """Its exit status, and what it said."""
        status = self.stop()
        return status, self._said["err"] or self._said["out"]

    def stop(self) -> int:
        """Interrupt it and wait, so that it removes what it made; kill it if that takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        for reader in self._readers:
            reader.join(_STOP)
        return status
