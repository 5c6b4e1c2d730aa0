"""Fetching against a server that misbehaves on demand."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from privml.base.errors import InputsError
from privml.store.fetch import GoneError, Item, fetch
from privml.store.objects import Store

DATA = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves DATA in the way that the first part of the path says."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.connections: set[object] = set()
        self.release = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def asked(self, path: str) -> list[str | None]:
        return [header for asked, header in self.requests if asked == "/" + path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers["Range"]))
        server.connections.add(self.client_address)
        times = len(server.asked(self.path[1:]))
        how = self.path.split("/")[1]
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        if how == "moved":
            self.answer(302, b"", Location="/good")
        elif how == "flaky" and times < 3:
            self.answer(503, b"busy")
        elif how.startswith("status-"):
            self.answer(int(how[7:]), b"no")
        elif how == "missing":
            self.answer(404, b"no")
        elif how == "busy":
            self.answer(503, b"no")
        elif how == "head":
            self.answer(200, DATA[:1000])
        elif how == "wrong":
            self.answer(200, DATA[::-1])
        elif how == "page":
            self.answer(200, b"<html>sign in</html>")
        elif how == "longer":
            self.answer(200, DATA + b"x")
        elif how == "endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(DATA + b"x" * 100)
            self.close_connection = True
        elif how == "stall":
            self.part(start, DATA[start : start + 200_000], wait=True)
        elif how == "cut" and times < 3:
            self.part(start, DATA[start : start + 200_000])
        elif how == "norange":
            self.part(0, DATA[:1000]) if times == 1 else self.answer(200, DATA)
        elif start:
            self.answer(206, DATA[start:], **{"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"})
        else:
            self.answer(200, DATA)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def part(self, start: int, body: bytes, *, wait: bool = False) -> None:
        """Announce the full remaining length, but send only ``body``."""
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if wait:
            self.server.release.wait(10)
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.release.set()
    found.shutdown()
    thread.join()
    found.server_close()


def item(*urls: str, digest: str = DIGEST, size: int = len(DATA)) -> Item:
    return Item(digest, size, "thing", urls)


def get(store: Store, *items: Item, attempts: int = 4) -> int:
    return fetch(store, items, attempts=attempts, sleep=lambda _: None)


def files(store: Store) -> list[str]:
    return sorted(
        path.parent.name + "/" + path.name
        for path in store.root.rglob("*")
        if path.is_file() and "locks" not in path.parts
    )


def test_a_fetched_object_is_not_requested_again(store: Store, server: Server) -> None:
    assert get(store, item(server.url("good"))) == len(DATA)
    assert store.read(DIGEST) == DATA
    assert get(store, item(server.url("good"))) == 0
    assert len(server.requests) == 1
    assert len(files(store)) == 1


def test_items_share_a_connection(store: Store, server: Server) -> None:
    head = item(server.url("head"), digest=hashlib.sha256(DATA[:1000]).hexdigest(), size=1000)
    assert fetch(store, [item(server.url("good")), head], threads=1) == len(DATA) + 1000
    assert len(server.requests) == 2
    assert len(server.connections) == 1


@pytest.mark.parametrize("how", ["moved", "flaky", "cut", "norange"])
def test_transient_failures_are_retried(store: Store, server: Server, how: str) -> None:
    get(store, item(server.url(how)))
    assert store.read(DIGEST) == DATA
    assert len(files(store)) == 1


def test_an_interrupted_download_is_resumed(store: Store, server: Server) -> None:
    get(store, item(server.url("cut")))
    assert server.asked("cut") == [None, "bytes=200000-", "bytes=400000-"]


@pytest.mark.parametrize("how", ["wrong", "longer", "endless", "missing"])
def test_a_bad_source_is_tried_once_before_the_next(store: Store, server: Server, how: str) -> None:
    get(store, item(server.url(how), server.url("good")))
    assert store.read(DIGEST) == DATA
    assert len(server.asked(how)) == 1


def test_an_unavailable_object_is_reported_with_every_attempt(store: Store, server: Server) -> None:
    gone = item(server.url("missing"), digest="1" * 64)
    with pytest.raises(InputsError) as caught:
        get(store, gone, item(server.url("wrong"), server.url("missing"), server.url("busy"), server.url("longer")))
    message = caught.value.message
    assert store.has(DIGEST) is False
    assert files(store) == []
    assert "thing (sha256:" in message
    if f"sha256:{DIGEST}" in message:
        assert f"/wrong: sha256 got {hashlib.sha256(DATA[::-1]).hexdigest()}, expected {DIGEST}" in message
        assert "/missing: HTTP 404" in message
        assert "/busy: HTTP 503" in message
        assert f"/longer: {len(DATA) + 1} bytes, expected {len(DATA)}" in message
    assert caught.value.exit_code == 4


def test_every_attempt_is_counted(store: Store, server: Server) -> None:
    pauses: list[float] = []
    with pytest.raises(InputsError, match=r"HTTP 503.*\(8 attempts\)"):
        fetch(store, [item(server.url("busy"))], sleep=pauses.append)
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 8]


def sizeless(url: str) -> Item:
    return Item(DIGEST, None, "model", (url,), "no hub is configured")


@pytest.mark.parametrize("path", ["good", "moved", "cut", "norange", "flaky"])
def test_a_file_of_unknown_size_has_the_one_that_its_server_says(store: Store, server: Server, path: str) -> None:
    assert get(store, sizeless(server.url(path))) >= len(DATA)
    assert store.read(DIGEST) == DATA


def test_an_interrupted_download_of_unknown_size_is_resumed(store: Store, server: Server) -> None:
    store.partial(DIGEST).write_bytes(DATA[:1000])
    assert get(store, sizeless(server.url("good"))) == len(DATA) - 1000
    assert server.requests == [("/good", "bytes=1000-")]
    (store.root / "objects/sha256" / DIGEST[:2] / DIGEST[2:]).unlink()
    store.partial(DIGEST).write_bytes(DATA)
    assert get(store, sizeless(server.url("good"))) == 0, "the whole file is here already"
    assert store.read(DIGEST) == DATA


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("endless", "Content-Length got None, expected a size up to"),
        ("wrong", "sha256 got"),
        ("missing", "HTTP 404"),
        ("page", "the answer is an HTML page, as a server sends instead of a missing file"),
    ],
)
def test_a_file_of_unknown_size_is_bounded_and_compared(store: Store, server: Server, path: str, said: str) -> None:
    with pytest.raises(InputsError, match=said):
        get(store, sizeless(server.url(path)))
    assert not store.has(DIGEST)
    assert not list((store.root / "temp").iterdir())


def test_an_object_without_a_source_is_an_error(store: Store) -> None:
    with pytest.raises(InputsError, match="no mirror is configured") as caught:
        get(store, item())
    assert not isinstance(caught.value, GoneError), "where nobody was asked, nobody said that it is gone"


def test_an_unreachable_host_is_reported(store: Store) -> None:
    with pytest.raises(InputsError, match=r"127.0.0.1:9/x: .*\(2 attempts\)"):
        get(store, item("http://127.0.0.1:9/x"), attempts=2)


@pytest.mark.parametrize("days", [-400, 400])
def test_a_wrong_clock_is_named_with_the_certificate_error(
    store: Store, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Certificates valid for one week, a year in the past or future."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(week_around(datetime.now(UTC) + timedelta(days)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(InputsError, match=r"certificate (has expired|is not yet valid).*clock: it says 20") as caught:
        get(store, item(server.url("good").replace("http:", "https:")), attempts=1)
    assert not isinstance(caught.value, GoneError)


def week_around(moment: datetime) -> bytes:
    """A self-signed certificate for the loopback address, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, moment - timedelta(3), moment + timedelta(4))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret + made.public_bytes(pem)


