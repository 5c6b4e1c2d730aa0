"""The root process that owns everything attested: the keys section, the agent's log, RTMR3, and quotes.

It listens on two sockets. The stage socket (root only) accepts `platform`, `keys`, `stage` and `extend`, in the order
fixed by the stage table and the measured configuration; it is closed and unlinked after the last stage. The quote
socket (the server's group) accepts only `quote` with a 32-byte root and a purpose, and answers only while the boot is
at the stage of that purpose. An attacker who takes over the network-facing process can therefore get quotes over this
machine's real keys and real log, and nothing else.

SIGUSR1 reports a failure: `failed` is extended before anything else happens, and no further quote is given.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from privml.agent import console, wire
from privml.agent.gpucheck import GpuReader, GpuRefused
from privml.agent.layout import Layout
from privml.agent.tee import NoTee, NoTeeError, Tee, detect
from privml.base.errors import EvidenceError, HostError, PrivmlError
from privml.base.strictjson import Fields, b64
from privml.events import configuration, stages
from privml.events.agent import AgentEvent, digest, encode_line, failed_event
from privml.events.configuration import STAGED, Config, Gpu
from privml.events.registers import ZERO
from privml.events.replay import extend
from privml.events.variants import DEVELOPMENT
from privml.evidence.document import DeviceEvidence, device_evidence, device_evidence_json, listed
from privml.evidence.quotefault import QuoteError, QuoteFault
from privml.evidence.report_data import compute, device_nonce
from privml.evidence.sections import Header, Keys

_REQUEST_TIMEOUT = 10.0
SIMULATED = "simulated"
"""The name of a platform that anyone can forge."""


class RefusedRequest(PrivmlError):
    """The attestor refused a request; ``code`` is the reason for the calling program."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Attestor:
    """The attestor's state machine, without its sockets.

    It starts in the first stage of the table. Every operation, quotes included, is one critical section, so the log
    in a quote always matches the register. ``gpus`` reads the GPUs that the configuration declares, for each quote
    anew; None without any.
    """

    def __init__(
        self, config: Config, tee: Tee, *, gpus: GpuReader | None = None, table: stages.Table = stages.STAGES
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
        self._at = 0
        self._left = list(self._steps[0].events)
        self._gpus = gpus
        self._keys: bytes | None = None
        self._log = b""
        self._seq = 0
        self._value = ZERO
        self._staged = config.rtmr3 == STAGED
        self._broken = ""
        if self._staged and tee.rtmr3() != ZERO:
            raise HostError("attestor: RTMR3 is not zero at the start: something extended it before the agent")

    @property
    def is_over(self) -> bool:
        """True when the last stage is complete: only quotes are left."""
        return self._at == len(self._steps) - 1 and not self._left

    def keys(self, section: bytes) -> None:
        """Accept the keys section, once."""
        Keys.decode(section)
        with self._lock:
            self._usable()
            if self._keys is not None:
                raise RefusedRequest("order", "keys: already set")
            self._keys = section

    def stage(self, name: str) -> None:
        """Go from the current stage, which must be complete, to the next one in the table."""
        with self._lock:
            self._usable()
            if self._left:
                raise RefusedRequest(
                    "order",
                    f"stage `{name[:40]}`: stage `{self._stage.name}` still lacks its event `{self._left[0].name}`",
                )
            following = self._steps[self._at + 1]
            if name != following.stage.name:
                raise RefusedRequest("order", f"stage: got `{name[:40]}`, expected `{following.stage.name}`")
            if following.stage.purposes and self._keys is None:
                raise RefusedRequest("order", f"stage `{name}`: no keys have been set")
            self._at += 1
            self._left = list(following.events)

    def extend(self, event: AgentEvent) -> None:
        """Extend the next event of the current stage; any other event is refused."""
        with self._lock:
            self._usable()
            if not self._left:
                raise RefusedRequest(
                    "order", f"extend: got `{event.name}`, but stage `{self._stage.name}` is complete"
                )
            expected = self._left[0]
            if event.name != expected.name:
                raise RefusedRequest("order", f"extend: got `{event.name}`, expected `{expected.name}`")
            if event != expected:
                raise RefusedRequest("payload", f"extend: `{event.name}` differs from the measured configuration")
            self._append(event)
            del self._left[0]

    def fail(self, why: str) -> None:
        """Extend `failed` if a quote may have been given, then refuse every later request."""
        with self._lock:
            if self._broken:
                return
            complete = self._steps[: self._at + (not self._left)]
            if any(step.stage.purposes for step in complete):
                self._append(failed_event())
            self._broken = why

    def quote(self, root: bytes, purpose: str) -> dict[str, Any]:
        """Document parts over ``root`` (32 bytes) for ``purpose``; the server adds the nonce and its Merkle path."""
        with self._lock:
            if self._broken:
                raise RefusedRequest("failed", f"quote: this machine has failed: {self._broken}")
            if self._left or self._keys is None or purpose not in self._stage.purposes:
                raise RefusedRequest("not-ready", f"quote: none for `{purpose}` in stage `{self._stage.name}`")
            header = Header(self._variant, self.tee.kind, purpose, self._stage.name).encode()
            found = self._device_evidence(device_nonce(root=root, keys=self._keys))
            devices = listed(found).encode()
            data = compute(header=header, root=root, keys=self._keys, devices=devices, eventlog=self._log)
            evidence = self.tee.quote(data)
            collateral: Mapping[str, str] | None = self.tee.collateral()
            return {
                "header": b64(header),
                "keys": b64(self._keys),
                "devices": b64(devices),
                "eventlog": b64(self._log),
                "bootlog": b64(self.tee.boot_log()),
                "evidence": b64(evidence),
                "device_evidence": device_evidence_json(found),
                "collateral": None if collateral is None else {self.tee.kind: dict(collateral)},
            }

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
        return self._steps[self._at].stage

    def _usable(self) -> None:
        if self._broken:
            raise RefusedRequest("failed", f"this machine has failed: {self._broken}")
        if self.is_over:
            raise RefusedRequest("order", "all stages are complete")

    def _append(self, event: AgentEvent) -> None:
        # The log line is written before the register is extended. If one of the two is lost, log and register differ
        # and every verifier refuses the machine.
        line = encode_line(self._seq, event)
        self._log += line + b"\n"
        self._seq += 1
        if not self._staged:
            return
        try:
            self._extend_register(digest(line))
        except BaseException as error:
            self._broken = f"extend of `{event.name}`: {error}"
            raise

    def _extend_register(self, value: bytes) -> None:
        self.tee.extend(value)
        self._value = extend(self._value, value)
        if self.tee.rtmr3() != self._value:
            raise HostError("RTMR3 differs from the replay of the agent's log")


Gpus = Callable[[Gpu, Layout], GpuReader]


def reader_of(gpu: Gpu, layout: Layout) -> GpuReader:
    """The reader of this machine's GPUs."""
    return GpuReader(layout.gpu_socket, gpu)


def serve(
    *,
    tee: Tee | None = None,
    gpus: Gpus = reader_of,
    layout: Layout | None = None,
    table: stages.Table = stages.STAGES,
) -> int:
    """Run the attestor until SIGTERM. Only this thread receives signals."""
    layout = layout or Layout()
    signals = {signal.SIGUSR1, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        config = configuration.read(layout.config)
        reader = None if config.gpu is None else gpus(config.gpu, layout)
        attestor = Attestor(config, tee or detect(), gpus=reader, table=table)
        stage = wire.listen(layout.stage_socket, mode=0o600)
        quotes = wire.listen(layout.quote_socket, mode=0o660, group=layout.server_id)
    except (PrivmlError, OSError) as error:
        console.say(f"privml: attestor: {error}")
        return 1
    threading.Thread(target=_serve_stages, args=(attestor, stage, layout), daemon=True).start()
    threading.Thread(target=_serve_quotes, args=(attestor, quotes, layout), daemon=True).start()
    while signal.sigwait(signals) == signal.SIGUSR1:
        try:
            attestor.fail("a stage or the engine failed")
        except (PrivmlError, OSError) as error:
            console.say(f"privml: attestor: {error}")
    return 0


def _serve_stages(attestor: Attestor, listener: socket.socket, layout: Layout) -> None:
    """Serve one caller at a time until the last stage is complete, then remove the socket."""

    def answer(value: object) -> dict[str, Any]:
        request = Fields(value, "request")
        op = request.text("op", one_of=("platform", "keys", "stage", "extend"))
        section = request.base64("keys") if op == "keys" else b""
        stage = request.text("stage") if op == "stage" else ""
        event = AgentEvent(request.text("name"), request.base64("payload")) if op == "extend" else None
        request.end()
        if op == "keys":
            attestor.keys(section)
        elif op == "stage":
            attestor.stage(stage)
        elif event is not None:
            attestor.extend(event)
        if attestor.is_over:
            layout.stage_socket.unlink()
            listener.close()
        why = str(attestor.tee.why) if isinstance(attestor.tee, NoTee) else ""
        return {"tee": attestor.tee.name, "why": why}

    while not attestor.is_over:
        connection, _ = listener.accept()
        _converse(connection, (layout.root_id,), answer)


def _serve_quotes(attestor: Attestor, listener: socket.socket, layout: Layout) -> None:
    """Answer requests for quotes; the console shows a fault once, until a quote succeeds."""
    shown: QuoteFault | None = None

    def answer(value: object) -> dict[str, Any]:
        nonlocal shown
        request = Fields(value, "request")
        request.text("op", one_of=("quote",))
        root = request.hexadecimal("root", 32)
        purpose = request.text("purpose", one_of=tuple(stages.STAGE_OF))
        request.end()
        try:
            made = attestor.quote(root, purpose)
        except QuoteError as failed:
            if failed.fault != shown:
                shown = failed.fault
                console.say(f"privml: attestor: no quote: {shown}")
            raise
        shown = None
        return made

    while True:
        connection, _ = listener.accept()
        _converse(connection, (layout.root_id, layout.server_id), answer)


def _converse(connection: socket.socket, allowed: tuple[int, ...], answer: Any) -> None:
    """Read one request and answer it or say why not. No input from a caller can end the thread."""
    with connection:
        try:
            if wire.peer(connection)[1] not in allowed:
                return
            request = wire.receive(connection, limit=wire.MAX_REQUEST, timeout=_REQUEST_TIMEOUT)
            reply = _reply(answer, request)
            connection.settimeout(_REQUEST_TIMEOUT)
            wire.send(connection, reply)
        except (OSError, EvidenceError):
            return


def _reply(answer: Any, request: object) -> dict[str, Any]:
    try:
        return {"ok": answer(request)}
    except RefusedRequest as refused:
        code, why = refused.code, refused.message
    except NoTeeError as absent:
        code, why = "no-tee", absent.message
    except QuoteError as failed:
        code, why = failed.fault.code, failed.message
    except EvidenceError as malformed:
        code, why = "malformed", malformed.message
    except (PrivmlError, OSError) as error:
        code, why = "unavailable", str(error)
    return {"error": {"code": code, "message": why}}


class AttestorClient:
    """Client of the attestor's sockets, for the other processes of the agent."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def platform(self) -> tuple[str, str]:
        """Name of the TEE, and why there is none; ``HostError`` until the attestor is listening."""
        answer = Fields(self._drive({"op": "platform"}), "platform")
        found = answer.text("tee"), answer.text("why", limit=1000)
        answer.end()
        return found

    def keys(self, section: bytes) -> None:
        """Send the keys section (once)."""
        self._drive({"op": "keys", "keys": b64(section)})

    def stage(self, name: str) -> None:
        """Go to the next stage of the table; once the last stage is complete the stage socket is removed."""
        self._drive({"op": "stage", "stage": name})

    def extend(self, event: AgentEvent) -> None:
        """Extend one event of the current stage."""
        self._drive({"op": "extend", "name": event.name, "payload": b64(event.payload)})

    def watch(self) -> int:
        """A pidfd of the attestor, readable once it has exited."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_REQUEST_TIMEOUT)
            connection.connect(str(self._layout.stage_socket))
            return os.pidfd_open(wire.peer(connection)[0])

    def quote(self, root: bytes, purpose: str, *, timeout: float) -> dict[str, Any]:
        """Document parts over ``root`` for ``purpose``; raises ``RefusedRequest`` with the attestor's code."""
        request = {"op": "quote", "root": root.hex(), "purpose": purpose}
        fields = Fields(self._ask(self._layout.quote_socket, request, timeout=timeout), "quote")
        names = ("header", "keys", "devices", "eventlog", "bootlog", "evidence")
        parts: dict[str, Any] = {name: fields.base64(name) for name in names}
        parts["device_evidence"] = device_evidence(fields)
        parts["collateral"] = fields.take("collateral")
        fields.end()
        return parts

    def _drive(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._ask(self._layout.stage_socket, request, timeout=60.0)

    def _ask(self, path: Any, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        answer = Fields(wire.ask(path, request, timeout=timeout), "attestor")
        if answer.has("error"):
            error = answer.fields("error")
            raise RefusedRequest(error.text("code"), f"attestor: {error.text('message', limit=100_000)}")
        result = answer.take("ok")
        answer.end()
        if not isinstance(result, dict):
            raise EvidenceError("attestor.ok: not an object")
        return result


if __name__ == "__main__":
    sys.exit(serve())
