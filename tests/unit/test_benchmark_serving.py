"""The serving benchmark, against a server that streams at a known speed."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from benchmarks import serving
from tests.unit.server_thread import in_thread

from privml.base.errors import HostError, UsageError
from privml.engines.registry import ENGINES
from privml.engines.requests import check

TEMPLATE = 9
FIRST, BETWEEN = 0.03, 0.005


class Engine:
    """What the server does: its delays, and what is wrong with it. A token of a prompt is half a word."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.limit = 10**6
        self.fault = ""
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def log_message(self, *words: object) -> None:
        pass

    def piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, document: object) -> None:
        self.piece(b"data: " + json.dumps(document).encode() + b"\n\n")

    def do_POST(self) -> None:
        engine = self.engine
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        tokens = TEMPLATE + 2 * len(prompt.split())
        with engine.lock:
            engine.prompts.append(prompt)
            engine.bodies.append(body)
            engine.busy += 1
            engine.most = max(engine.most, engine.busy)
        try:
            if self.path != "/v1/chat/completions" or tokens > engine.limit:
                text = b'{"error": "too long for this context"}'
                self.send_response(400)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.stream(engine, body["max_tokens"], tokens)
            self.piece(b"")
        finally:
            with engine.lock:
                engine.busy -= 1

    def stream(self, engine: Engine, count: int, tokens: int) -> None:
        self.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        time.sleep(FIRST)
        if engine.fault == "error":
            self.event({"error": {"message": "out of memory"}})
            return
        if engine.fault == "garbage":
            self.piece(b"data: {oops\n\n")
        for number in range(0 if engine.fault == "silent" else count):
            time.sleep(BETWEEN if number else 0)
            self.event({"choices": [{"delta": {"content": "word "}}], "timings": {"speed": 1.5}})
        usage = {"prompt_tokens": tokens, "completion_tokens": count}
        if engine.fault != "no usage":
            self.event({"choices": [], "usage": usage})
        if engine.fault != "cut":
            self.piece(b": a comment\n\ndata: [DONE]\n\n")


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    engine = Engine()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"engine": engine}))
    server.daemon_threads = True
    engine.address = f"http://127.0.0.1:{server.server_port}"
    with in_thread(server):
        yield engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running() as made:
        yield made


def measured(record: Path, *words: str, output: int = 5, rounds: int = 1) -> int:
    fixed = ("--model", "tiny", "--output", str(output), "--rounds", str(rounds), "--record", str(record))
    return serving.main([*fixed, *words])


