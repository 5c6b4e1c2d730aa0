"""The attestor's state machine, without its sockets: keys section, log, register, and quotes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from privml.agent.gpucheck import GpuReader, GpuRefused
from privml.agent.place import Place
from privml.agent.tee import NoTee, Tee
from privml.agent.wire import RefusedRequest
from privml.base.errors import HostError, PrivmlError
from privml.base.strictjson import b64
from privml.events import stages
from privml.events.agent import AgentEvent, digest, digests, encode_line, encode_log, failed_event
from privml.events.configuration import STAGED, Config
from privml.events.registers import ZERO
from privml.events.replay import extend, replay_digests
from privml.events.variants import DEVELOPMENT
from privml.evidence.document import DeviceEvidence, device_evidence_json, listed
from privml.evidence.report_data import compute, device_nonce
from privml.evidence.sections import Header, Keys

SIMULATED = "simulated"
"""The name of a platform that anyone can forge."""


def _keep_nothing(_: Place) -> None:
    return


class Attestor:
    """The attestor's state machine.

    It starts in the first stage of the table, or at the ``place`` of an attestor that exited; then quotes are
    suspended, and what does not fit parks it. ``keep`` is called with the new place before each step. Every
    operation, quotes included, is one critical section, so the log in a quote always matches the register. ``gpus``
    reads the GPUs that the configuration declares, for each quote anew; None without any.
    """

    def __init__(
        self,
        config: Config,
        tee: Tee,
        *,
        gpus: GpuReader | None = None,
        table: stages.Table = stages.STAGES,
        keep: Callable[[Place], None] = _keep_nothing,
        place: Place | None = None,
    ) -> None:
        if tee.name == SIMULATED and config.variant != DEVELOPMENT:
            raise HostError("attestor: the platform is simulated, but this is not a development image")
        if gpus is not None and gpus.simulated and tee.name != SIMULATED:
            raise HostError("attestor: the GPUs are simulated, but the platform is not")
        if (config.gpu is None) != (gpus is None):
            raise HostError("attestor: it reads GPUs if, and only if, the configuration declares some")
        stages.check(table)
        self.tee = tee
        self._lock = threading.Lock()
        self._variant = config.variant
        self._steps = stages.steps(config, table)
        self._gpus = gpus
        self._keep = keep
        self._staged = config.rtmr3 == STAGED
        self._value = ZERO
        self._suspended = place is not None
        if place is not None:
            self._take_up(place)
            return
        if self._staged and tee.rtmr3() != ZERO:
            raise HostError("attestor: RTMR3 is not zero at the start: something extended it before the agent")
        self._go(Place(tee.name, left=len(self._steps[0].events)))

    @property
    def is_over(self) -> bool:
        """True when the last stage is complete: only quotes are left."""
        return self._place.at == len(self._steps) - 1 and not self._place.left

    @property
    def parked(self) -> str:
        """Why nothing is done any more; empty while something is."""
        return self._place.failed

    def keys(self, section: bytes) -> None:
        """Accept the keys section, once."""
        Keys.decode(section)
        with self._lock:
            self._usable()
            if self._place.keys is not None:
                raise RefusedRequest("order", "keys: already set")
            self._go(replace(self._place, keys=section))

    def stage(self, name: str) -> None:
        """Go from the current stage, which must be complete, to the next one in the table."""
        with self._lock:
            self._usable()
            if left := self._left:
                raise RefusedRequest(
                    "order",
                    f"stage `{name[:40]}`: stage `{self._stage.name}` still lacks its event `{left[0].name}`",
                )
            following = self._steps[self._place.at + 1]
            if name != following.stage.name:
                raise RefusedRequest("order", f"stage: got `{name[:40]}`, expected `{following.stage.name}`")
            if following.purposes and self._place.keys is None:
                raise RefusedRequest("order", f"stage `{name}`: no keys have been set")
            self._go(replace(self._place, at=self._place.at + 1, left=len(following.events)))

    def extend(self, event: AgentEvent) -> None:
        """Extend the next event of the current stage; any other event is refused."""
        with self._lock:
            self._usable()
            if not (left := self._left):
                raise RefusedRequest(
                    "order", f"extend: got `{event.name}`, but stage `{self._stage.name}` is complete"
                )
            if event.name != left[0].name:
                raise RefusedRequest("order", f"extend: got `{event.name}`, expected `{left[0].name}`")
            if event != left[0]:
                raise RefusedRequest("payload", f"extend: `{event.name}` differs from the measured configuration")
            # The log line is saved before the register is extended. If one of the two is lost, log and register
            # differ and every verifier refuses the machine.
            line = encode_line(self._place.seq, event)
            self._go(replace(self._place, left=self._place.left - 1, log=self._place.log + line + b"\n"))
            self._extend_register(event.name, line)

    def fail(self, why: str) -> None:
        """Extend `failed` if a quote may have been given, then refuse every later request."""
        with self._lock:
            if self._place.failed:
                return
            complete = self._steps[: self._place.at + (not self._place.left)]
            if not any(step.purposes for step in complete):
                self._park(why)
                return
            line = encode_line(self._place.seq, failed_event())
            self._park(why, line + b"\n")
            self._extend_register(failed_event().name, line)

    def suspend(self) -> None:
        """Give no quote until `resume`, not even the one that is being made."""
        self._suspended = True
        if self._place.failed:
            with self._lock:  # by now the register is extended
                raise RefusedRequest("failed", f"this machine has failed: {self._place.failed}")

    def resume(self) -> None:
        """Give quotes again, unless this machine has failed."""
        with self._lock:
            if self._place.failed:
                raise RefusedRequest("failed", f"this machine has failed: {self._place.failed}")
            self._suspended = False

    def quote(self, root: bytes, purpose: str) -> dict[str, Any]:
        """Document parts over ``root`` (32 bytes) for ``purpose``; the server adds the nonce and its Merkle path."""
        with self._lock:
            place = self._place
            if place.failed:
                raise RefusedRequest("failed", f"quote: this machine has failed: {place.failed}")
            if place.left or place.keys is None or purpose not in self._steps[place.at].purposes:
                raise RefusedRequest("not-ready", f"quote: none for `{purpose}` in stage `{self._stage.name}`")
            self._not_suspended()
            header = Header(self._variant, self.tee.kind, purpose, self._stage.name).encode()
            found = self._device_evidence(device_nonce(root=root, keys=place.keys))
            devices = listed(found).encode()
            data = compute(header=header, root=root, keys=place.keys, devices=devices, eventlog=place.log)
            evidence = self.tee.quote(data)
            collateral: Mapping[str, str] | None = self.tee.collateral()
            self._not_suspended()
            return {
                "header": b64(header),
                "keys": b64(place.keys),
                "devices": b64(devices),
                "eventlog": b64(place.log),
                "bootlog": b64(self.tee.boot_log()),
                "evidence": b64(evidence),
                "device_evidence": device_evidence_json(found),
                "collateral": None if collateral is None else {self.tee.kind: dict(collateral)},
            }

    def _not_suspended(self) -> None:
        if self._suspended:
            raise RefusedRequest("not-ready", "quote: none until the machine is ready again")

    def _device_evidence(self, nonce: bytes) -> Sequence[DeviceEvidence]:
        """New evidence of each GPU and switch over ``nonce``; one that would not pass the boot now is not quoted."""
        if self._gpus is None:
            return ()
        try:
            return self._gpus.evidence(self._gpus.question(lambda: nonce), ready=True)
        except GpuRefused as refused:
            raise RefusedRequest(refused.code, f"quote: {refused.message}") from refused

    @property
    def _stage(self) -> stages.Stage:
        return self._steps[self._place.at].stage

    @property
    def _left(self) -> tuple[AgentEvent, ...]:
        """The events that the current stage still lacks."""
        events = self._steps[self._place.at].events
        return events[len(events) - self._place.left :]

    def _usable(self) -> None:
        if self._place.failed:
            raise RefusedRequest("failed", f"this machine has failed: {self._place.failed}")
        if self.is_over:
            raise RefusedRequest("order", "all stages are complete")

    def _go(self, place: Place) -> None:
        """Make a step: it is saved first, and not made if that fails."""
        self._keep(place)
        self._place = place

    def _park(self, why: str, line: bytes = b"") -> None:
        """Do nothing any more, whether or not it can be saved."""
        self._place = replace(self._place, failed=why or "unknown", log=self._place.log + line)
        with contextlib.suppress(OSError):
            self._keep(self._place)

    def _take_up(self, place: Place) -> None:
        """Go on at ``place`` if it fits this boot, else park and extend `failed`."""
        self._place = place
        try:
            why = place.failed or self._misfit(place)
        except (PrivmlError, OSError) as error:
            why = f"the attestor was started again: {error}"
        if not why:
            return
        self._park(why)
        if self._staged:
            with contextlib.suppress(PrivmlError, OSError):
                self.tee.extend(digest(encode_line(self._place.seq, failed_event())))

    def _misfit(self, place: Place) -> str:
        """Why ``place`` is not one of this boot; empty if it is."""
        begin = "the attestor was started again: "
        if place.tee != self.tee.name:
            return f"{begin}the platform is {self.tee.name}, and was {place.tee[:40]}"
        if place.at >= len(self._steps) or place.left > len(self._steps[place.at].events):
            return f"{begin}its place is not in the stage table"
        passed = [event for step in self._steps[: place.at] for event in step.events]
        events = self._steps[place.at].events
        passed += events[: len(events) - place.left]
        if place.log != encode_log(passed):
            return f"{begin}its log is not that of its stage"
        if place.keys is not None:
            Keys.decode(place.keys)
        elif any(step.purposes for step in self._steps[: place.at + 1]):
            return f"{begin}there are no keys"
        if self._staged:
            extends = digests(passed)
            self._value = replay_digests(extends)
            if not self.tee.has_register:
                if extends and not isinstance(self.tee, NoTee):
                    return f"{begin}no register of {self.tee.name} shows what was extended before"
                for each in extends:
                    self.tee.extend(each)
            elif self.tee.rtmr3() != self._value:
                return f"{begin}RTMR3 differs from the replay of its log"
        return ""

    def _extend_register(self, name: str, line: bytes) -> None:
        if not self._staged:
            return
        value = digest(line)
        try:
            self.tee.extend(value)
            self._value = extend(self._value, value)
            self._check_register()
        except BaseException as error:
            self._park(f"extend of `{name}`: {error}")
            raise

    def _check_register(self) -> None:
        if self.tee.rtmr3() != self._value:
            raise HostError("RTMR3 differs from the replay of the agent's log")
