"""Answer requests, whatever carries them. Nothing of a request or an answer is kept but the digests in its receipt.

`/healthz`, `/readyz`, `/boot-stages`, `/.well-known/privml-attestation` and, if the measured configuration says so,
`/metrics` are answered here, the paths of key release by `keydelivery`; `/v1/` goes to the engine, if there is one,
`/x/NAME/` to the service of that name; both only once every stage has passed. `gateway` opens sealed requests, which
come back here.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from privml.agent import endings, gateway, headers, identity, keydelivery
from privml.agent.admission import PerAddress, Places, shared
from privml.agent.answers import READING, Answer, Asked, Denied, expect_method, json_answer, own_answer
from privml.agent.attestation import Attestation
from privml.agent.callers import Callers
from privml.agent.channelkeys import ChannelKeys
from privml.agent.endings import EndedEngineError, Endings
from privml.agent.exchange import Exchange, NotConnectedError
from privml.agent.inference import engine_body
from privml.agent.layout import Layout
from privml.agent.metrics import CONTENT_TYPE, REQUESTS, Metrics, class_of
from privml.agent.receipts import Receipts, nonce_of
from privml.agent.usage import Ledger
from privml.base.errors import PrivmlError
from privml.base.strictjson import canonical, loads
from privml.channel import receipt, usage
from privml.channel.ohttp import GATEWAY
from privml.channel.token import CLOCK_PATH, INFERENCE, USAGE
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
METRICS = "/metrics"
BUSY_RETRY, READY_RETRY, DRAIN_RETRY = 1, 5, 5
"""Seconds after which to ask again when all turns are taken, before the machine is ready, and when it ends."""
_SINCE = re.compile(r"\A(?:since=([0-9]{1,15}))?\Z")
Begin = Callable[[Asked, int], tuple[contextlib.ExitStack, bytes]]
"""Gives a turn for the answer to a request, and its whole body of at most so many bytes; or raises `Denied`."""


class Routes:
    """The answers of one machine. Thread-safe.

    At most ``max_concurrency`` answers of the engine and the services are open at a time, and at most
    `admission.shared` requests to them, so that connections are left for everything else.
    """

    def __init__(self, config: Config, layout: Layout, metrics: Metrics) -> None:
        self._engine = None if config.engine is None else engine_named(config.engine.name)
        self._engine_socket = None if self._engine is None else layout.engine_socket(self._engine)
        self._services = frozenset(service.name for service in config.services)
        self._layout = layout
        self._attestation = Attestation(layout)
        self._keys = keydelivery.KeyDelivery(config, layout, self._attestation)
        self._endings = Endings(lambda: self._attestation.table().restarts("engine"))
        self._receipts = Receipts(config, identity.load_receipt(layout), identity.section(layout))
        self._turns = Places(config.max_concurrency)
        self._requests = Places(shared(config.max_concurrency))
        self._attesting = PerAddress(config.per_address)
        self._own = {"/healthz", "/readyz", "/boot-stages", ATTESTATION, *([METRICS] if config.metrics else [])}
        self._metrics = metrics
        self._stopped = False
        section = hashlib.sha256(identity.section(layout)).digest()
        self._callers = Callers(config, identity.load_receipt(layout), section)
        self._ledger = Ledger()
        if self._callers.issues:
            self._own.add(CLOCK_PATH)
        self.channel = ChannelKeys(layout)
        body = self._engine.requests.body if self._engine else 0
        content = max(body, SERVICE_BODY if self._services else 0)
        self._gateway = gateway.Gateway(self.channel, content, self._begin, self._opened)

    def stop(self) -> None:
        """Deny requests to the engine and the services from now on; the machine is no longer ready."""
        self._stopped = True

    def watch(self) -> None:
        """Notice when the engine exits, from now on."""
        self._endings.watch()

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request, to be closed by the caller; `Denied` when there is none."""
        try:
            answer = self._answer(asked)
        except Denied as denied:
            self._metrics.count(REQUESTS, _kind(asked), class_of(denied.status))
            raise
        self._metrics.count(REQUESTS, _kind(asked), class_of(answer.status))
        return answer

    def _answer(self, asked: Asked) -> Answer:
        if asked.path in gateway.PATHS:
            return self._gateway.answer(asked)
        return self._routed(asked, self._begin)

    def _opened(self, asked: Asked, turn: contextlib.ExitStack) -> Answer:
        """The answer to a request that was sealed, within the turn of what it came in."""
        return self._routed(asked, lambda asked, limit: (turn, asked.read(limit)))

    def _routed(self, asked: Asked, begin: Begin) -> Answer:
        if asked.path.startswith("/v1/"):
            return self._inference(asked, begin)
        if asked.path.startswith(services.PREFIX):
            return self._service(asked, begin)
        if asked.path in keydelivery.PATHS:
            return self._keys.answer(asked, self._document)
        return self._by_itself(asked)

    def _by_itself(self, asked: Asked) -> Answer:
        """The answer of the agent itself."""
        ready, stages = self._attestation.stages()
        if asked.path not in self._own:
            raise Denied(404, "not-found", "unknown path")
        expect_method(asked.method, READING, asked.path)
        asked.read(0)
        if asked.path == "/healthz":
            return json_answer(200, b'{"alive":true}\n')
        if asked.path == "/readyz":
            ready = ready and not self._stopped
            return json_answer(200 if ready else 503, canonical({"ready": ready}) + b"\n")
        if asked.path == "/boot-stages":
            return json_answer(200, stages)
        if asked.path == CLOCK_PATH:
            return json_answer(200, self._callers.clock())
        if asked.path == METRICS:
            return own_answer(200, CONTENT_TYPE, self._metrics.text())
        return self._document(asked, self._attestation.documents.document)

    def _document(self, asked: Asked, made: Callable[[str], bytes]) -> Answer:
        """An attestation document, ``made`` for the query. The address's share is taken until all of it was sent."""
        if not self._attesting.enter(asked.address):
            text = "this address is already being sent as many attestation documents as one may"
            raise Denied(429, "address-busy", text, BUSY_RETRY)
        with contextlib.ExitStack() as share:
            share.callback(self._attesting.leave, asked.address)
            share.enter_context(asked.share())
            answer = json_answer(200, made(asked.query))
            return replace(answer, close=share.pop_all().close)

    def _inference(self, asked: Asked, begin: Begin) -> Answer:
        engine, place = self._engine, self._engine_socket
        if engine is None or place is None:
            raise Denied(404, "no-inference", "this image runs no model; it only attests")
        if asked.path == usage.PATH and self._callers.issues:
            return self._usage(asked)
        subject = self._admit(asked)
        if asked.path.startswith(receipt.PATH):
            return self._receipt(asked)
        nonce = nonce_of(asked)
        turn, body = begin(asked, engine.requests.body)
        with turn:
            if subject:
                self._ledger.begin(subject)
            shown = _shown(engine, asked, body)
            answer = self._of_engine(place, asked, shown, turn)
            if asked.method == "POST":
                answer = self._receipts.of(answer, asked, nonce=nonce, received=body, forwarded=shown)
            return self._counted(subject, answer)

    def _receipt(self, asked: Asked) -> Answer:
        """A receipt by its id, also of an answer that ended because the engine did."""
        expect_method(asked.method, READING, receipt.PATH)
        asked.read(0)
        found = self._receipts.find(asked.target.removeprefix(receipt.PATH))
        if found is None:
            raise Denied(404, "no-receipt", "no receipt with this id is kept")
        return json_answer(200, found)

    def _of_engine(self, place: Path, asked: Asked, body: bytes, turn: contextlib.ExitStack) -> Answer:
        """The engine's answer to a request that it may get."""
        try:
            running = self._endings.begin(asked.path, body)
        except EndedEngineError as error:
            raise Denied(422, endings.CODE, error.message) from error
        turn.callback(self._endings.end, running)
        try:
            exchange = _exchange(place, asked, asked.path, body, ENGINE_TIMEOUT)
        except PrivmlError as error:
            running.answered = isinstance(error, NotConnectedError)  # it was not sent
            raise Denied(502, "engine", "the engine does not answer") from error
        return _streamed(turn, exchange, running.pieces(exchange.status, exchange.pieces()))

    def _usage(self, asked: Asked) -> Answer:
        """What the subjects used, for whoever has a token for that; also of a machine that is being stopped."""
        self._admit(asked, USAGE)
        expect_method(asked.method, READING, usage.PATH)
        asked.read(0)
        since = _SINCE.match(asked.query)
        if since is None:
            raise Denied(400, "since", "expected `?since=` and the number of a line, or no query")
        return json_answer(200, self._callers.usage(*self._ledger.lines(int(since[1] or 0))))

    def _counted(self, subject: str, answer: Answer) -> Answer:
        return self._ledger.counting(answer, subject) if subject else answer

    def _service(self, asked: Asked, begin: Begin) -> Answer:
        name, slash, rest = asked.target.removeprefix(services.PREFIX).partition("/")
        if not slash or name not in self._services:
            raise Denied(404, "no-service", "this image has no service of that name")
        expect_method(asked.method, SERVICE_METHODS, "a service")
        subject = self._admit(asked)
        turn, body = begin(asked, SERVICE_BODY)
        with turn:
            if subject:
                self._ledger.begin(subject)
            try:
                exchange = _exchange(self._layout.service_socket(name), asked, f"/{rest}", body, SERVICE_TIMEOUT)
            except PrivmlError as error:
                raise Denied(502, "service", f"the service {name} does not answer") from error
            return self._counted(subject, _streamed(turn, exchange, exchange.pieces()))

    def _admit(self, asked: Asked, use: str = INFERENCE) -> str:
        """The subject that the request is for; `Denied` if it may not be answered, or was answered before."""
        subject = self._callers.admit(asked, use)
        asked.once()
        return subject

    def _must_be_ready(self) -> None:
        if self._stopped:
            raise Denied(503, "stopping", "this machine is being stopped", DRAIN_RETRY)
        if not self._attestation.table().ready:
            # The stage list is next to the error, so that an operator sees the reason from any client.
            _, stages = self._attestation.stages()
            table = loads(stages, what="stages")
            raise Denied(503, "not-ready", "this machine is not ready", READY_RETRY, stages=table)

    def _begin(self, asked: Asked, limit: int) -> tuple[contextlib.ExitStack, bytes]:
        """A turn among the concurrent answers of a machine that is ready, and the body.

        The turn is taken once the body was read: one that arrives slowly would keep others out. Until then the
        request has one of fewer other places. A busy machine says so before it reads.
        """
        self._must_be_ready()
        if not self._requests.enter():
            raise Denied(503, "full", "this machine has as many requests open as it can", BUSY_RETRY)
        with contextlib.ExitStack() as held:
            held.callback(self._requests.leave)
            held.enter_context(asked.share())
            self._take_turn()
            self._turns.leave()
            body = asked.read(limit)
            self._take_turn()
            held.callback(self._turns.leave)
            return held.pop_all(), body

    def _take_turn(self) -> None:
        if not self._turns.enter():
            text = "this machine is already answering as many requests as it can"
            raise Denied(429, "busy", text, BUSY_RETRY)


