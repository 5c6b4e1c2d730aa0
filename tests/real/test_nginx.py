"""A real nginx ends TLS in front of two guests: what it carries sealed, it cannot read; what is not sealed, it can.

The guests are real agents with a simulated platform, nginx is Debian's. It gets the file that docs/OPERATING.md
shows, with other ports, a log of request bodies, and a hop in clear between two of its servers, so that a capture on
loopback shows what it has in clear. Each search is repeated without sealing, where it must find the prompt.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.real.terminator import Nginx, running
from tests.unit import attestation_samples as samples
from tests.unit.agent_guest import Guest, a_config, guest, prediction

from privml.client import attested, proxy
from privml.client.behind import guests_behind
from privml.client.guests import Guests
from privml.client.listening import unix_listener
from privml.client.terminator import Terminator
from privml.image.tools import ToolsTree
from privml.verify.anchor import Built, Candidates, Expected
from privml.verify.judgement import Judgement
from privml.vm.machine import free_port

pytestmark = pytest.mark.real

CHAT = "/v1/chat/completions"
LIMIT = 60.0
_EVERY_PROTOCOL = socket.htons(3)


@dataclass(frozen=True)
class Place:
    """Two guests, the nginx in front of them, and the Unix socket of a caller's proxy that goes through it."""

    guests: tuple[Guest, Guest]
    nginx: Nginx
    proxy: Path


def with_a_hop_in_clear(text: str) -> str:
    """The configuration, in which one server of nginx hands requests to another one openly on loopback."""
    hop = free_port()
    inner = text[text.index("    server {\n        listen") :].rpartition("}")[0]
    inner = re.sub(r"listen [^;]*", f"listen 127.0.0.1:{hop}", inner).replace("ssl_certificate", "# ssl_certificate")
    # The guests say that answers are not to be held back; between two servers of nginx that must be passed on.
    inner = inner.replace("https://guests;", "https://guests;\n            proxy_pass_header X-Accel-Buffering;")
    return text.replace("https://guests;", f"http://127.0.0.1:{hop};").rpartition("}")[0] + inner + "}\n"


@pytest.fixture(scope="module")
def place(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("nginx")
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(guest(a_config())) for _ in range(2))
        for made in (one, two):
            made.start_server()
            assert made.boot().run(), made.said
            made.connect().close()
        ports = [made.config.listen for made in (one, two)]
        nginx = stack.enter_context(running(tools, folder, ports, with_a_hop_in_clear))
        expected = Candidates(tuple(Expected(prediction(made), Built("out")) for made in (one, two)))

        def check(document: bytes, nonce: bytes, record: bytes) -> Judgement:
            return attested.judge(
                document, expected, samples.SIMULATED, now=int(time.time()), nonce=nonce, tls_spki_sha256=None,
                channel_record=record,
            )  # fmt: skip

        terminator = Terminator.at(f"https://127.0.0.1:{nginx.port}", nginx.authority)
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="privml-"))) / "s"
        stack.enter_context(proxied(guests_behind(terminator, check), short))
        yield Place((one, two), nginx, short)


@contextlib.contextmanager
def proxied(guests: Guests, path: Path) -> Iterator[None]:
    """The proxy for clients, on a Unix socket."""
    server = proxy.unix_server(guests)
    with unix_listener(path) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield
        finally:
            server.should_exit = True
            thread.join()


def asked(connection: http.client.HTTPConnection, canary: str, *, stream: bool = False) -> None:
    body = {"messages": [{"role": "user", "content": canary}], **({"stream": True} if stream else {})}
    connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json"})


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT)
        self.sock.connect(str(self._path))


def sealed_way(place: Place) -> http.client.HTTPConnection:
    """To the proxy, on a Unix socket: what a client says to its own proxy in clear is not on loopback."""
    return UnixConnection(place.proxy)


