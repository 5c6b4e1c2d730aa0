"""The boot, as root: stage after stage, and nothing goes on after one that failed.

A failed stage stops here, for good: the engine never starts, the server (if it has an identity) answers 503 and
shows the table, and no quote is ever given. After the last stage this process watches engine, broker and devices;
when one of them ends or a device is plugged in, the broker extends `failed` before anything else is said.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from privml.agent import devices
from privml.agent.broker import BrokerClient
from privml.agent.layout import Layout
from privml.agent.outbound import close_outbound
from privml.agent.stages import StageTable
from privml.agent.volume import ModelVolume, command
from privml.base.errors import HostError, PrivmlError
from privml.base.strictjson import canonical
from privml.events import configuration
from privml.events.agent import CONFIG, ENGINE, MODEL, AgentEvent
from privml.events.configuration import Config
from privml.evidence.sections import TLS_KEY, Key, Keys

BROKER_WAIT = 120.0
ENGINE_WAIT = 1800.0
WATCH_INTERVAL = 1.0
# Nothing is extended for such a stage: the broker's sequence, made of the same configuration, has no place for it.
_SKIPPED = ("skipped", "the measured configuration names no model")


class Engine(Protocol):
    """How the engine is started and watched."""

    def start(self) -> None:
        """Start it; its readiness is asked over HTTP."""

    def alive(self) -> bool:
        """False when its processes are gone."""


class EngineUnit:
    """The engine as a systemd unit: systemd gives it its own user and its sandbox."""

    UNIT = "privml-engine.service"

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self._events = sys / "fs" / "cgroup" / "system.slice" / self.UNIT / "cgroup.events"

    def start(self) -> None:
        """Start the unit."""
        command(["systemctl", "start", self.UNIT])

    def alive(self) -> bool:
        """Whether the unit's control group holds a process; no process is started to ask."""
        try:
            return "populated 1" in self._events.read_text().splitlines()
        except OSError:
            return False


