"""The root process that owns everything attested: the keys section, the agent's log, RTMR3, and quotes.

It listens on three sockets. The stage socket (root only) accepts `platform`, `keys`, `stage` and `extend`, in the
order fixed by the stage table and the measured configuration, and `release_quote` while the boot is at the stage for
`key-release`; it is closed and unlinked after the last stage. The quote socket (the server's group) accepts only
`quote` with a 32-byte root, and answers only once the machine is ready to serve. An attacker who takes over the
network-facing process can therefore get quotes over this machine's real keys and real log, and nothing else. The
control socket (root only) accepts `suspend` and `resume`, and nothing else: in between no quote is given.

SIGUSR1 reports a failure: `failed` is extended before anything else happens, and no further quote is given.

An attestor that exits is started again. It goes on from the place that it saved before each step (`agent.place`),
with quotes suspended, or parks: then it answers every request by why, and never gives a quote.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from privml.agent import console, vital, wire
from privml.agent.attestorstate import Attestor
from privml.agent.gpucheck import GpuReader
from privml.agent.layout import Layout
from privml.agent.place import Place, PlaceFile
from privml.agent.tee import NoTee, NoTeeError, Tee, detect
from privml.agent.wire import RefusedRequest
from privml.base.errors import PrivmlError
from privml.base.strictjson import Fields
from privml.events import configuration, stages
from privml.events.agent import AgentEvent
from privml.events.gpus import Gpu
from privml.evidence.quotefault import QuoteError, QuoteFault

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
        kept, tee = PlaceFile(layout.attestor_place, layout.root_id), tee or detect()
        place = _place_of(kept, tee, layout)
        attestor = Attestor(config, tee, gpus=reader, table=table, keep=kept.save, place=place)
        layout.stage_socket.unlink(missing_ok=True)
        stage = None if attestor.is_over or attestor.parked else wire.listen(layout.stage_socket, mode=0o600)
        control = wire.listen(layout.control_socket, mode=0o600)
        quotes = wire.listen(layout.quote_socket, mode=0o660, group=layout.server_id)
    except (PrivmlError, OSError) as error:
        console.say(f"privml: attestor: {error}")
        return 1
    if place is not None:
        console.say(f"privml: attestor: {attestor.parked or 'started again'}")
    if stage is not None:
        vital.begin("attestor", partial(_serve_stages, attestor, stage, layout))
    vital.begin("attestor", partial(_serve_control, attestor, control, layout))
    vital.begin("attestor", partial(_serve_quotes, attestor, quotes, layout))
    while signal.sigwait(signals) == signal.SIGUSR1:
        try:
            attestor.fail("a stage or the engine failed")
        except (PrivmlError, OSError) as error:
            console.say(f"privml: attestor: {error}")
    return 0


def _place_of(kept: PlaceFile, tee: Tee, layout: Layout) -> Place | None:
    """The place to go on at; None for the first attestor of this boot."""
    try:
        place = kept.load()
    except (PrivmlError, OSError) as error:
        return Place(tee.name, left=0, failed=f"the attestor was started again: {error}")
    if place is None and layout.tls_certificate.exists():
        # The boot process makes keys once, and the first attestor has saved its place long before.
        return Place(tee.name, left=0, failed="the attestor was started again, and its place is not there")
    return place


def _serve_stages(attestor: Attestor, listener: socket.socket, layout: Layout) -> None:
    """Serve one caller at a time until the last stage is complete, then remove the socket."""
    quotes = _Quotes(attestor, stages.KEY_RELEASE)

    def answer(value: object) -> dict[str, Any]:
        request = Fields(value, "request")
        op = request.text("op", one_of=("platform", "keys", "stage", "extend", "release_quote"))
        section = request.base64("keys") if op == "keys" else b""
        stage = request.text("stage") if op == "stage" else ""
        event = AgentEvent(request.text("name"), request.base64("payload")) if op == "extend" else None
        root = request.hexadecimal("root", 32) if op == "release_quote" else b""
        request.end()
        if op == "release_quote":
            return quotes.give(root)
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
        wire.converse(connection, (layout.root_id,), answer)


def _serve_control(attestor: Attestor, listener: socket.socket, layout: Layout) -> None:
    """Suspend and resume quotes for the boot process."""

    def answer(value: object) -> dict[str, Any]:
        request = Fields(value, "request")
        op = request.text("op", one_of=("suspend", "resume"))
        request.end()
        if op == "suspend":
            attestor.suspend()
        else:
            attestor.resume()
        return {}

    while True:
        connection, _ = listener.accept()
        wire.converse(connection, (layout.root_id,), answer)


def _serve_quotes(attestor: Attestor, listener: socket.socket, layout: Layout) -> None:
    """Answer the server's requests for quotes."""
    quotes = _Quotes(attestor, stages.SERVE)

    def answer(value: object) -> dict[str, Any]:
        request = Fields(value, "request")
        request.text("op", one_of=("quote",))
        root = request.hexadecimal("root", 32)
        request.end()
        return quotes.give(root)

    while True:
        connection, _ = listener.accept()
        wire.converse(connection, (layout.root_id, layout.server_id), answer)


class _Quotes:
    """Quotes for one purpose. The console shows a fault once, until a quote succeeds."""

    def __init__(self, attestor: Attestor, purpose: str) -> None:
        self._attestor = attestor
        self._purpose = purpose
        self._shown: QuoteFault | None = None

    def give(self, root: bytes) -> dict[str, Any]:
        """Document parts over ``root``; ``RefusedRequest`` says why there are none."""
        try:
            made = self._attestor.quote(root, self._purpose)
        except NoTeeError as absent:
            raise RefusedRequest("no-tee", absent.message) from absent
        except QuoteError as failed:
            if failed.fault != self._shown:
                self._shown = failed.fault
                console.say(f"privml: attestor: no quote: {self._shown}")
            raise RefusedRequest(failed.fault.code, failed.message) from failed
        self._shown = None
        return made


if __name__ == "__main__":
    sys.exit(serve())
