"""Floods, slow callers and a server that is stopped: whoever behaves is still served."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_guest import NO_MODEL, FakeEngine, Guest, a_config, guest
from burst import burst

from privml.agent import admission, conversation, identity, server
from privml.agent.admission import Admission, PerAddress, Places, Slot
from privml.agent.answers import Answer
from privml.agent.layout import Layout
from privml.agent.metrics import CLASSES, REQUESTS, Metrics, class_of
from privml.agent.pace import Pace
from privml.engines.registry import engine_named
from privml.events.configuration import Config
from privml.events.stagetable import Row, StageTable

ATTESTATION = "/.well-known/privml-attestation"
CHAT = "/v1/chat/completions"
PROMPT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(PROMPT).encode()
STREAM = json.dumps(PROMPT | {"stream": True}).encode()
SMALL = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n"
SOON = 5.0
"""Seconds by which what must happen has happened, on a machine however busy."""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# The room for connections.


def a_slot(room: Admission, address: str, cut: Callable[[], None]) -> Slot:
    slot = room.admit(address, cut)
    assert isinstance(slot, Slot)
    return slot


def test_a_full_room_ends_what_waits_longest_and_never_a_request() -> None:
    clock, cut = Clock(), []
    room = Admission(1, 0, reserve=-14, clock=clock)  # 3 connections
    first, second, third = (a_slot(room, f"192.0.2.{n}", lambda n=n: cut.append(n)) for n in range(3))
    assert room.admit("192.0.2.9", cut.clear) == "full"  # handshakes that have just begun
    first.busy()
    third.idle()
    second.idle()
    fourth = a_slot(room, "192.0.2.9", lambda: cut.append(9))
    assert cut == [2]
    assert not third.busy()  # too late: it has lost its place
    a_slot(room, "192.0.2.9", lambda: cut.append(10))
    assert cut == [2, 1]
    clock.now += admission.YOUNG
    a_slot(room, "192.0.2.9", cut.clear)
    assert cut == [2, 1, 9]
    fourth.leave()
    first.leave()
    a_slot(room, "192.0.2.9", cut.clear)
    assert cut == [2, 1, 9]


def test_a_request_without_a_share_loses_its_place_after_those_that_have_none() -> None:
    cut: list[int] = []
    room = Admission(1, 0, reserve=-14)  # 3 connections
    kept, asking, idle = (a_slot(room, f"192.0.2.{n}", lambda n=n: cut.append(n)) for n in range(3))
    asking.asking()
    idle.idle()
    assert kept.busy()
    for expected in ([2], [2, 1]):
        newest = a_slot(room, "192.0.2.9", lambda: cut.append(9))
        assert newest.busy() and cut == expected
    assert room.admit("192.0.2.9", cut.clear) == "full"
    kept.asking()  # its share is over
    a_slot(room, "192.0.2.9", cut.clear)
    assert cut == [2, 1, 0]


def test_a_connection_that_is_cut_at_the_end_begins_no_request() -> None:
    room = Admission(1, 0)
    begun: list[bool] = []
    slot = a_slot(room, "192.0.2.1", lambda: begun.append(slot.busy()))
    slot.asking()
    slot.idle()
    assert room.settle(0.0)
    assert begun == [False] and not slot.busy()


def settling(room: Admission, seconds: float) -> list[bool]:
    """The result of `Admission.settle` in another thread, once it is there."""
    ended: list[bool] = []
    threading.Thread(target=lambda: ended.append(room.settle(seconds)), daemon=True).start()
    until(lambda: room.closing)
    return ended


def until(wanted: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("shaken", [False, True])
def test_a_connection_that_has_had_no_request_may_begin_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, *, shaken: bool
) -> None:
    monkeypatch.setattr(admission, "FIRST", SOON)
    cut: list[str] = []
    room = Admission(1, 0)
    earlier = a_slot(room, "192.0.2.1", lambda: cut.append("earlier"))
    earlier.asking()
    earlier.idle()
    fresh = a_slot(room, "192.0.2.2", lambda: cut.append("fresh"))
    if shaken:
        fresh.idle()
    ended = settling(room, 2 * SOON)
    until(lambda: cut == ["earlier"])
    fresh.asking()
    assert fresh.busy() and not ended
    fresh.leave()
    until(lambda: ended == [True])
    assert cut == ["earlier"]


def test_connections_that_never_ask_hold_up_the_end_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FIRST", 0.05)
    cut: list[str] = []
    room = Admission(1, 0)
    a_slot(room, "192.0.2.1", lambda: cut.append("handshake"))
    silent = a_slot(room, "192.0.2.2", lambda: cut.append("silent"))
    silent.idle()
    begun = time.monotonic()
    assert room.settle(2 * SOON)
    assert 0.05 <= time.monotonic() - begun < SOON
    assert cut == ["silent"] and not silent.busy()


def test_an_address_has_only_so_many_handshakes_and_gets_them_back() -> None:
    room = Admission(1, 2)
    slots = [a_slot(room, "192.0.2.1", lambda: None) for _ in range(2)]
    assert room.admit("192.0.2.1", lambda: None) == "address"
    assert isinstance(room.admit("192.0.2.2", lambda: None), Slot)
    slots[0].idle()
    slots[1].leave()
    slots[1].leave()
    assert [isinstance(room.admit("192.0.2.1", lambda: None), Slot) for _ in range(3)] == [True, True, False]


def test_no_more_enter_than_there_are_places_for() -> None:
    places = Places(2)
    assert [places.enter() for _ in range(3)] == [True, True, False]
    places.leave()
    assert [places.enter() for _ in range(2)] == [True, False]


def test_a_place_that_is_given_back_twice_does_not_become_two() -> None:
    places = Places(2)
    assert places.enter()
    places.leave()
    with pytest.raises(ValueError, match="nobody had"):
        places.leave()
    assert [places.enter() for _ in range(3)] == [True, True, False]


def test_nothing_of_an_address_stays() -> None:
    limit = PerAddress(2)
    assert limit.enter("192.0.2.1")
    limit.leave("192.0.2.1")
    assert not limit._held
    assert all(PerAddress(0).enter("192.0.2.1") for _ in range(99))


def test_a_pace_ends_what_is_too_slow_and_nothing_else() -> None:
    clock = Clock()
    pace = Pace(10.0, 100, clock)

    def wait(seconds: float, moved: int) -> None:
        pace.waiting()
        clock.now += seconds
        pace.moved(moved)

    for _ in range(50):
        wait(1.0, 100)
        clock.now += 500.0  # not waiting
    assert pace.left == 10.0
    wait(0.0, 1 << 30)
    assert pace.left == 10.0  # a fast start saves nothing up
    for _ in range(9):
        wait(1.0, 1)
    assert 0 < pace.left < 1.1
    wait(60.0, 1)
    with pytest.raises(TimeoutError):
        _ = pace.left


# A server in this process.


class Flood:
    """An engine that answers each request with as many bytes as are read, up to 64 MiB."""

    def __init__(self, place: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(place))
        self._listener.listen(8)
        self.ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n")
                    for _ in range(1024):
                        connection.sendall(bytes(65536))
                self.ended.set()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Running:
    """A ready server, and what speaks to it."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self.server = server.Server(config, layout)
        self.listener = server.listen(0, "127.0.0.1")
        self.port = self.listener.getsockname()[1]
        self.place = layout.engine_socket(engine_named("llama-server"))
        threading.Thread(target=self.server.serve, args=(self.listener,), daemon=True).start()

    def plain(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SOON, source_address=(source, 0))

    def tls(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(self.plain(source))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        source: str = "127.0.0.1",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port)
        connection.sock = self.tls(source)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a ready server, of `a_config` with changes."""
    started: list[Running] = []

    def begin(**changes: object) -> Running:
        folder = tmp_path / "guest"
        layout = replace(
            Layout(), run=folder / "run", engine=folder / "e", root_id=0, server_id=tmp_path.stat().st_uid
        )
        layout.run.mkdir(parents=True)
        layout.engine.mkdir()
        identity.create(layout)
        layout.stages.write_bytes(StageTable(ready=True, rows=(Row("platform", "ok"),)).encode())
        started.append(Running(a_config(**changes), layout))
        return started[-1]

    yield begin
    for running in started:
        running.listener.shutdown(socket.SHUT_RDWR)
        running.listener.close()


@contextlib.contextmanager
def an_engine(running: Running) -> Iterator[FakeEngine]:
    engine = FakeEngine(running.place)
    engine.start()
    try:
        yield engine
    finally:
        engine.hold.set()
        engine.stop()


def head(path: str, length: int) -> bytes:
    lines = f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {length}"
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def seconds_to_end(connection: socket.socket, trickle: bytes = b"") -> float:
    """Send a byte of ``trickle`` every 50 ms until the connection ends."""
    begun = time.monotonic()
    connection.settimeout(0.05)
    for byte in trickle or bytes(100):
        try:
            if trickle:
                connection.sendall(bytes([byte]))
            if not connection.recv(4096):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        pytest.fail("the connection was not ended")
    return time.monotonic() - begun


def test_half_open_handshakes_of_one_address_do_not_keep_others_out(start: Start) -> None:
    running = start(per_address=3)
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(running.plain("127.0.0.9"))
        time.sleep(0.05)
        with running.plain("127.0.0.9") as refused:
            assert seconds_to_end(refused) < SOON
        assert running.ask("GET", "/healthz", source="127.0.0.8")[0] == 200
    end = time.monotonic() + SOON
    while True:  # what ends gives its share back
        try:
            assert running.ask("GET", "/healthz", source="127.0.0.9")[0] == 200
            break
        except (OSError, ssl.SSLError, http.client.HTTPException):
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_handshake_has_a_total_deadline(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 0.2)
    running = start()
    # A record header that announces 512 bytes, then its body byte by byte.
    with running.plain() as slow:
        slow.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert 0.1 < seconds_to_end(slow, bytes(400)) < SOON


def test_a_head_has_a_total_deadline(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "HEAD_TIMEOUT", 0.2)
    with start().tls() as slow:
        assert 0.1 < seconds_to_end(slow, b"GET /healthz HTTP/1.1\r\n" + b"a" * 400) < SOON


def test_a_record_has_a_total_deadline(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record of TLS that arrives byte by byte: something arrives all the time, and nothing that can be read."""
    running = start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with running.plain() as slow:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            slow.sendall(outgoing.read())
            incoming.write(slow.recv(65536))
        slow.sendall(outgoing.read())
        monkeypatch.setattr(conversation, "IDLE_TIMEOUT", 0.3)
        assert running.ask("GET", "/healthz")[0] == 200  # the connection before it began with the longer time
        tls.write(SMALL)
        slow.sendall(outgoing.read())
        assert slow.recv(65536)
        tls.write(SMALL * 10)
        assert 0.1 < seconds_to_end(slow, outgoing.read()) < SOON


