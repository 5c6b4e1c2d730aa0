"""The boot process (root): runs the stages in order and stops at the first one that fails.

After a failed stage the engine is never started, the server (if it has an identity) answers 503 with the stage table,
and no quote is given. After the last stage this process watches engine, attestor and devices. When a process exits or
a device is plugged in, the attestor extends `failed` before the failure is reported anywhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from privml.agent import console, devices, gpumachine
from privml.agent.attestor import AttestorClient
from privml.agent.gpumachine import GpuMachine
from privml.agent.layout import Layout
from privml.agent.lockdown import lock_down
from privml.agent.outbound import close_outbound
from privml.agent.progress import Progress
from privml.agent.volume import ModelVolumes, command
from privml.base.errors import HostError, PrivmlError
from privml.engines.engine import Engine
from privml.engines.registry import engine_named
from privml.events import configuration, services, stages
from privml.events.configuration import Config
from privml.events.volumes import partition
from privml.evidence.sections import TLS_KEY

ATTESTOR_WAIT = 120.0
ENGINE_WAIT = 1800.0
SERVICE_WAIT = 60.0
WATCH_INTERVAL = 1.0
Outcome = tuple[str, str]
"""Status of a finished stage, and a detail for the stage list."""
Work = Callable[[], Outcome]
# No event is extended for a skipped stage: the attestor reads the same configuration and expects none.
_SKIPPED = ("skipped", "the measured configuration names no model")
_NO_GPU = ("skipped", "the measured configuration names no GPU")
_NO_SERVICE = ("skipped", "the measured configuration names no service")


class Process(Protocol):
    """How to start the engine or a service and check that it runs."""

    def start(self) -> None:
        """Start it; the caller waits until it is ready."""

    def alive(self) -> bool:
        """False once its processes have exited."""


class Unit:
    """A systemd unit, which gives its program a user and a sandbox of its own."""

    def __init__(self, name: str, sys: Path = Path("/sys")) -> None:
        self._name = name
        self._events = sys / "fs" / "cgroup" / "system.slice" / name / "cgroup.events"

    def start(self) -> None:
        """Start the unit."""
        command(["systemctl", "start", self._name])

    def alive(self) -> bool:
        """Whether the unit's control group holds a process; read from the cgroup file, without calling systemctl."""
        try:
            return "populated 1" in self._events.read_text().splitlines()
        except OSError:
            return False