def open_way(place: Place) -> http.client.HTTPConnection:
    """To nginx, as a client of a service does that seals nothing."""
    context = ssl.create_default_context(cafile=place.nginx.authority)
    return http.client.HTTPSConnection("127.0.0.1", place.nginx.port, timeout=LIMIT, context=context)


def reached(place: Place) -> int:
    return sum(path == CHAT for made in place.guests for path, _, _ in made.engine.requests)


def until(condition: object) -> None:
    end = time.monotonic() + LIMIT
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


class Capture:
    """Every packet on loopback, searched for some bytes."""

    def __init__(self, wanted: bytes) -> None:
        self.found = self.packets = 0
        self._wanted = wanted
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _EVERY_PROTOCOL)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                packet = self._socket.recv(1 << 18)
                self.packets += 1
                self.found += self._wanted in packet


def remembers(place: Place, wanted: bytes) -> bool:
    try:
        return place.nginx.remembers(wanted)
    except PermissionError:
        pytest.skip("nginx-memory: this user may not read the memory of the processes that it started")


def carried(place: Place, connection: http.client.HTTPConnection) -> tuple[bytes, list[bool]]:
    """Ask with a new prompt of 32 bytes; the prompt, and whether nginx's memory has it during and after."""
    canary = secrets.token_hex(16)
    for made in place.guests:
        made.engine.hold.clear()
    before = reached(place)
    try:
        asked(connection, canary)
        until(lambda: reached(place) > before)
        during = remembers(place, canary.encode())
    finally:
        for made in place.guests:
            made.engine.hold.set()
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"choices":[]}')
    connection.close()
    assert any(canary.encode() in body for made in place.guests for _, _, body in made.engine.requests), "the engine"
    return canary.encode(), [during, remembers(place, canary.encode())]


def test_the_terminator_finds_a_prompt_only_where_it_is_not_sealed(place: Place) -> None:
    sealed, in_memory = carried(place, sealed_way(place))
    assert in_memory == [False, False]
    assert place.nginx.kept(sealed) == []
    assert b"/.well-known/ohttp-gateway" in place.nginx.log
    known, in_memory = carried(place, open_way(place))
    assert in_memory[0], "the search finds what is there"
    assert "access.log" in place.nginx.kept(known)
    assert place.nginx.kept(sealed) == []


def test_loopback_shows_a_prompt_only_where_it_is_not_sealed(place: Place) -> None:
    for way, expected in ((sealed_way, False), (open_way, True)):
        canary = secrets.token_hex(16)
        try:
            capture = Capture(canary.encode())
        except PermissionError:
            pytest.skip("nginx-capture: reading loopback needs CAP_NET_RAW")
        with capture, contextlib.closing(way(place)) as connection:
            asked(connection, canary)
            assert connection.getresponse().read() == b'{"choices":[]}'
        assert capture.packets > 10
        assert bool(capture.found) is expected


def test_tokens_pass_one_by_one(place: Place) -> None:
    for made in place.guests:
        made.engine.hold.clear()
    connection = sealed_way(place)
    try:
        asked(connection, "count", stream=True)
        answer = connection.getresponse()
        assert answer.read1() == b"data: one\n\n", "while the engine holds the next one back"
    finally:
        for made in place.guests:
            made.engine.hold.set()
    assert answer.read() == b"data: two\n\n"
    connection.close()


def test_when_one_guest_dies_the_next_request_is_answered(place: Place) -> None:
    one, two = place.guests
    for _ in range(2):
        connection = sealed_way(place)
        asked(connection, "hello")
        assert connection.getresponse().read() == b'{"choices":[]}'
        connection.close()
    assert all(any(path == CHAT for path, _, _ in made.engine.requests) for made in (one, two)), "both were asked"
    one.server.kill()
    one.server.wait()
    before = len(two.engine.requests)
    for _ in range(3):
        connection = sealed_way(place)
        asked(connection, "hello again")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b'{"choices":[]}')
        connection.close()
    assert len(two.engine.requests) == before + 3
