"""Who may use the proxy: no page of a web site, no name that points here, no stranger where there is a token."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guest_fake
import pytest
from guest_fake import Guest
from proxy_thread import proxied
from test_client_proxy import SECRET, check, gate_for

from privml.base.errors import HostError, UsageError
from privml.cli.main import main
from privml.client import proxy
from privml.client.callers import Callers, allowed_origins, token_of
from privml.client.guests import Guests
from privml.client.listening import served_socket, unix_listener

CHAT = "/v1/chat/completions"
PAGE = "https://app.example"
TOKEN = "a-token-of-thirty-two-characters"
JSON = ("Content-Type", "application/json")
Fields = tuple[tuple[str, str], ...]


@pytest.fixture
def guest() -> Iterator[Guest]:
    with guest_fake.running(Guest()) as running:
        yield running


def ask(
    port: int, *fields: tuple[str, str], method: str = "POST", path: str = CHAT, host: str | None = None
) -> tuple[int, http.client.HTTPMessage, Any]:
    """Send exactly these fields, and ``Host`` if it is not among them; the answer's status, head and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
        body = SECRET.encode() if method == "POST" else b""
        for name, value in (*fields, ("Content-Length", str(len(body)))):
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        data = response.read()
        return response.status, response.headers, json.loads(data) if data else None
    finally:
        connection.close()


def refused(answer: tuple[int, Any, Any]) -> tuple[int, str]:
    status, _, body = answer
    return status, body["error"]["code"]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machines_names_are_taken(guest: Guest, name: str) -> None:
    with proxied(gate_for(guest)) as port:
        assert ask(port, JSON, host=f"{name}:{port}")[0] == 200


