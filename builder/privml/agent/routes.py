"""Answer requests, whatever carries them. Nothing of a request or an answer is kept.

`/healthz`, `/readyz`, `/boot-stages` and `/.well-known/privml-attestation` are answered here; `/v1/` goes to the
engine, if the measured configuration names one, `/x/NAME/` to the service of that name; both only once every stage
has passed. `gateway` opens sealed requests, which come back here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from privml.agent import gateway, headers
from privml.agent.answers import Answer, Asked, Denied, json_answer
from privml.agent.attestation import Attestation
from privml.agent.channelkeys import ChannelKeys
from privml.agent.exchange import Exchange
from privml.agent.inference import engine_body
from privml.agent.layout import Layout
from privml.base.errors import PrivmlError
from privml.base.strictjson import canonical, loads
from privml.engines.engine import Engine
from privml.engines.registry import engine_named
from privml.engines.requests import UnsupportedError
from privml.events import services
from privml.events.configuration import Config

ENGINE_TIMEOUT = 900.0
SERVICE_TIMEOUT = 120.0
SERVICE_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
SERVICE_BODY = 2 * 1024 * 1024
ATTESTATION = "/.well-known/privml-attestation"
Admit = Callable[[], contextlib.ExitStack]
"""Gives a turn, or raises `Denied`."""


class Routes:
    """The answers of one machine. Thread-safe.

    At most ``max_concurrency`` answers of the engine and the services are open at a time.
    """

    def __init__(self, config: Config, layout: Layout) -> None:
        self._engine = None if config.engine is None else engine_named(config.engine.name)
        self._services = frozenset(service.name for service in config.services)
        self._layout = layout
        self._attestation = Attestation(layout)
        self._turns = threading.BoundedSemaphore(config.max_concurrency)
        self.channel = ChannelKeys(layout)
        body = self._engine.requests.body if self._engine else 0
        content = max(body, SERVICE_BODY if self._services else 0)
        self._gateway = gateway.Gateway(
            self.channel, content, self._admit, lambda asked, turn: self._routed(asked, lambda: turn)
        )

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request, to be closed by the caller; `Denied` when there is none."""
        if asked.path in gateway.PATHS:
            return self._gateway.answer(asked)
        return self._routed(asked, self._admit)

    def _routed(self, asked: Asked, admit: Admit) -> Answer:
        """The answer to an open request, or to one that was sealed."""
        if asked.path.startswith("/v1/"):
            return self._inference(asked, admit)
        if asked.path.startswith(services.PREFIX):
            return self._service(asked, admit)
        return self._own(asked)

    def _own(self, asked: Asked) -> Answer:
        """The answer of the agent itself."""
        ready, stages = self._attestation.stages()
        if asked.path not in ("/healthz", "/readyz", "/boot-stages", ATTESTATION):
            raise Denied(404, "not-found", "unknown path")
        if asked.method not in ("GET", "HEAD"):
            raise Denied(405, "method", f"{asked.path} expects GET")
        asked.read(0)
        if asked.path == "/healthz":
            return json_answer(200, b'{"alive":true}\n')
        if asked.path == "/readyz":
            return json_answer(200 if ready else 503, canonical({"ready": ready}) + b"\n")
        if asked.path == "/boot-stages":
            return json_answer(200, stages)
        return json_answer(200, self._attestation.document(asked.query))

    def _inference(self, asked: Asked, admit: Admit) -> Answer:
        engine = self._engine
        if engine is None:
            raise Denied(404, "no-inference", "this image runs no model; it only attests")
        with admit() as turn:
            body = asked.read(engine.requests.body)
            shown = _shown(engine, asked, body)
            place = self._layout.engine_socket(engine)
            try:
                exchange = _exchange(place, asked, asked.path, shown, ENGINE_TIMEOUT)
            except PrivmlError as error:
                raise Denied(502, "engine", "the engine does not answer") from error
            return _streamed(turn, exchange)

    def _service(self, asked: Asked, admit: Admit) -> Answer:
        name, slash, rest = asked.target.removeprefix(services.PREFIX).partition("/")
        if not slash or name not in self._services:
            raise Denied(404, "no-service", "this image has no service of that name")
        if asked.method not in SERVICE_METHODS:
            raise Denied(405, "method", f"a service expects {', '.join(SERVICE_METHODS)}")
        with admit() as turn:
            body = asked.read(SERVICE_BODY)
            try:
                exchange = _exchange(self._layout.service_socket(name), asked, f"/{rest}", body, SERVICE_TIMEOUT)
            except PrivmlError as error:
                raise Denied(502, "service", f"the service {name} does not answer") from error
            return _streamed(turn, exchange)

    def _must_be_ready(self) -> None:
        ready, stages = self._attestation.stages()
        if not ready:
            # The stage list is next to the error, so that an operator sees the reason from any client.
            raise Denied(503, "not-ready", "this machine is not ready", stages=loads(stages, what="stages"))

    def _admit(self) -> contextlib.ExitStack:
        """One of the concurrent answers of a machine that is ready, given back at the end of the block unless it was
        handed on.
        """
        self._must_be_ready()
        if not self._turns.acquire(blocking=False):
            raise Denied(429, "busy", "this machine is already answering as many requests as it can")
        turn = contextlib.ExitStack()
        turn.callback(self._turns.release)
        return turn


def _shown(engine: Engine, asked: Asked, body: bytes) -> bytes:
    """The body that the engine gets."""
    try:
        return engine_body(engine.requests, asked.method, asked.path, asked.query, body)
    except UnsupportedError as error:
        raise Denied(error.status, "unsupported", error.message) from error


def _exchange(place: Path, asked: Asked, target: str, body: bytes, timeout: float) -> Exchange:
    """Send a request to the unix socket ``place``, with the headers that are passed on."""
    return Exchange(place, asked.method, target, headers.forwarded(asked.headers), body, timeout=timeout)


def _streamed(turn: contextlib.ExitStack, exchange: Exchange) -> Answer:
    """The answer of the engine or a service as it arrives; it keeps the turn until it is closed."""
    turn.callback(exchange.close)
    kept = turn.pop_all()
    return Answer(exchange.status, headers.returned(exchange.headers), exchange.pieces(), close=kept.close)