class Boot:
    """One boot. The parts that touch the machine are arguments."""

    def __init__(
        self,
        layout: Layout,
        *,
        volume: ModelVolume,
        engine: Engine,
        say: Callable[[str], None],
        outbound: Callable[[], None],
        broker_wait: float = BROKER_WAIT,
        engine_wait: float = ENGINE_WAIT,
    ) -> None:
        self._layout = layout
        self._volume = volume
        self._engine = engine
        self._say = say
        self._outbound = outbound
        self._broker_wait = broker_wait
        self._engine_wait = engine_wait
        self._broker = BrokerClient(layout)
        self._broker_process: int | None = None
        self._config: Config | None = None
        self.table = StageTable(layout.stages)

    def run(self) -> bool:
        """Go through the stages; True when all are through, False when one failed."""
        stages: tuple[tuple[str, Callable[[], tuple[str, str]]], ...] = (
            ("platform", self._platform),
            ("config", self._read_config),
            ("identity", self._identity),
            ("devices", self._devices),
            ("model", self._model),
            ("engine", self._start_engine),
            ("system-ready", self._system_ready),
        )
        for name, work in stages:
            self.table.begin(name)
            try:
                status, detail = work()
            except (PrivmlError, OSError) as error:
                self._failed(name, str(error))
                return False
            self.table.end(name, status, detail)
            self._say(f"privml: stage {name}: {status}{': ' + detail if detail else ''}")
        return True

    def watch(self, interval: float = WATCH_INTERVAL) -> None:
        """Return when engine or broker has ended or the devices are others, and all that need to know are told."""
        while True:
            time.sleep(interval)
            if self._engine_ended():
                self._failed("engine", "the engine ended")
                return
            if self._broker_ended():
                self._failed("system-ready", "the broker ended")
                return
            try:
                self._check_devices()  # one may be plugged in at any time
            except (PrivmlError, OSError) as error:
                self._failed("devices", str(error))
                return

    def _failed(self, name: str, why: str) -> None:
        # The register first: a quote that is asked for in this moment must already carry `failed`.
        if self._broker_process is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._broker_process, signal.SIGUSR1)
        self.table.end(name, "failed", why)
        line = " ".join(why.split())
        self._say(f"privml: stage {name} failed: {line[:2000]}")

    def _platform(self) -> tuple[str, str]:
        end = time.monotonic() + self._broker_wait
        name = None
        while name is None:
            try:
                name = self._broker.platform()
            except HostError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.05)
        self._broker_process = self._broker.watch()
        if name == "none":
            return "warning", "no TEE: this machine can prove nothing"
        return "ok", name

    def _read_config(self) -> tuple[str, str]:
        self._config = configuration.read(self._layout.config)
        self._extend(CONFIG)
        return "ok", f"{self._config.name} ({self._config.variant}), sha256 {self._config.sha256}"

    def _identity(self) -> tuple[str, str]:
        from privml.agent import identity

        # Before there is a key nothing listens: whoever talks to the server finds the rule already there.
        self._outbound()
        spki = identity.create(self._layout)
        self._broker.keys(Keys((Key(*TLS_KEY, spki),)).encode())
        return "ok", f"TLS key sha256 {spki.hex()}"

    def _devices(self) -> tuple[str, str]:
        # The image closes module loading before the network; a kernel that still takes code is another machine.
        if (self._layout.proc / "sys" / "kernel" / "modules_disabled").read_text().strip() != "1":
            raise HostError("devices: the kernel still loads modules (kernel.modules_disabled is not 1)")
        return "ok", ", ".join(self._check_devices())

    def _check_devices(self) -> list[str]:
        found = devices.present(self._layout.sys / "bus" / "pci" / "devices")
        devices.check(self._measured.devices, found)
        return found

    def _model(self) -> tuple[str, str]:
        inference = self._measured.inference
        if inference is None:
            return _SKIPPED
        self._volume.open(inference.model_verity, self._layout.model)
        if not (self._layout.model / inference.model_file).is_file():
            raise HostError(f"model: the volume holds no file `{inference.model_file}`")
        self._extend(MODEL)
        return "ok", f"{inference.model_name}, root hash {inference.model_verity.root_hash.hex()}"

    def _start_engine(self) -> tuple[str, str]:
        inference = self._measured.inference
        if inference is None:
            return _SKIPPED
        self._engine.start()
        end = time.monotonic() + self._engine_wait
        while not self._engine_is_healthy():
            if not self._engine.alive():
                raise HostError("engine: it ended before it was ready")
            if time.monotonic() >= end:
                raise HostError(f"engine: not ready after {self._engine_wait:g} s")
            time.sleep(0.2)
        self._try_engine()
        self._extend(ENGINE)
        return "ok", inference.engine_name

    def _engine_is_healthy(self) -> bool:
        from privml.agent import exchange

        try:
            engine = self._layout.engine_socket
            return exchange.whole(engine, "GET", "/health", timeout=30.0, limit=64 * 1024)[0] == 200
        except HostError:
            return False

    def _try_engine(self) -> None:
        """One token of a fixed text: what cannot answer this is not ready."""
        from privml.agent import exchange

        request = canonical({"prompt": "Hello", "max_tokens": 1})
        headers = [(b"content-type", b"application/json")]
        status, _ = exchange.whole(
            self._layout.engine_socket,
            "POST",
            "/v1/completions",
            headers,
            request,
            timeout=self._engine_wait,
            limit=1 << 20,
        )
        if status != 200:
            raise HostError(f"engine: the first completion was answered with status {status}")

    def _system_ready(self) -> tuple[str, str]:
        if self._engine_ended():
            raise HostError("engine: it ended")
        self._broker.ready()
        return "ok", ""

    def _extend(self, name: str) -> None:
        self._broker.extend(next(event for event in self._events() if event.name == name))

    def _events(self) -> tuple[AgentEvent, ...]:
        return self._measured.events()

    @property
    def _measured(self) -> Config:
        assert self._config is not None
        return self._config

    def _engine_ended(self) -> bool:
        return self._measured.inference is not None and not self._engine.alive()

    def _broker_ended(self) -> bool:
        import select

        assert self._broker_process is not None
        poll = select.poll()
        poll.register(self._broker_process, select.POLLIN)
        return bool(poll.poll(0))


def _console(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(layout: Layout | None = None) -> int:
    """Boot, watch, and stay: this process has no end of its own."""
    layout = layout or Layout()
    os.umask(0o022)
    boot = Boot(
        layout,
        volume=ModelVolume(sys=layout.sys, dev=layout.dev),
        engine=EngineUnit(layout.sys),
        say=_console,
        outbound=lambda: close_outbound(layout.sys),
    )
    if boot.run():
        _console("privml: ready")
        boot.watch()
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
