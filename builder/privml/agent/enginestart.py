"""Start the engine, wait until it is healthy, and try it; start it again where nothing of the last one is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from privml.agent import exchange, lastline
from privml.agent.layout import Layout
from privml.agent.process import Restartable
from privml.base.errors import HostError
from privml.engines.engine import Engine

_PAUSE = 0.2


def _nothing() -> None:
    return


def _no_line() -> str:
    return ""


class EngineStart:
    """The engine of this machine. ``models`` are the names that it serves, ``wait`` bounds its start in seconds.

    ``secret`` says that its models are: then nothing that it prints is shown.
    """

    def __init__(
        self,
        process: Restartable,
        record: Engine,
        layout: Layout,
        models: Sequence[str],
        *,
        wait: float,
        secret: bool,
    ) -> None:
        self._process = process
        self._record = record
        self._layout = layout
        self._models = models
        self._wait = wait
        self._secret = secret
        self._user: int | None = None

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._record.name

    def ended(self) -> bool:
        """True once its processes have exited."""
        return not self._process.alive()

    def start(self) -> None:
        """Start it and make the first completions; ``HostError`` if that fails, with what it said last."""
        if self._secret:
            self._start(_nothing, _no_line)
            return
        with contextlib.closing(lastline.Listener(self._layout.engine_line, self._layout.engine_id)) as listener:
            self._start(_nothing, listener.line)

    def _start(self, check: Callable[[], None], said: Callable[[], str]) -> None:
        """Start it, call ``check`` while waiting, and make the first completions."""
        self._process.start()
        with contextlib.suppress(OSError):
            self._user = self._layout.engine.stat().st_uid
        end = time.monotonic() + self._wait
        while not self._is_healthy():
            if not self._process.alive():
                raise HostError(f"engine: exited before it was ready{_quoted(said())}")
            if time.monotonic() >= end:
                raise HostError(f"engine: not ready after {self._wait:g} s")
            check()
            time.sleep(_PAUSE)
        self._try()

    def again(self, check: Callable[[], None]) -> None:
        """End what is left of it, and start it as `start` does where nothing of it is left, calling ``check``.

        What it says then is not shown: the machine has had requests.
        """
        self._process.stop()
        if self._process.alive():
            raise HostError("engine: it goes on after it was stopped")
        if left := self._left():
            raise HostError(f"engine: the one that exited left {left}")
        self._start(check, _no_line)

    def _left(self) -> str:
        """What there still is of an engine that was stopped; empty if nothing."""
        if self._layout.engine.exists():
            return str(self._layout.engine)
        shared = self._layout.dev / "shm"
        with contextlib.suppress(OSError):
            for path in shared.iterdir():
                if path.lstat().st_uid == self._user:
                    return "shared memory"
        return ""

    def _is_healthy(self) -> bool:
        health = self._record.health
        try:
            place = self._layout.engine_socket(self._record)
            status, _ = exchange.whole(place, "GET", health.path, timeout=30.0, limit=64 * 1024)
        except HostError:
            return False
        return status == health.status

    def _try(self) -> None:
        """Make the first completions; an engine that cannot answer them, or answers with noise, is not ready."""
        place, trial = self._layout.engine_socket(self._record), self._record.trial
        headers = [(b"content-type", b"application/json")]
        for body in trial.bodies(self._models):
            answers = []
            for _ in range(trial.times):
                status, answer = exchange.whole(
                    place, "POST", trial.path, headers, body, timeout=self._wait, limit=1 << 20
                )
                if status != 200:
                    raise HostError(f"engine: the first completion was answered with status {status}")
                answers.append(answer)
            if fault := trial.fault(answers):
                raise HostError(f"engine: engine-answers-wrong: {fault}")


def _quoted(line: str) -> str:
    return f"; it said last: {line}" if line else ""
