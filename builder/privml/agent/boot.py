"""The boot process (root): runs the stages in order and stops at the first one that fails.

After a failed stage the engine is never started, the server (if it has an identity) answers 503 with the stage table,
and no quote is given. After the last stage this process watches engine, services, attestor and devices.

An engine that exits is started again (`agent.restarts`). Until the new one has passed its trial, there are no quotes
and nothing is ready. systemd starts an attestor that exits again. When there is no restart left, another
process exits or a device is plugged in, the attestor extends `failed` before the failure is reported anywhere.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from privml.agent import console, devices, gpumachine, powerbutton, volumestage
from privml.agent.attestorlink import AttestorLink
from privml.agent.enginestart import EngineStart
from privml.agent.gpumachine import GpuMachine
from privml.agent.layout import Layout
from privml.agent.lockdown import lock_down
from privml.agent.outbound import close_outbound
from privml.agent.process import Process, Restartable, Unit
from privml.agent.progress import Progress
from privml.agent.restarts import Restarts
from privml.agent.servicestart import OwnServices
from privml.agent.volume import Volumes
from privml.base.errors import HostError, PrivmlError
from privml.engines.registry import engine_named
from privml.events import configuration, services, stages
from privml.events.configuration import Config
from privml.events.gpus import Gpu
from privml.evidence.sections import TLS_KEY

if TYPE_CHECKING:
    from privml.agent.volumekeys import VolumeKeys

ATTESTOR_WAIT = 120.0
ATTESTOR_AGAIN = 20.0
ENGINE_WAIT = 1800.0
SERVICE_WAIT = 60.0
WATCH_INTERVAL = 1.0
Outcome = tuple[str, str]
"""Status of a finished stage, and a detail for the stage list."""
Work = Callable[[], Outcome]
# No event is extended for a skipped stage: the attestor reads the same configuration and expects none.
_SKIPPED = ("skipped", "the measured configuration names no model")
_NO_GPU = ("skipped", "the measured configuration names no GPU")
_NO_KEY = ("skipped", "the measured configuration names no encrypted volume")
_NO_SERVICE = ("skipped", "the measured configuration names no service")


class _Fault(PrivmlError):
    """Something other than the engine is wrong with the machine: the stage that it belongs to, and what."""

    def __init__(self, stage: str, why: str) -> None:
        super().__init__(why)
        self.stage = stage


class Boot:
    """One boot through the stages of ``table``.

    The parts that touch the machine are arguments. ``work`` adds or replaces the functions of the named stages.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        volumes: Volumes,
        engine: Restartable,
        service: Callable[[str], Process],
        say: Callable[[str], None],
        outbound: Callable[[], None],
        gpus: Callable[[Gpu], GpuMachine],
        restarts: Restarts | None = None,
        attestor_wait: float = ATTESTOR_WAIT,
        attestor_again: float = ATTESTOR_AGAIN,
        engine_wait: float = ENGINE_WAIT,
        service_wait: float = SERVICE_WAIT,
        table: stages.Table = stages.STAGES,
        work: Mapping[str, Work] | None = None,
    ) -> None:
        self._layout = layout
        self._volumes = volumes
        self._engine_process = engine
        self._engine: EngineStart | None = None
        self._restarts = restarts or Restarts()
        self._say = say
        self._outbound = outbound
        self._gpus = gpus
        self._machine: GpuMachine | None = None
        self._engine_wait = engine_wait
        self._services = OwnServices(layout, service, wait=service_wait)
        self._attestor = AttestorLink(
            layout, wait=attestor_wait, again=attestor_again, restarted=self._attestor_restarted
        )
        self._config: Config | None = None
        self._keys: VolumeKeys | None = None
        self._has_tee = True
        self._stages = table
        self._interval = WATCH_INTERVAL
        self._work: dict[str, Work] = {
            "platform": self._platform,
            "config": self._read_config,
            "identity": self._identity,
            "devices": self._devices,
            "gpu": self._gpu,
            "services": self._start_services,
            "keys": self._await_keys,
            "model": self._open_volumes,
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
            except _Fault as fault:
                self._failed(fault.stage, fault.message)
                return False
            except (PrivmlError, OSError) as error:
                self._failed(name, str(error))
                return False
            self.progress.end(name, status, detail)
            self._say(console.clean(f"privml: stage {name}: {status}{': ' + detail if detail else ''}"))
        return True

    def watch(self, interval: float = WATCH_INTERVAL) -> None:
        """Block until a required service, Fabric Manager or the attestor exits, the device list changes, or the
        engine exits and is not started again; then mark the boot failed.
        """
        self._interval = interval
        try:
            while True:
                time.sleep(interval)
                self._check_others()
                if self._engine is not None and self._engine.ended():
                    self._start_engine_again(self._engine)
        except _Fault as fault:
            self._failed(fault.stage, fault.message)

    def _check_others(self) -> None:
        """Raise `_Fault` if anything but the engine is not as it must be."""
        if ended := self._services.ended():
            raise _Fault("services", f"the service {ended} exited")
        if ended := "" if self._machine is None else self._machine.ended():
            raise _Fault("gpu", ended)
        try:
            self._attestor.check()
        except (PrivmlError, OSError) as error:
            raise _Fault(self._stages[0].name, str(error)) from error
        try:
            self._check_devices()  # hot-plug is possible at any time
        except (PrivmlError, OSError) as error:
            raise _Fault("devices", str(error)) from error

    def _attestor_restarted(self) -> None:
        self.progress.count(self._stages[0].name)
        self._say(f"privml: stage {self._stages[0].name}: the attestor was started again")

    def _start_engine_again(self, engine: EngineStart) -> None:
        """Start the engine, without quotes, until one passes its trial; `_Fault` when no restart is left."""
        why = "the engine exited"
        while True:
            if used_up := self._restarts.used_up:
                raise _Fault("engine", f"{why}, after {used_up}")
            try:
                self._attestor.suspend()
            except (PrivmlError, OSError) as error:
                raise _Fault(self._stages[0].name, str(error)) from error
            delay = self._restarts.next()
            self.progress.again("engine", f"{why}; it is started again")
            self._say(console.clean(f"privml: stage engine: it is started again in {delay:g} s; {why}"))
            end = time.monotonic() + delay
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, self._interval))
                self._check_others()
            try:
                if self._machine is not None:
                    self._machine.check()
                engine.again(self._check_others)
            except _Fault:
                raise
            except (PrivmlError, OSError) as error:
                why = str(error)
                continue
            break
        self._check_others()
        try:
            self._attestor.resume()
        except (PrivmlError, OSError) as error:
            raise _Fault(self._stages[0].name, str(error)) from error
        self.progress.end("engine", "ok", engine.name)
        self._say(f"privml: stage engine: ok: {engine.name}")

    def _failed(self, name: str, why: str) -> None:
        # Extend the register first: a quote requested at this moment must already carry `failed`.
        self._attestor.fail()
        self._drop_keys()
        self.progress.end(name, "failed", why)
        self._say(console.clean(f"privml: stage {name} failed: {why}"))

    def _platform(self) -> Outcome:
        name, why = self._attestor.start()
        if name == "none":
            self._has_tee = False
            return "warning", f"no TEE: this machine cannot be attested; {why}"
        return "ok", name

    def _read_config(self) -> Outcome:
        config = configuration.read(self._layout.config)
        if config.engine is not None:
            self._engine = EngineStart(
                self._engine_process,
                engine_named(config.engine.name),
                self._layout,
                [model.name for model in config.models],
                wait=self._engine_wait,
                secret=bool(config.encrypted),
            )
        self._config = config
        if config.gpu is not None:
            lock_down(self._layout.sys)
            self._machine = self._gpus(config.gpu)
        return "ok", f"{config.name} ({config.variant}), sha256 {config.sha256}"

    def _identity(self) -> Outcome:
        from privml.agent import identity

        # The server listens only once there is a key, so the rule is in force before the first connection.
        self._outbound()
        made = identity.create(self._layout, release=bool(self._measured.encrypted))
        if made.release:
            from privml.agent.volumekeys import VolumeKeys

            self._keys = VolumeKeys(self._measured, made.release)
        self._attestor.keys(made.keys.encode())
        tls = made.keys.find(*TLS_KEY)
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
            listens = self._services.start(service)
            details.append(service.name if listens else f"{service.name}: does not listen on its socket")
        if not details:
            return _NO_SERVICE
        return ("warning" if any(": " in detail for detail in details) else "ok"), "; ".join(details)

    def _await_keys(self) -> Outcome:
        if self._keys is None:
            return _NO_KEY
        if not self._has_tee:
            raise HostError("no-tee: this machine cannot be attested, so no broker releases a key to it")
        from privml.agent.keystage import KeyStage

        stage = KeyStage(self._layout, self._keys, self._attestor.release_quote)
        stage.run(self._check_others, self._interval, self._waits_for_keys)
        names = [f"{crypt.resource}, generation {crypt.generation}" for crypt in self._measured.encrypted]
        return "ok", f"released: {'; '.join(names)}"

    def _waits_for_keys(self, missing: str) -> None:
        self.progress.note("keys", f"waiting for {missing}")
        self._say(console.clean(f"privml: stage keys: waiting for {missing}"))

    def _open_volumes(self) -> Outcome:
        key = None if self._keys is None else self._keys.key
        opened = volumestage.open_all(self._measured, self._layout, self._volumes, key)
        self._drop_keys()
        return ("ok", "; ".join(opened)) if opened else _SKIPPED

    def _drop_keys(self) -> None:
        if self._keys is not None:
            self._keys.drop()

    def _start_engine(self) -> Outcome:
        if self._engine is None:
            return _SKIPPED
        self._engine.start()
        return "ok", self._engine.name

    def _ready(self) -> Outcome:
        if self._engine is not None and self._engine.ended():
            raise HostError("engine: exited")
        if ended := self._services.ended():
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


def machine_of(gpu: Gpu, layout: Layout) -> GpuMachine:
    """The GPUs of this machine, brought up by the units of the image."""
    return GpuMachine(
        gpu,
        layout,
        persistence=Unit(gpumachine.PERSISTENCE, layout.sys),
        ready=Unit(gpumachine.READY, layout.sys),
        fabric=Unit(gpumachine.FABRIC, layout.sys),
    )


def main(layout: Layout | None = None, gpus: Callable[[Gpu, Layout], GpuMachine] = machine_of) -> int:
    """Run the boot and watch the machine. Never returns by itself."""
    layout = layout or Layout()
    os.umask(0o022)
    try:
        powerbutton.bind(layout.dev)
    except OSError as error:
        console.say(f"privml: the power button does nothing: {error.strerror}")
    boot = Boot(
        layout,
        volumes=Volumes(sys=layout.sys, dev=layout.dev),
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