def test_a_body_that_trickles_takes_no_turn_and_is_cut(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "BODY_GRACE", 0.3)
    running = start(max_concurrency=1)
    with an_engine(running) as engine, running.tls() as slow:
        slow.sendall(head(CHAT, 500))
        assert running.ask("POST", CHAT, BODY)[0] == 200
        assert seconds_to_end(slow, BODY + b" " * 400) < SOON
        assert len(engine.requests) == 1


def test_a_body_in_very_many_pieces_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_PIECES", len(BODY))
    running = start()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
    with an_engine(running) as engine:
        for more, expected in ((b"", b"HTTP/1.1 200"), (b"1\r\n \r\n", b"too-many-pieces")):
            with running.tls() as tls:
                tls.sendall(
                    head(CHAT, 0).replace(b"content-length: 0", b"transfer-encoding: chunked\r\nconnection: close")
                )
                tls.sendall(chunks + more + b"0\r\n\r\n")
                assert expected in b"".join(iter(lambda: tls.recv(65536), b""))
        assert len(engine.requests) == 1


@pytest.mark.parametrize(("status", "has_one"), [(200, True), (204, False), (304, False)])
def test_an_answer_without_a_body_has_no_trailers(start: Start, status: int, has_one: bool) -> None:
    running = start()
    name = b"privml-receipt"
    answer = Answer(status, [(name + b"-id", b"1")], (), lambda: [(name, b"eyJ9")], announced=(name,))
    running.server._routes.answer = lambda _: answer  # type: ignore[method-assign]
    with running.tls() as tls:
        tls.sendall(SMALL.replace(b"host", b"te: trailers\r\nconnection: close\r\nhost"))
        got = b"".join(iter(lambda: tls.recv(65536), b""))
    assert got.startswith(b"HTTP/1.1 %d" % status) and got.endswith(b"\r\n\r\n")
    assert (b"eyJ9" in got, b"\r\ntrailer:" in got.lower()) == (has_one, has_one)