class Boot:
    """One boot through the stages of ``table``.

    The parts that touch the machine are arguments. ``work`` adds or replaces the functions of the named stages.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        volumes: ModelVolumes,
        engine: Process,
        service: Callable[[str], Process],
        say: Callable[[str], None],
        outbound: Callable[[], None],
        gpus: Callable[[configuration.Gpu], GpuMachine],
        attestor_wait: float = ATTESTOR_WAIT,
        engine_wait: float = ENGINE_WAIT,
        service_wait: float = SERVICE_WAIT,
        table: stages.Table = stages.STAGES,
        work: Mapping[str, Work] | None = None,
    ) -> None:
        self._layout = layout
        self._volumes = volumes
        self._engine = engine
        self._say = say
        self._outbound = outbound
        self._gpus = gpus
        self._machine: GpuMachine | None = None
        self._attestor_wait = attestor_wait
        self._engine_wait = engine_wait
        self._service = service
        self._service_wait = service_wait
        self._required: dict[str, Process] = {}
        self._attestor = AttestorClient(layout)
        self._attestor_process: int | None = None
        self._config: Config | None = None
        self._record: Engine | None = None
        self._stages = table
        self._work: dict[str, Work] = {
            "platform": self._platform,
            "config": self._read_config,
            "identity": self._identity,
            "devices": self._devices,
            "gpu": self._gpu,
            "services": self._start_services,
            "model": self._open_models,
            "engine": self._start_engine,
            "ready": self._ready,
            **(work or {}),
        }
        if without := [stage.name for stage in table if stage.name not in self._work]:
            raise ValueError(f"boot: stage `{without[0]}` has no function")
        # What may happen only once the events of a stage are extended.
        self._afterwards: dict[str, Callable[[], None]] = {"gpu": self._set_gpus_ready}
        self.progress = Progress(layout.stages, [stage.name for stage in table])

    def run(self) -> bool:
        """Run all stages; False when one failed."""
        for number, stage in enumerate(self._stages):
            name = stage.name
            self.progress.begin(name)
            try:
                if number:  # the attestor starts in the first stage
                    self._attestor.stage(name)
                status, detail = self._work[name]()
                self._extend(stage)
                if name in self._afterwards:
                    self._afterwards[name]()
            except (PrivmlError, OSError) as error:
                self._failed(name, str(error))
                return False
            self.progress.end(name, status, detail)
            self._say(console.clean(f"privml: stage {name}: {status}{': ' + detail if detail else ''}"))
        return True

    def watch(self, interval: float = WATCH_INTERVAL) -> None:
        """Block until the engine, a required service, Fabric Manager or the attestor exits, or the device list
        changes; then mark the boot failed.
        """
        while True:
            time.sleep(interval)
            if self._engine_ended():
                self._failed("engine", "the engine exited")
                return
            if ended := self._service_ended():
                self._failed("services", f"the service {ended} exited")
                return
            if ended := "" if self._machine is None else self._machine.ended():
                self._failed("gpu", ended)
                return
            if self._attestor_ended():
                self._failed(self._stages[-1].name, "the attestor exited")
                return
            try:
                self._check_devices()  # hot-plug is possible at any time
            except (PrivmlError, OSError) as error:
                self._failed("devices", str(error))
                return

    def _failed(self, name: str, why: str) -> None:
        # Extend the register first: a quote requested at this moment must already carry `failed`.
        if self._attestor_process is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._attestor_process, signal.SIGUSR1)
        self.progress.end(name, "failed", why)
        self._say(console.clean(f"privml: stage {name} failed: {why}"))

    def _platform(self) -> Outcome:
        end = time.monotonic() + self._attestor_wait
        name = why = ""
        while not name:
            try:
                name, why = self._attestor.platform()
            except HostError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.05)
        self._attestor_process = self._attestor.watch()
        if name == "none":
            return "warning", f"no TEE: this machine cannot be attested; {why}"
        return "ok", name

    def _read_config(self) -> Outcome:
        config = configuration.read(self._layout.config)
        if config.engine is not None:
            self._record = engine_named(config.engine.name)
        self._config = config
        if config.gpu is not None:
            lock_down(self._layout.sys)
            self._machine = self._gpus(config.gpu)
        return "ok", f"{config.name} ({config.variant}), sha256 {config.sha256}"

    def _identity(self) -> Outcome:
        from privml.agent import identity

        # The server listens only once there is a key, so the rule is in force before the first connection.
        self._outbound()
        keys = identity.create(self._layout)
        self._attestor.keys(keys.encode())
        tls = keys.find(*TLS_KEY)
        return "ok", f"TLS key sha256 {tls.hex() if tls else 'none'}"

    def _devices(self) -> Outcome:
        # The image disables module loading before the network comes up; if it is still enabled, something is wrong.
        if (self._layout.proc / "sys" / "kernel" / "modules_disabled").read_text().strip() != "1":
            raise HostError("devices: the kernel still loads modules (kernel.modules_disabled is not 1)")
        # The number of GPUs and switches is checked in their own stage.
        apart = frozenset[str]() if self._machine is None else self._machine.counted
        return "ok", ", ".join(self._check_devices(apart))

    def _check_devices(self, apart: frozenset[str] = frozenset()) -> list[str]:
        found = (
            devices.present(self._layout.sys / "bus" / "pci" / "devices")
            if self._machine is None
            else self._machine.present()
        )
        declared, there = ([name for name in names if name not in apart] for names in (self._measured.devices, found))
        devices.check(declared, there)
        return there

    def _gpu(self) -> Outcome:
        machine = self._machine
        if machine is None:
            return _NO_GPU
        machine.check_count()
        machine.bring_up()
        return "ok", machine.check()

    def _set_gpus_ready(self) -> None:
        if self._machine is not None:
            self._machine.set_ready()

    def _start_services(self) -> Outcome:
        details = []
        for service in self._measured.services:
            process = self._service(service.name)
            process.start()
            listens = self._listens(service.name, process)
            if service.required:
                if not listens:
                    raise HostError(f"services: {service.name} does not listen on its socket")
                self._required[service.name] = process
            details.append(service.name if listens else f"{service.name}: does not listen on its socket")
        if not details:
            return _NO_SERVICE
        return ("warning" if any(": " in detail for detail in details) else "ok"), "; ".join(details)

    def _listens(self, name: str, process: Process) -> bool:
        """Wait until the service accepts connections; False if it ends first, or takes too long."""
        end = time.monotonic() + self._service_wait
        while time.monotonic() < end:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(self._layout.service_socket(name)))
                return True
            if not process.alive():
                return False
            time.sleep(0.05)
        return False

    def _open_models(self) -> Outcome:
        opened = []
        for number, model in enumerate(self._measured.models):
            mount = self._layout.model(number)
            self._volumes.open(partition(number), model.verity, mount)
            if not (mount / model.file).is_file():
                raise HostError(f"model: the volume has no file `{model.file}`")
            opened.append(f"{model.name}, root hash {model.verity.root_hash.hex()}")
        return ("ok", "; ".join(opened)) if opened else _SKIPPED

    def _start_engine(self) -> Outcome:
        engine = self._record
        if engine is None:
            return _SKIPPED
        self._engine.start()
        end = time.monotonic() + self._engine_wait
        while not self._engine_is_healthy(engine):
            if not self._engine.alive():
                raise HostError("engine: exited before it was ready")
            if time.monotonic() >= end:
                raise HostError(f"engine: not ready after {self._engine_wait:g} s")
            time.sleep(0.2)
        self._try_engine(engine)
        return "ok", engine.name

    def _engine_is_healthy(self, engine: Engine) -> bool:
        from privml.agent import exchange

        health = engine.health
        try:
            place = self._layout.engine_socket(engine)
            status, _ = exchange.whole(place, "GET", health.path, timeout=30.0, limit=64 * 1024)
        except HostError:
            return False
        return status == health.status

    def _try_engine(self, engine: Engine) -> None:
        """Make the first completions; an engine that cannot answer them, or answers with noise, is not ready."""
        from privml.agent import exchange

        place, trial = self._layout.engine_socket(engine), engine.trial
        headers = [(b"content-type", b"application/json")]
        for body in trial.bodies([model.name for model in self._measured.models]):
            answers = []
            for _ in range(trial.times):
                status, answer = exchange.whole(
                    place, "POST", trial.path, headers, body, timeout=self._engine_wait, limit=1 << 20
                )
                if status != 200:
                    raise HostError(f"engine: the first completion was answered with status {status}")
                answers.append(answer)
            if fault := trial.fault(answers):
                raise HostError(f"engine: engine-answers-wrong: {fault}")

    def _ready(self) -> Outcome:
        if self._engine_ended():
            raise HostError("engine: exited")
        if ended := self._service_ended():
            raise HostError(f"services: {ended} exited")
        return "ok", ""

    def _extend(self, stage: stages.Stage) -> None:
        """Extend the events that the configuration fixes for ``stage``; none before the configuration is read."""
        if self._config is not None:
            for event in stages.step(self._config, stage).events:
                self._attestor.extend(event)

    @property
    def _measured(self) -> Config:
        assert self._config is not None
        return self._config

    def _engine_ended(self) -> bool:
        return self._record is not None and not self._engine.alive()

    def _service_ended(self) -> str:
        """The name of a required service that has ended; empty if all run."""
        return next((name for name, process in self._required.items() if not process.alive()), "")

    def _attestor_ended(self) -> bool:
        import select

        assert self._attestor_process is not None
        poll = select.poll()
        poll.register(self._attestor_process, select.POLLIN)
        return bool(poll.poll(0))


def machine_of(gpu: configuration.Gpu, layout: Layout) -> GpuMachine:
    """The GPUs of this machine, brought up by the units of the image."""
    return GpuMachine(
        gpu,
        layout,
        persistence=Unit(gpumachine.PERSISTENCE, layout.sys),
        ready=Unit(gpumachine.READY, layout.sys),
        fabric=Unit(gpumachine.FABRIC, layout.sys),
    )


def main(layout: Layout | None = None, gpus: Callable[[configuration.Gpu, Layout], GpuMachine] = machine_of) -> int:
    """Run the boot and watch the machine. Never returns by itself."""
    layout = layout or Layout()
    os.umask(0o022)
    boot = Boot(
        layout,
        volumes=ModelVolumes(sys=layout.sys, dev=layout.dev),
        engine=Unit("privml-engine.service", layout.sys),
        service=lambda name: Unit(services.unit(name), layout.sys),
        say=console.say,
        outbound=lambda: close_outbound(layout.sys),
        gpus=lambda gpu: gpus(gpu, layout),
    )
    if boot.run():
        console.say("privml: ready")
        boot.watch()
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