@pytest.mark.parametrize(
    "name",
    ["evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", "localhost.:{port}", ""],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/healthz", "/x/metrics/"])
def test_another_name_that_points_here_gets_nothing(guest: Guest, name: str, path: str) -> None:
    method = "POST" if path == CHAT else "GET"
    with proxied(gate_for(guest)) as port:
        answer = ask(port, JSON, method=method, path=path, host=name.format(port=port))
        assert refused(answer) == (421, "host_refused")
    assert guest.requests == []


PAGES: list[Fields] = [
    (("Origin", "https://evil.example"),),
    (("Origin", "null"),),
    (("Origin", ""),),
    (("Origin", "http://127.0.0.1:3000"),),
    (("Origin", f"{PAGE}.evil.example"),),
    (("Origin", PAGE.upper()),),
    (("Origin", PAGE), ("Origin", "https://evil.example")),
    (("Sec-Fetch-Site", "cross-site"),),
    (("Sec-Fetch-Site", "same-site"),),
    (("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")),
]


@pytest.mark.parametrize("fields", PAGES, ids=str)
@pytest.mark.parametrize("origins", [frozenset[str](), frozenset({PAGE})], ids=["none", "one"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_origin_gets_nothing(
    guest: Guest, fields: Fields, origins: frozenset[str], method: str
) -> None:
    with proxied(gate_for(guest), Callers(origins)) as port:
        answer = ask(port, JSON, *fields, method=method)
        assert refused(answer) == (403, "origin_refused")
        assert answer[1]["access-control-allow-origin"] in (None, PAGE if ("Origin", PAGE) in fields else None)
    assert guest.requests == []


def test_a_page_of_an_allowed_origin_may_ask_and_read(guest: Guest) -> None:
    with proxied(gate_for(guest), Callers(frozenset({PAGE}))) as port:
        asked = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type, x-a"))
        more = ("Access-Control-Request-Private-Network", "true")
        status, head, _ = ask(port, ("Origin", PAGE), *asked, more, method="OPTIONS")
        assert (status, head["access-control-allow-origin"], head["vary"]) == (204, PAGE, "Origin")
        assert head["access-control-allow-headers"] == "content-type, x-a"
        assert head["access-control-allow-private-network"] == "true"
        assert "POST" in head["access-control-allow-methods"]
        assert guest.requests == []
        status, head, body = ask(port, JSON, ("Origin", PAGE), ("Sec-Fetch-Site", "cross-site"))
        assert (status, body) == (200, {"echo": SECRET})
        assert (head["access-control-allow-origin"], head["vary"]) == (PAGE, "Origin")
        assert head["access-control-allow-credentials"] is None
        readable = head["access-control-expose-headers"].split(", ")
        assert readable == ["x-request-id", "retry-after", "x-privml-receipt"]
        status, head, _ = ask(port, ("Content-Type", "text/plain"), ("Origin", PAGE))
        assert (status, head["access-control-allow-origin"]) == (415, PAGE), "the page can read why"


def test_odd_names_of_fields_are_not_returned_to_a_browser(guest: Guest) -> None:
    with proxied(gate_for(guest), Callers(frozenset({PAGE}))) as port:
        for names in ("*", "a b", "a;b", "a," * 100 + "a"):
            _, head, _ = ask(port, ("Origin", PAGE), ("Access-Control-Request-Headers", names), method="OPTIONS")
            assert head["access-control-allow-headers"] is None, names


def test_programs_send_neither_origin_nor_site(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        status, head, _ = ask(port, JSON)
        assert (status, head["access-control-allow-origin"]) == (200, None)
        assert ask(port, JSON, ("Sec-Fetch-Site", "none"), method="GET", path="/v1/models")[0] == 200


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (("Content-Type", "text/plain"),),
        (("Content-Type", "application/x-www-form-urlencoded"),),
        (("Content-Type", "multipart/form-data; boundary=application/json"),),
        (("Content-Type", "application/jsonp"),),
        (JSON, ("Content-Type", "text/plain")),
    ],
    ids=str,
)
def test_what_a_page_may_send_without_asking_is_not_taken(guest: Guest, fields: Fields) -> None:
    with proxied(gate_for(guest)) as port:
        assert refused(ask(port, *fields)) == (415, "content_type_refused")
        assert ask(port, ("Content-Type", "Application/JSON; charset=utf-8"))[0] == 200
        assert ask(port, *fields, path="/x/metrics/")[0] == 200, "services have types of their own"
    assert len(guest.requests) == 2


def test_nobody_is_served_without_the_token(guest: Guest) -> None:
    with proxied(gate_for(guest), Callers(token=TOKEN)) as port:
        for words in ("", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer é"):
            answer = ask(port, JSON, *([("Authorization", words)] if words else []))
            assert refused(answer) == (401, "token_refused")
            assert answer[1]["www-authenticate"] == "Bearer"
            assert TOKEN not in json.dumps(answer[2])
        assert refused(ask(port, JSON, method="GET", path="/x/metrics/")) == (401, "token_refused")
        assert ask(port, JSON, method="GET", path="/healthz")[0] == 200
        assert guest.requests == []
        assert ask(port, JSON, ("Authorization", f"Bearer {TOKEN}"))[0] == 200
        assert ask(port, JSON, ("Authorization", f"bearer {TOKEN}"))[0] == 200
    assert all(TOKEN not in str(sent) for _, _, sent, _ in guest.requests)


def test_a_token_of_its_own_is_made_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = token_of(path)
    assert len(made) == 43 and path.stat().st_mode & 0o777 == 0o600
    assert token_of(path) == made
    assert token_of(tmp_path / "other") != made


@pytest.mark.parametrize("text", ["", "short", "a" * 513, "a" * 16 + " b", "a" * 16 + "\nb", "é" * 16, "a" * 2000])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(UsageError, match="expected one line with 16 to 512 characters"):
        token_of(path)


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(UsageError, match=f"got mode {mode:o}, expected 600"):
            token_of(path)
    with pytest.raises(HostError, match="cannot be written"):
        token_of(tmp_path / "nowhere" / "token")


@pytest.mark.parametrize(
    "word",
    [
        *("*", "null", "", "app.example", "ftp://app.example", "https://", "https://app.example/", "https://a b"),
        *("https://app.example:x", "https://user@app.example", "https://APP.example", "https://app.example?x"),
        *("https://app.example:443", "http://app.example:80", "https://é.example", "HTTPS://app.example"),
    ],
)
def test_only_origins_as_browsers_send_them_can_be_allowed(word: str) -> None:
    with pytest.raises(UsageError, match="--allow-origin"):
        allowed_origins([word])


def test_origins_that_can_be_allowed() -> None:
    words = ["https://app.example", "http://localhost:3000", "http://[::1]:3000", "https://app.example:8443"]
    assert allowed_origins(words) == frozenset(words)
    with pytest.raises(UsageError, match="got 65, expected at most 64"):
        allowed_origins(f"https://a{number}.example" for number in range(65))


@contextlib.contextmanager
def on_socket(guest: Guest, path: Path, **callers: Any) -> Iterator[None]:
    server = proxy.unix_server(Guests.at([guest.url], check()), callers=Callers(**callers))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [unix_listener(path)]})
    thread.start()
    try:
        end = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()


def through(path: Path, *fields: tuple[str, str]) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Length: 2", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in fields]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n{}").encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_a_socket_is_of_this_user_alone(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "guest.sock"
    with on_socket(guest, path, token=TOKEN):
        assert path.stat().st_mode & 0o777 == 0o600
        assert through(path, JSON).startswith(b"HTTP/1.1 401 ")
        assert through(path, JSON, ("Authorization", f"Bearer {TOKEN}")).startswith(b"HTTP/1.1 200 ")
        assert through(path, JSON, ("Origin", PAGE)).startswith(b"HTTP/1.1 403 ")
        with pytest.raises(HostError, match="another process listens there"):
            unix_listener(path)


def test_a_socket_left_behind_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "guest.sock"
    unix_listener(path).close()
    assert path.is_socket()
    unix_listener(path).close()
    for make in (Path.touch, Path.mkdir):
        path.unlink()
        make(path)
        with pytest.raises(UsageError, match="is there already, and is not a socket"):
            unix_listener(path)
        if path.is_dir():
            break
    assert path.is_dir()
    with pytest.raises(HostError, match="no socket can be made at"):
        unix_listener(tmp_path / ("s" * 120))


def test_a_socket_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "guest.sock"
    with served_socket(path) as listener:
        assert path.is_socket()
        listener.close()  # as a server does while it finishes its last answers
        other = unix_listener(path)
    with other, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
    with served_socket(path):
        path.unlink()
    assert not path.exists()


def test_serving_on_a_socket_removes_it_at_the_end(guest: Guest, tmp_path: Path) -> None:
    path, said = tmp_path / "guest.sock", list[tuple[int, bool]]()

    def listening(port: int) -> None:
        said.append((port, path.is_socket()))
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        proxy.serve(path, Guests.at([guest.url], check()), listening=listening)
    assert said == [(0, True)]
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--listen", "127.0.0.1:1", "--socket", "x"), "--listen and --socket: expected one of them"),
        (("--listen", "8000"), "--listen 8000: expected HOST:PORT"),
        (("--allow-origin", "*"), "--allow-origin *: expected an origin"),
    ],
)
def test_wrong_options_are_named(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["proxy", "https://127.0.0.1:1", "--expect", ".", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