@pytest.mark.parametrize("asked", [b"BAD\r\n\r\n", SMALL, head(CHAT, 1 << 30)])
def test_the_last_answer_says_once_that_it_is(start: Start, monkeypatch: pytest.MonkeyPatch, asked: bytes) -> None:
    monkeypatch.setattr(Slot, "closing", property(lambda _: True))
    with start().tls() as tls:
        tls.sendall(asked)
        got = b"".join(iter(lambda: tls.recv(65536), b""))
    assert got.startswith(b"HTTP/1.1 ") and got.lower().count(b"connection: close\r\n") == 1


def test_an_answer_that_is_not_read_frees_its_turn(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "ANSWER_GRACE", 1.0)
    running = start(max_concurrency=1)
    engine = Flood(running.place)
    with running.tls() as slow:
        slow.sendall(head(CHAT, len(BODY)) + BODY)
        slow.recv(1)
        status, headers, _ = running.ask("POST", CHAT, BODY)
        assert (status, headers["retry-after"]) == (429, "1")
        # One byte now and then does not help: what counts is the rate.
        begun = time.monotonic()
        while not engine.ended.wait(0.05):
            slow.recv(1)
            assert time.monotonic() - begun < SOON
    engine.stop()


def quiet(seconds: float) -> bool:
    """Whether this process, which may still fill buffers or end what an earlier test began, rested so long."""
    before = time.process_time()
    time.sleep(seconds)
    return time.process_time() - before < seconds / 5