@pytest.mark.parametrize("status", [401, 403, 407, 451])
def test_a_refused_request_does_not_mean_the_object_is_gone(store: Store, server: Server, status: int) -> None:
    with pytest.raises(InputsError, match=f"HTTP {status}") as caught:
        get(store, item(server.url(f"status-{status}")))
    assert not isinstance(caught.value, GoneError)
    assert len(server.requests) == 1, "asking again is no use"
    with pytest.raises(GoneError):
        get(store, item(server.url("status-410")))


def test_the_host_s_proxy_is_used(store: Store, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url(""))
    monkeypatch.setenv("no_proxy", "")
    get(store, item("http://mirror.example.invalid/good"))
    assert server.requests == [("http://mirror.example.invalid/good", None)]


def test_a_killed_fetch_leaves_a_part_that_the_next_resumes(store: Store, server: Server) -> None:
    program = (
        "import sys; from pathlib import Path; from privml.store.fetch import *; from privml.store.objects import *\n"
        f"fetch(Store(Path(sys.argv[1])), [Item('{DIGEST}', {len(DATA)}, 'thing', (sys.argv[2],))])"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(store.root), server.url("stall")],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    partial = store.partial(DIGEST)
    deadline = time.monotonic() + 8
    while (not partial.exists() or partial.stat().st_size == 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    server.release.set()
    have = partial.stat().st_size
    assert 0 < have < len(DATA)
    assert files(store) == [f"temp/{DIGEST}.part"]
    get(store, item(server.url("good")))
    assert server.asked("good") == [f"bytes={have}-"]
    assert store.read(DIGEST) == DATA


def test_a_damaged_part_is_discarded(store: Store, server: Server) -> None:
    store.partial(DIGEST).write_bytes(b"x" * len(DATA))
    get(store, item(server.url("good")))
    assert store.read(DIGEST) == DATA


def test_a_wrong_part_is_not_blamed_on_the_next_source(store: Store, server: Server) -> None:
    store.partial(DIGEST).write_bytes(b"x" * 1000)
    get(store, item(server.url("good")))
    assert server.asked("good") == ["bytes=1000-", None]
    assert store.read(DIGEST) == DATA
