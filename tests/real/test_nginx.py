"""A real nginx ends TLS in front of two guests: what it carries sealed, it cannot read; what is not sealed, it can.

The guests are real agents with a simulated platform, nginx is Debian's. It gets the file that docs/OPERATING.md
shows, with other ports, a log of request bodies, and a hop in clear between two of its servers, so that a capture on
loopback shows what it has in clear. Each search is repeated without sealing, where it must find the prompt.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.real.conftest import unpacked
from tests.unit import attestation_samples as samples
from tests.unit.agent_guest import Guest, a_config, guest, prediction
from tests.unit.terminator_certificate import certificate

from privml.client import attested, proxy
from privml.client.behind import guests_behind
from privml.client.guests import Guests
from privml.client.listening import unix_listener
from privml.client.terminator import Terminator
from privml.image.tools import Bind, ToolsTree
from privml.verify.anchor import Built, Candidates, Expected
from privml.verify.judgement import Judgement
from privml.vm.machine import free_port
from privml.vm.process import Child

pytestmark = pytest.mark.real

NGINX = Path(__file__).parent / "platforms/nginx.lock.json"
CONF = Path(__file__).with_name("nginx.conf")
CHAT = "/v1/chat/completions"
LIMIT = 60.0
_EVERY_PROTOCOL = socket.htons(3)


@dataclass(frozen=True)
class Place:
    """Where everything is: two guests, nginx with its port, and a proxy behind it for clients."""

    guests: tuple[Guest, Guest]
    child: Child
    var: Path
    front: int
    proxy: Path
    authority: Path


def configuration(front: int, hop: int, guests: tuple[Guest, ...]) -> str:
    """The documented file, with a log of bodies and a hop in clear."""
    text = CONF.read_text()
    for at, made in zip(("9001", "9002"), guests, strict=True):
        text = text.replace(f"127.0.0.1:{at}", f"127.0.0.1:{made.config.listen}")
    inner = text[text.index("    server {\n        listen") :].rpartition("}")[0]
    inner = inner.replace("listen 443 ssl", f"listen 127.0.0.1:{hop}").replace("ssl_certificate", "# ssl_certificate")
    # The guests say that answers are not to be held back; between two servers of nginx that must be passed on.
    inner = inner.replace("https://guests;", "https://guests;\n            proxy_pass_header X-Accel-Buffering;")
    outer = text.replace("listen 443", f"listen 127.0.0.1:{front}")
    outer = outer.replace("https://guests;", f"http://127.0.0.1:{hop};")
    logged = "    log_format bodies escape=none '$request $status $request_body';\n"
    logged += "    access_log /var/log/nginx/access.log bodies;\n"
    return outer.replace("http {\n", f"http {{\n{logged}").rpartition("}")[0] + inner + "}\n"


@pytest.fixture(scope="module")
def place(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("nginx")
    nginx = tools.other(unpacked(NGINX, folder / "root"))
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(guest(a_config())) for _ in range(2))
        for made in (one, two):
            made.start_server()
            assert made.boot().run(), made.said
            made.connect().close()
        front, hop = free_port(), free_port()
        etc = nginx.root / "etc"
        (etc / "passwd").write_text("root:x:0:0::/:/bin/false\n")
        (etc / "group").write_text("root:x:0:\n")
        authority = certificate(folder)
        (etc / "nginx/tls.crt").write_bytes(authority.read_bytes())
        (etc / "nginx/tls.key").write_bytes((folder / "key.pem").read_bytes())
        (etc / "nginx/nginx.conf").write_text(configuration(front, hop, (one, two)))
        var = folder / "var"
        for name in ("log/nginx", "lib/nginx"):
            (var / name).mkdir(parents=True)
        words = ["nginx", "-g", "daemon off; user root;"]
        child = Child(nginx, words, folder / "log", binds=[Bind(var, "/var", writable=True)], network=True)
        stack.callback(child.stop)
        child.await_until(lambda: listens(front), "does not listen", 20)
        expected = Candidates(tuple(Expected(prediction(made), Built("out")) for made in (one, two)))

        def check(document: bytes, nonce: bytes, record: bytes) -> Judgement:
            return attested.judge(
                document, expected, samples.SIMULATED, now=int(time.time()), nonce=nonce, tls_spki_sha256=None,
                channel_record=record,
            )  # fmt: skip

        terminator = Terminator.at(f"https://127.0.0.1:{front}", authority)
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="privml-"))) / "s"
        stack.enter_context(proxied(guests_behind(terminator, check), short))
        yield Place((one, two), child, var, front, short, authority)


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


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


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
    context = ssl.create_default_context(cafile=place.authority)
    return http.client.HTTPSConnection("127.0.0.1", place.front, timeout=LIMIT, context=context)


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


def workers(place: Place) -> list[int]:
    """The processes of this nginx: those whose ancestor is the child that the test started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def mine(pid: int) -> bool:
        while pid > 1:
            if pid == place.child.pid:
                return True
            pid = parents.get(pid, 0)
        return False

    return [int(pid) for pid, _, name in rows if name.startswith("nginx") and mine(int(pid))]


def memory_has(pid: int, wanted: bytes) -> bool:
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            start, end = (int(edge, 16) for edge in span.split("-"))
            if "r" not in rights or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            with contextlib.suppress(OSError):
                memory.seek(start)
                if wanted in memory.read(end - start):
                    return True
    return False


def searched(place: Place, wanted: bytes) -> bool:
    found = workers(place)
    assert len(found) >= 2, "a master and its workers"
    try:
        return any(memory_has(pid, wanted) for pid in found)
    except PermissionError:
        pytest.skip("nginx-memory: this user may not read the memory of the processes that it started")


def kept(place: Place, wanted: bytes) -> list[str]:
    """Files of nginx with these bytes: its log, and bodies that it put aside."""
    return [path.name for path in place.var.rglob("*") if path.is_file() and wanted in path.read_bytes()]


def carried(place: Place, connection: http.client.HTTPConnection) -> tuple[bytes, list[bool]]:
    """Ask with a new prompt of 32 bytes; the prompt, and whether nginx's memory has it during and after."""
    canary = secrets.token_hex(16)
    for made in place.guests:
        made.engine.hold.clear()
    before = reached(place)
    try:
        asked(connection, canary)
        until(lambda: reached(place) > before)
        during = searched(place, canary.encode())
    finally:
        for made in place.guests:
            made.engine.hold.set()
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"choices":[]}')
    connection.close()
    assert any(canary.encode() in body for made in place.guests for _, _, body in made.engine.requests), "the engine"
    return canary.encode(), [during, searched(place, canary.encode())]


def test_the_terminator_finds_a_prompt_only_where_it_is_not_sealed(place: Place) -> None:
    sealed, in_memory = carried(place, sealed_way(place))
    assert in_memory == [False, False]
    assert kept(place, sealed) == []
    assert b"/.well-known/ohttp-gateway" in (place.var / "log/nginx/access.log").read_bytes()
    known, in_memory = carried(place, open_way(place))
    assert in_memory[0], "the search finds what is there"
    assert "access.log" in kept(place, known)
    assert kept(place, sealed) == []


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
