"""What the host can read, console and stage list: constants and checked fields, each on one line."""

from __future__ import annotations

import ast
import contextlib
import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from agent_guest import Guest, a_config, guest

import privml.agent
from privml.agent import console
from privml.agent.enginestart import EngineStart
from privml.agent.progress import Progress
from privml.base.errors import HostError, PrivmlError
from privml.engines.registry import engine_named

CANARY = "c4n4ry"
MODULES = sorted(Path(privml.agent.__file__).parent.glob("*.py"))


def hostile(seed: int) -> str:
    """Text with control characters, escapes, separators, surrogates and much of it."""
    made = random.Random(seed)
    pool = [
        "\x1b[2J",
        "\n",
        "\r",
        "\0",
        "\x9b",
        "\u2028",
        "\u202e",
        "\ud800",
        "privml: ready",
        "é",
        " ",
        "\U0010ffff",
    ]
    return "".join(made.choice(pool) for _ in range(made.choice((1, 40, 3000))))


def is_clean(line: str) -> bool:
    return line.isprintable() and len(line) <= console.LIMIT and line.isascii() == line.encode("utf-8").isascii()


@pytest.mark.parametrize("seed", range(12))
def test_a_line_is_one_line_that_can_be_printed(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    console.say(f"privml: stage model failed: {hostile(seed)}")
    written = capsys.readouterr().err
    assert written.endswith("\n") and is_clean(written[:-1])
    assert written.startswith("privml: stage model failed:")


def test_a_megabyte_makes_a_line_of_bounded_length() -> None:
    assert len(console.clean("\x1b" * (1 << 20))) == console.LIMIT


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_only_one_module_writes_to_the_console(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    calls = {
        node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    imports = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    writes = (
        names & {"stderr", "stdout", "print_exc", "excepthook"}
        or calls & {"print"}
        or imports & {"logging", "syslog"}
    )
    assert (path.stem == "console") == bool(writes), writes


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_what_is_written_begins_with_a_constant(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("say", "_say"):
            text = node.args[0]
            if isinstance(text, ast.Call) and ast.unparse(text.func) == "console.clean":
                text = text.args[0]
            first = text.values[0] if isinstance(text, ast.JoinedStr) else text
            assert isinstance(first, ast.Constant) and str(first.value).startswith("privml: "), ast.unparse(node)


class RawEngine:
    """An engine that answers each connection with the bytes in ``answer``."""

    def __init__(self, place: Path) -> None:
        self.answer = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(place))
        self._listener.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    healthy = b"GET /health" in connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" if healthy else self.answer)

    def start(self) -> None:
        return

    def alive(self) -> bool:
        return True

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def completion(text: str) -> bytes:
    body = json.dumps(
        {"choices": [{"text": text, "logprobs": {"token_logprobs": [-0.1], "tokens": [text]}}]}
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


ANSWERS = {
    "not HTTP": CANARY.encode() + b"\r\n\r\n",
    "a status line": b"HTTP/1.1 200 \x1b" + CANARY.encode() + b"\r\n\r\n",
    "a header": b"HTTP/1.1 200 OK\r\n" + CANARY.encode() + b"\r\n\r\n",
    "a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + CANARY.encode() + b"\r\n",
    "a reason": b"HTTP/1.1 500 " + CANARY.encode() + b"\r\ncontent-length: 6\r\n\r\n" + CANARY.encode(),
    "a text": completion(CANARY),
    "a text of controls": completion(f"\x1b[2J{CANARY}\n6"),
    "a body": b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n" + CANARY.encode(),
}


@pytest.fixture(scope="module")
def raw() -> Iterator[tuple[Guest, RawEngine]]:
    with guest() as made:
        engine = RawEngine(made.engine.socket)
        yield made, engine
        engine.stop()


@pytest.mark.parametrize("what", ANSWERS)
def test_nothing_that_an_engine_sends_is_in_an_error(raw: tuple[Guest, RawEngine], what: str) -> None:
    """An engine that was restarted has seen prompts."""
    made, engine = raw
    engine.answer = ANSWERS[what]
    start = EngineStart(engine, engine_named("llama-server"), made.layout, ["tiny"], wait=5.0, secret=False)
    with pytest.raises(PrivmlError) as caught:
        start.start()
    assert CANARY not in str(caught.value)


def test_a_hostile_detail_reaches_console_and_stage_list_as_one_clean_line() -> None:
    text = f"{hostile(3)}{CANARY}" + "x" * 9000

    def refused(*_: object) -> None:
        raise HostError(f"model: {text}")

    with guest(a_config()) as made:
        made.start_server()
        assert not made.boot(volumes=SimpleNamespace(open=refused)).run()
        assert all(map(is_clean, made.said)) and "privml: stage model failed: model: " in made.said[-1]
        rows = made.json("/boot-stages")[1]["stages"]
        assert all(is_clean(row["detail"]) for row in rows)  # type: ignore[attr-defined]


def test_progress_cleans_every_detail(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "stages.json", ["one"])
    for seed in range(20):
        progress.end("one", "warning", hostile(seed))
        assert is_clean(progress.stage("one").detail)