def test_an_answer_that_is_not_read_takes_no_processor_time(start: Start) -> None:
    running = start()
    engine = Flood(running.place)
    with running.tls() as slow:
        slow.sendall(head(CHAT, len(BODY)) + BODY)
        slow.recv(1)
        assert any(quiet(0.5) for _ in range(20)), "the server is busy while nobody reads"
    assert engine.ended.wait(SOON)
    engine.stop()


def test_little_of_an_answer_waits_unsent_in_the_kernel() -> None:
    with server.listen(0, "127.0.0.1") as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert 0 < connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) <= 1 << 17


def test_a_reader_that_keeps_the_rate_is_served_to_the_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than the grace, at a speed that fills every buffer."""
    monkeypatch.setattr(conversation, "ANSWER_GRACE", 0.8)
    running = start()
    engine = Flood(running.place)
    with running.tls() as steady:
        steady.settimeout(SOON)
        steady.sendall(head(CHAT, len(BODY)) + BODY)
        got, begun = 0, time.monotonic()
        while got < 67108864:
            piece = steady.recv(1 << 20)
            assert piece, f"cut off after {got} bytes"
            got += len(piece)
            if time.monotonic() - begun < 1.0:
                time.sleep(0.01)
        assert time.monotonic() - begun >= 1.0
    engine.stop()


def test_requests_to_the_engine_leave_room_for_health_and_stages(start: Start) -> None:
    running = start(max_concurrency=1)
    with an_engine(running) as engine, contextlib.ExitStack() as held:
        for _ in range(admission.shared(1)):
            waiting = held.enter_context(running.tls())
            waiting.sendall(head(CHAT, 500))
        end = time.monotonic() + SOON
        while (found := running.ask("POST", CHAT, BODY))[0] != 503:  # until all the bodies are awaited
            assert found[0] == 200 and time.monotonic() < end
        answered = len(engine.requests)
        assert (json.loads(found[2])["error"]["code"], found[1]["retry-after"]) == ("full", "1")
        for path in ("/healthz", "/readyz", "/boot-stages"):
            assert running.ask("GET", path)[0] == 200
        assert len(engine.requests) == answered


def test_a_busy_machine_says_so_before_it_reads_a_body(start: Start) -> None:
    running = start(max_concurrency=1)
    with an_engine(running) as engine, running.tls() as stream, running.tls() as refused:
        engine.hold.clear()
        stream.sendall(head(CHAT, len(STREAM)) + STREAM)
        assert b"200" in stream.recv(1000)
        refused.sendall(head(CHAT, 500))
        assert refused.recv(1000).startswith(b"HTTP/1.1 429")
        assert running.ask("GET", "/boot-stages")[0] == 200


def test_idle_connections_make_room_for_new_ones(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission.Admission.__init__, "__kwdefaults__", {"reserve": -11, "clock": time.monotonic})
    running = start(max_concurrency=1)  # room for 6
    with contextlib.ExitStack() as held:
        idle = []
        for _ in range(9):
            tls = held.enter_context(running.tls("127.0.0.9"))
            tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200" in tls.recv(1000)
            idle.append(tls)
        assert running.ask("GET", "/readyz", source="127.0.0.8")[0] == 200
        assert seconds_to_end(idle[0]) < SOON
        idle[-1].sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle[-1].recv(1000)


HELD = {
    "a body in chunks that trickles": b"GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
    "answers that are not read": SMALL * 500,
}


@pytest.mark.parametrize("sent", HELD.values(), ids=HELD)
def test_requests_without_a_share_cannot_hold_the_room(
    start: Start, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(admission.Admission.__init__, "__kwdefaults__", {"reserve": -11, "clock": time.monotonic})
    running = start(max_concurrency=1)  # room for 6
    with contextlib.ExitStack() as held:
        for _ in range(6):
            raw = held.enter_context(running.plain("127.0.0.9"))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            tls = held.enter_context(context.wrap_socket(raw))
            tls.settimeout(0.2)
            with contextlib.suppress(TimeoutError, ssl.SSLError):
                for _ in range(40):  # until nothing more is taken
                    tls.sendall(sent)
                    if b"chunked" in sent:
                        break
        slots, end = running.server._admission._slots, time.monotonic() + SOON
        while slots["handshake"] or slots["idle"]:
            assert time.monotonic() < end
        for _ in range(6):
            assert running.ask("GET", "/readyz", source="127.0.0.8")[0] == 200


# Counts.


def test_counts_change_once_a_minute() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    line = b'privml_requests_total{kind="inference",status="2xx"} '
    clock.now += 59
    metrics.count(REQUESTS, "inference", "2xx")
    assert line + b"0\n" in metrics.text()
    clock.now += 2
    metrics.count(REQUESTS, "inference", "2xx")
    assert line + b"1\n" in metrics.text() and b"privml_minutes_total 1\n" in metrics.text()
    clock.now += 600
    assert line + b"2\n" in metrics.text()


def test_only_what_is_listed_can_be_counted() -> None:
    metrics = Metrics(Clock())
    before = metrics.text()
    for name, labels in (("privml_prompts", ()), (REQUESTS, ("inference", "418")), (REQUESTS, ("/v1/x", "2xx"))):
        with pytest.raises(KeyError):
            metrics.count(name, *labels)
    assert metrics.text() == before


def test_every_status_has_a_label() -> None:
    assert {class_of(status) for status in range(100, 1000)} == set(CLASSES)
    assert [class_of(status) for status in (200, 429, 404, 503, 500)] == ["2xx", "429", "4xx", "503", "5xx"]


# Attestation, as callers meet it: processes of their own.


@pytest.fixture(scope="module")
def attesting() -> Iterator[Guest]:
    with guest(a_config(**NO_MODEL, per_address=4, metrics=True)) as made:
        made.start_server()
        assert made.boot().run(), made.said
        made.json("/readyz")
        yield made


def test_a_burst_of_callers_is_answered_or_told_when(attesting: Guest) -> None:
    (attesting.root / "delay").write_text("0.2")
    try:
        found = burst(attesting.config.listen, 100, 25, 0.1)
    finally:
        (attesting.root / "delay").unlink()
    assert Counter(each.statuses[-1] for each in found) == {200: 100}


def test_one_address_gets_its_share_of_documents_and_is_told_when(attesting: Guest) -> None:
    (attesting.root / "delay").write_text("0.5")
    try:
        asked = [attesting.connect() for _ in range(5)]
        for number, tls in enumerate(asked):
            tls.sendall(b"GET %s?nonce=%064x HTTP/1.1\r\nhost: x\r\n\r\n" % (ATTESTATION.encode(), number))
        found = [tls.recv(65536) for tls in asked]
    finally:
        (attesting.root / "delay").unlink()
    (refused,) = [answer for answer in found if answer.startswith(b"HTTP/1.1 429")]
    assert sorted(answer[9:12] for answer in found) == [b"200"] * 4 + [b"429"]
    assert b"retry-after: 1\r\n" in refused and b"address-busy" in refused
    for tls in asked:
        tls.close()
    assert attesting.request("GET", f"{ATTESTATION}?nonce={'5a' * 32}")[0] == 200


def test_counts_are_shown_only_where_the_configuration_says_so(attesting: Guest) -> None:
    status, headers, body = attesting.request("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert (
        b"privml_minutes_total 0\n" in body and b'privml_requests_total{kind="attestation",status="2xx"} 0\n' in body
    )
    with guest(a_config(**NO_MODEL)) as made:
        made.start_server()
        assert made.boot().run(), made.said
        assert made.request("GET", "/metrics")[0] == 404


def test_a_server_that_is_stopped_ends_its_answers_first() -> None:
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        made.engine.hold.clear()
        idle, fresh, connection = (
            http.client.HTTPSConnection("127.0.0.1", made.config.listen, timeout=10) for _ in range(3)
        )
        for each in (idle, fresh, connection):
            each.sock = made.connect()
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        connection.request("POST", CHAT, STREAM, {"content-type": "application/json"})
        response = connection.getresponse()
        made.server.send_signal(signal.SIGTERM)
        assert seconds_to_end(idle.sock) < SOON
        idle.close()
        fresh.request("POST", CHAT, BODY)  # nothing was asked on it before
        assert fresh.getresponse().status == 503
        fresh.close()
        assert made.json("/readyz") == (503, {"ready": False})
        status, headers, body = made.request("POST", CHAT, BODY)
        assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (503, "5", "stopping")
        assert made.server.poll() is None
        made.engine.hold.set()
        assert b"two" in response.read()
        assert made.server.wait(SOON) == 0
        connection.close()
