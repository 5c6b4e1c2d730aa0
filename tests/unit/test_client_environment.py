"""Proxy variables and the local proxy: the warning agrees with what Python's clients do, and the hole is real."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from privml.client.environment import client_variables, detour_warning

SECRET = "the prompt that must not leave"
PORT = 8000
PROXY = "http://user:password@proxy.example:3128"


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any proxy variable."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OPENAI_"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"HTTP_PROXY": PROXY}, "HTTP_PROXY is set, and NO_PROXY does not cover 127.0.0.1"),
        ({"http_proxy": PROXY}, "http_proxy is set, and NO_PROXY does not"),
        ({"HTTPS_PROXY": PROXY}, "HTTPS_PROXY is set"),
        ({"https_proxy": PROXY}, "https_proxy is set"),
        ({"ALL_PROXY": "socks5://127.0.0.1:1080"}, "ALL_PROXY is set"),
        (
            {"all_proxy": PROXY, "HTTP_PROXY": PROXY, "https_proxy": PROXY},
            "HTTP_PROXY, https_proxy, all_proxy is set",
        ),
        ({"HTTP_PROXY": PROXY, "http_proxy": "x"}, "http_proxy is set"),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": ""}, "NO_PROXY does not cover"),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "127.0.0.1", "no_proxy": "corp"}, "no_proxy does not cover 127.0.0.1"),
    ],
)
def test_a_proxy_without_no_proxy_is_warned_of(environment: dict[str, str], named: str) -> None:
    warning = detour_warning(environment, "127.0.0.1", PORT)
    assert warning is not None
    assert named in warning
    assert "password" not in warning


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HTTP_PROXY": ""},
        {"HTTP_PROXY": PROXY, "http_proxy": ""},
        {"FTP_PROXY": PROXY, "PATH": "/usr/bin"},
        {"HTTP_PROXY": PROXY, "NO_PROXY": "corp", "no_proxy": "127.0.0.1"},
        {"ALL_PROXY": PROXY, "no_proxy": "corp, 127.0.0.1 ,other"},
    ],
)
def test_no_warning_where_no_client_goes_elsewhere(environment: dict[str, str]) -> None:
    assert detour_warning(environment, "127.0.0.1", PORT) is None


COVERS = [
    ("127.0.0.1", "*"),
    ("127.0.0.1", "127.0.0.1"),
    ("127.0.0.1", "a, 127.0.0.1"),
    ("127.0.0.1", "127.0.0.1:8000"),
    ("127.0.0.1", "127.0.0.1,localhost"),
    ("localhost", "127.0.0.1,localhost"),
    ("localhost", "LocalHost"),
    ("localhost", "localhost:8000"),
    ("::1", "[::1]"),
    ("::1", "[::1]:8000"),
]
LEAVES_OPEN = [
    ("127.0.0.1", "localhost"),
    ("127.0.0.1", "::1"),
    ("127.0.0.1", "127.0.0.1:8001"),
    ("127.0.0.1", "127.0.0.1."),
    ("127.0.0.1", "127.0.0.0/8"),  # urllib knows no networks
    ("127.0.0.1", "*, x"),  # and no `*` among others
    ("127.0.0.1", "http://127.0.0.1"),
    ("127.0.0.1", "127.0.0.1 localhost"),
    ("localhost", "127.0.0.1"),
    ("localhost", ".localhost"),  # to httpx that is x.localhost
    ("localhost", "localhost."),
    ("localhost", "localhost:80"),
    ("::1", "localhost,127.0.0.1"),
    ("::1", "[::1]:1"),
]


def httpx_goes_straight(host: str) -> bool:
    """Whether httpx, in this process's environment, uses no proxy for the local proxy's address."""
    httpx = pytest.importorskip("httpx2")
    address = client_variables(host, PORT)["OPENAI_BASE_URL"]
    with httpx.Client() as client:
        return client._transport_for_url(httpx.URL(address)) is client._transport


def urllib_goes_straight(host: str) -> bool:
    """The same of urllib."""
    address = client_variables(host, PORT)["OPENAI_BASE_URL"]
    return bool(urllib.request.proxy_bypass_environment(urllib.request.Request(address).host))


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize(("host", "value"), COVERS)
def test_an_address_is_covered_when_both_clients_bypass_the_proxy(
    name: str, host: str, value: str, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv("HTTP_PROXY", PROXY)
    clean.setenv(name, value)
    assert detour_warning(os.environ, host, PORT) is None
    assert httpx_goes_straight(host)
    assert urllib_goes_straight(host)


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize(("host", "value"), LEAVES_OPEN)
def test_an_address_is_not_covered_when_one_client_does_not(
    name: str, host: str, value: str, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv("http_proxy", PROXY)
    clean.setenv(name, value)
    assert detour_warning(os.environ, host, PORT) is not None
    assert not (httpx_goes_straight(host) and urllib_goes_straight(host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_the_variables_cover_their_own_address(host: str, clean: pytest.MonkeyPatch) -> None:
    for name, value in {"HTTP_PROXY": PROXY, "no_proxy": "corp", **client_variables(host, PORT)}.items():
        clean.setenv(name, value)
    assert detour_warning(os.environ, host, PORT) is None
    assert httpx_goes_straight(host)
    assert urllib_goes_straight(host) or host == "::1"


@pytest.mark.parametrize(
    ("host", "address", "here"),
    [
        ("127.0.0.1", "http://127.0.0.1:9/v1", "127.0.0.1,localhost"),
        ("localhost", "http://localhost:9/v1", "127.0.0.1,localhost"),
        ("::1", "http://[::1]:9/v1", "::1,localhost"),
    ],
)
def test_the_variables_of_a_client(host: str, address: str, here: str) -> None:
    expected = {"NO_PROXY": here, "no_proxy": here, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": "none"}
    assert client_variables(host, 9) == expected


@contextlib.contextmanager
def recording() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """An HTTP server on this machine: (its port, request line and body of all that it was sent)."""
    heard: list[tuple[str, bytes]] = []
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}
    answer = json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            heard.append((self.requestline, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1], heard
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_an_openai_client_talks_to_the_wrong_proxy_without_the_variables(
    variable: str, clean: pytest.MonkeyPatch
) -> None:
    """The hole, for real: in clear on another socket, with the documents' old variables; not with the new ones."""
    openai = pytest.importorskip("openai")

    def ask() -> None:
        with openai.OpenAI(max_retries=0, timeout=10) as client:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": SECRET}])

    with recording() as (ours, reached), recording() as (other, overheard):
        variables = client_variables("127.0.0.1", ours)
        clean.setenv(variable, f"http://127.0.0.1:{other}")
        clean.setenv("no_proxy", "intranet.example")  # wins over NO_PROXY: both must be set
        for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
            clean.setenv(name, variables[name])
        assert detour_warning(os.environ, "127.0.0.1", ours) is not None
        ask()
        assert reached == []
        ((line, body),) = overheard
        assert line.startswith(f"POST http://127.0.0.1:{ours}/v1/chat/completions ")
        assert SECRET.encode() in body
        overheard.clear()
        clean.setenv("NO_PROXY", variables["NO_PROXY"])
        ask()
        assert (len(overheard), reached) == (1, [])
        overheard.clear()
        for name, value in variables.items():
            clean.setenv(name, value)
        assert detour_warning(os.environ, "127.0.0.1", ours) is None
        ask()
    assert overheard == []
    ((line, body),) = reached
    assert line.startswith("POST /v1/chat/completions ")
    assert SECRET.encode() in body
