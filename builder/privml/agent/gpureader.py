"""The short-lived process that loads the driver's library: one question, one answer, then it is gone.

systemd starts one for each connection to the reader's socket, with a user of its own, `/dev/nvidia*` and nothing else
(`privml-gpu@.service`). Standard input is the connection.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable

from privml.agent import console, gpuanswer, wire
from privml.agent.gpuanswer import Fabric, Question, Reading
from privml.agent.nscq import Nscq
from privml.agent.nvml import Nvml
from privml.base.errors import PrivmlError
from privml.evidence.document import GPU, SWITCH, DeviceEvidence

LIMIT = 50
"""Seconds until the process ends itself; the one that asks waits a little longer."""

Read = Callable[[Question], Reading]


def read(
    asked: Question, open_library: Callable[[], Nvml] = Nvml, open_switches: Callable[[], Nscq] = Nscq
) -> Reading:
    """Read the state of all GPUs, and a report of each if they are confidential and there are as many as nonces.

    Otherwise there is nothing to ask a GPU, and its state says why. Switches are read alike, if they are asked for.
    """
    linked = asked.switches is not None
    with open_library() as nvml:
        state = nvml.state_of_board() if linked else nvml.state()
        gpus = [nvml.gpu(index) for index in range(nvml.count())]
        persistent = tuple(nvml.is_persistent(gpu) for gpu in gpus)
        if not state.is_confidential:
            return Reading(state, False, persistent, (), Fabric((), ()) if linked else None)
        ready = nvml.is_ready()
        joined = tuple(nvml.has_joined(gpu) for gpu in gpus) if linked else ()
        evidence: list[DeviceEvidence] = []
        if len(gpus) == len(asked.gpus):
            evidence = [
                DeviceEvidence(GPU, nvml.report(gpu, nonce), nvml.certificates(gpu))
                for gpu, nonce in zip(gpus, asked.gpus, strict=True)
            ]
    fabric = None if asked.switches is None else _fabric(joined, asked.switches, open_switches)
    return Reading(state, ready, persistent, tuple(evidence), fabric)


def _fabric(joined: tuple[bool, ...], nonces: tuple[bytes, ...], open_switches: Callable[[], Nscq]) -> Fabric:
    """The mode of each switch, and a report of each if there are as many as nonces."""
    with open_switches() as nscq:
        switches = nscq.switches()
        modes = tuple(nscq.mode(switch) for switch in switches)
        if len(switches) != len(nonces):
            return Fabric(joined, modes)
        evidence = [
            DeviceEvidence(SWITCH, nscq.report(switch, nonce), nscq.certificates(switch))
            for switch, nonce in zip(switches, nonces, strict=True)
        ]
    return Fabric(joined, modes, tuple(evidence))


def answer(connection: socket.socket, reads: Read) -> None:
    """Answer the one question of ``connection``."""
    try:
        asked = wire.receive(connection, limit=gpuanswer.MAX_QUESTION, timeout=10.0, what="reader")
        reply = reads(gpuanswer.question_of(asked)).encode()
    except PrivmlError as error:
        reply = gpuanswer.failure(error.message)
    wire.send(connection, reply)


def main(reads: Read = read) -> int:
    """Answer the question on standard input."""
    signal.alarm(LIMIT)
    try:
        with socket.socket(fileno=0) as connection:
            answer(connection, reads)
    except (OSError, PrivmlError) as error:
        console.say(f"privml: gpu reader: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