def test_a_cell_has_the_servers_speed_and_the_table_only_measured_columns(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "record.json"
    load = ("--input", "128", "--concurrency", "3", "--about", "a test server")
    assert measured(record, "--endpoint", f"guest={engine.address}/v1", *load, output=11, rounds=2) == 0
    (cell,) = serving.Record.read(record).cells.values()
    assert (cell.column, cell.input, cell.concurrency, cell.weights) == ("guest", 128, 3, "bf16")
    assert (cell.requests, cell.tokens) == (12, 12 * 11)
    assert abs(cell.prompt_tokens - 128) <= 1
    assert cell.first_us[0] >= FIRST * 1e6
    assert 0 < cell.between_us[0] <= cell.between_us[1]
    assert cell.wall_us >= 4 * (FIRST + 10 * BETWEEN) * 1e6
    assert engine.most == 3
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| bf16 ")]
    assert len(rows) == 3
    speed = f"{cell.tokens * 1e6 / cell.wall_us:.1f}"
    assert rows[0] == f"| bf16 | 128 | 3 |  | {speed} |  |  |"
    assert all([part.strip() != "" for part in row.split("|")[4:8]] == [False, True, False, False] for row in rows)


def test_an_exchange_has_the_times_of_its_tokens(engine: Engine) -> None:
    endpoint = serving.Endpoint("direct", engine.address, "tiny", 11)
    exchanges, wall = serving.load(endpoint, ["a b", "c d", "e f"], 2)
    assert len(exchanges) == 3
    for exchange in exchanges:
        assert (exchange.prompt_tokens, exchange.tokens) == (TEMPLATE + 4, 11)
        assert exchange.first >= FIRST
        assert FIRST + 10 * BETWEEN <= exchange.last <= wall
    assert serving.Exchange(1, 5, 2.0, 4.0).between == 0.5
    assert serving.Exchange(1, 1, 2.0, 2.0).between == 0.0


def test_no_prompt_helps_the_next_and_each_request_is_a_stream_with_usage(engine: Engine, tmp_path: Path) -> None:
    load = ("--input", "64", "--concurrency", "4")
    assert measured(tmp_path / "record.json", "--endpoint", f"direct={engine.address}", *load, output=1) == 0
    beginnings = [prompt.split()[0] for prompt in engine.prompts]
    assert len(set(beginnings)) == len(beginnings) == 2 + 8
    for body in engine.bodies:
        assert (body["stream"], body["stream_options"], body["temperature"]) == (True, {"include_usage": True}, 0)
        assert (body["model"], body["max_tokens"]) == ("tiny", 1)


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_the_guest_takes_each_request_as_it_is_sent(engine: Engine, tmp_path: Path, name: str) -> None:
    load = ("--input", "32768", "--concurrency", "1")
    assert measured(tmp_path / "record.json", "--endpoint", f"guest={engine.address}", *load, output=1) == 0
    taken = ENGINES[name].requests
    for body in engine.bodies:
        assert len(json.dumps(body)) < taken.body
        check(body, taken.fields["/v1/chat/completions"], "/v1/chat/completions")


def test_two_endpoints_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    with running() as one, running() as two:
        real = serving.load

        def load(endpoint: serving.Endpoint, *rest: Any) -> Any:
            order.append(endpoint.column)
            return real(endpoint, *rest)

        monkeypatch.setattr(serving, "load", load)
        places = ("--endpoint", f"direct={one.address}", "--endpoint", f"guest={two.address}")
        assert measured(tmp_path / "r.json", *places, "--input", "32", "--concurrency", "1", rounds=3, output=1) == 0
        assert len(one.prompts) == len(two.prompts) == 2 + 3 * serving.TURN
    assert order == ["direct", "guest", "guest", "direct", "direct", "guest"]


def test_a_later_run_adds_columns_and_replaces_its_own_cells(engine: Engine, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    load = ("--concurrency", "1", "--input")
    for column, weights, size in (("cc-on", "fp8", "32"), ("cc-off", "fp8", "32"), ("cc-off", "fp8", "32,64")):
        place = ("--endpoint", f"{column}={engine.address}")
        assert measured(record, *place, "--weights", weights, *load, size, output=1) == 0
    keys = [(cell.column, cell.input) for cell in serving.Record.read(record).cells.values()]
    assert sorted(keys) == [("cc-off", 32), ("cc-off", 64), ("cc-on", 32)]


def test_a_length_that_the_server_refuses_is_reported_and_left_out(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.limit, record = 1000, tmp_path / "record.json"
    load = ("--input", "32,4096,64", "--concurrency", "2")
    assert measured(record, "--endpoint", f"direct={engine.address}", *load, output=1) == 1
    assert "input 4096, concurrency 2: direct: " in (talk := capsys.readouterr().err)
    assert "answered 400" in talk and "too long for this context" in talk
    assert [cell.input for cell in serving.Record.read(record).cells.values()] == [32, 64]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("error", "the stream ended with an error: {'message': 'out of memory'}"),
        ("garbage", "a piece of the stream is not JSON"),
        ("silent", "an answer without text"),
        ("no usage", "the stream's `usage` is None, expected the tokens of prompt and answer"),
        ("cut", "the stream ended before"),
    ],
)
def test_a_broken_stream_is_no_measurement(engine: Engine, tmp_path: Path, fault: str, message: str) -> None:
    engine.fault = fault
    with pytest.raises(HostError, match=message.replace("(", r"\(")):
        measured(tmp_path / "record.json", "--endpoint", f"direct={engine.address}")
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize(
    "content",
    ['{"format": "other"}', "[]", '{"format": "privml-serving/v1", "about": {}, "cells": [{"input": 1}]}'],
)
def test_a_file_that_is_no_record_is_not_overwritten(engine: Engine, tmp_path: Path, content: str) -> None:
    record = tmp_path / "record.json"
    record.write_text(content)
    with pytest.raises(UsageError, match=r"choose another|expected a record|not a whole record"):
        measured(record, "--endpoint", f"direct={engine.address}")
    assert record.read_text() == content


@pytest.mark.parametrize(
    "words",
    [
        ("--endpoint", "elsewhere=http://127.0.0.1:1"),
        ("--endpoint", "direct=127.0.0.1:1"),
        ("--endpoint", "direct=http://a", "--endpoint", "direct=http://b"),
        ("--endpoint", "direct=http://a", "--input", "0"),
        ("--endpoint", "direct=http://a", "--concurrency", "1,-2"),
    ],
)
def test_a_wrong_command_line_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as refused:
        measured(tmp_path / "record.json", *words)
    assert refused.value.code == 2