def _kind(asked: Asked) -> str:
    """What a request is counted as: one of `metrics.KINDS`."""
    if asked.path.startswith("/v1/"):
        return "inference"
    if asked.path.startswith(services.PREFIX):
        return "service"
    return {ATTESTATION: "attestation", GATEWAY: "sealed"}.get(asked.path, "other")


def _shown(engine: Engine, asked: Asked, body: bytes) -> bytes:
    """The body that the engine gets."""
    try:
        return engine_body(engine.requests, asked.method, asked.path, asked.query, body)
    except UnsupportedError as error:
        raise Denied(error.status, error.code, error.message, methods=error.methods) from error


def _exchange(place: Path, asked: Asked, target: str, body: bytes, timeout: float) -> Exchange:
    """Send a request to the unix socket ``place``, with the headers that are passed on."""
    sent = headers.forwarded(asked.headers)
    return Exchange(place, asked.method, target, sent, body, timeout=timeout, caller=asked.caller)


def _streamed(turn: contextlib.ExitStack, exchange: Exchange, pieces: Iterable[bytes]) -> Answer:
    """The answer of the engine or a service as it arrives; it keeps the turn until it is closed."""
    turn.callback(exchange.close)
    kept = turn.pop_all()
    found = headers.returned(exchange.headers)
    return Answer(exchange.status, found, pieces, close=kept.close, ready=exchange.ready)
