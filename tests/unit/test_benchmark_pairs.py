"""The benchmark of pairs: its figures, its turns, its engines, and a whole run over an engine that costs nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks import engines, pairs, serving
from benchmarks.unixsocket import UNIX, SocketConnections
from tests.unit.agent_guest import LIMIT, UnixServer
from tests.unit.server_thread import in_thread
from tests.unit.test_benchmark_serving import Engine, Handler

from privml.base.errors import UsageError
from privml.engines.engine import DIRECTORY
from privml.engines.registry import ENGINES

ENDS = [serving.Endpoint("direct", f"{UNIX}/e.sock", "m", 8), serving.Endpoint("guest", "http://127.0.0.1:1", "m", 8)]


def turn(tokens: int, wall: float) -> pairs.Turn:
    return pairs.Turn((serving.Exchange(9, tokens - 4, 0.1, 0.5), serving.Exchange(9, 4, 0.1, 0.2)), wall)


def pair(direct: float, guest: float, cpu: float = 0.0) -> pairs.Pair:
    """A pair of so many tokens/s."""
    return pairs.Pair(turn(100, 100 / direct), turn(50, 50 / guest), cpu)


# The figures.


def test_a_pair_compares_tokens_in_a_second_and_not_seconds() -> None:
    one = pairs.Pair(turn(100, 2.0), turn(90, 2.0), 0.018)
    assert (one.direct.rate, one.guest.rate) == (50, 45)
    assert one.ratio == pytest.approx(0.9)
    assert one.cpu_per_1000 == pytest.approx(0.2)
    assert one.said == {"direct_per_second": 50.0, "guest_per_second": 45.0, "ratio": 0.9}


def test_a_summary_has_the_median_of_the_ratios_and_not_the_ratio_of_medians() -> None:
    found = pairs.summary([pair(100, 99, 0.05), pair(10, 9.7, 0.1), pair(50, 49, 0.15), pair(20, 10, 0.2)])
    assert found == {
        "pairs": 4,
        "ratio": 0.975,
        "ratio_middle_half": [0.97, 0.98],
        "direct_per_second": 35.0,
        "guest_per_second": 29.5,
        "cpu_s_per_1000": 2.5,
    }
    alone = pairs.summary([pair(10, 9)])
    assert (alone["ratio"], alone["ratio_middle_half"]) == (0.9, [0.9, 0.9])


def test_the_cells_have_all_exchanges_of_their_endpoint() -> None:
    direct, guest = pairs.cells(ENDS, [pair(100, 50), pair(50, 25)], "bf16, x", 128, 4)
    assert (direct.column, direct.weights, direct.input, direct.concurrency) == ("direct", "bf16, x", 128, 4)
    assert (direct.requests, direct.tokens, direct.wall_us) == (4, 200, 3_000_000)
    assert (guest.column, guest.requests, guest.tokens, guest.wall_us) == ("guest", 4, 100, 3_000_000)


# The turns.


def test_both_of_a_pair_get_the_same_prompts_in_turns_and_the_first_pair_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, tuple[str, ...], int]] = []
    clock = 0.0

    def load(endpoint: serving.Endpoint, prompts: list[str], concurrency: int) -> Any:
        nonlocal clock
        clock += 1.0 if endpoint.column == "direct" else 100.0
        asked.append((endpoint.column, tuple(prompts), concurrency))
        return [serving.Exchange(9, 10 * len(asked), 0.1, 0.5)], 1.0

    monkeypatch.setattr(serving, "load", load)
    found = list(pairs.measured(*ENDS, serving.Prompts(), 32, 3, 2, lambda: clock))
    assert [column for column, _, _ in asked] == ["direct", "guest", "guest", "direct", "direct", "guest"]
    given = [prompts for _, prompts, _ in asked]
    assert given[0::2] == given[1::2] and len(set(given)) == 3
    assert all(len(set(prompts)) == 3 * serving.TURN and number == 3 for _, prompts, number in asked)
    # 1st pair: 10 and 20 tokens, which do not count; 2nd: the guest first.
    assert [(one.direct.rate, one.guest.rate) for one in found] == [(40, 30), (50, 60)]
    assert [one.cpu for one in found] == [100.0, 100.0], "the turn of `direct` is not in it"


# The engines.


def engine_in(folder: Path) -> list[engines.LocalEngine]:
    """Each engine, as it would be on a machine that has it."""
    (folder / "root/usr/lib/x86_64-linux-gnu/ggml/backends0").mkdir(parents=True)
    (folder / "a.gguf").write_bytes(b"GGUF")
    return [engines.vllm(folder / "bin/python", folder, 1), engines.llama_server(folder / "root", folder, 1)]


def test_each_engine_runs_as_its_record_says_and_keeps_no_prompt(tmp_path: Path) -> None:
    found = engine_in(tmp_path)
    assert {each.record.name for each in found} == set(ENGINES)
    for each, flag in zip(found, ("--no-enable-prefix-caching", "--no-cache-prompt"), strict=True):
        assert flag in each.measured and flag in each.argv, "the two of a pair get the same prompts"
        # What differs from the command line in a guest is where things are, and what an answer says of its prompt.
        program = 1 if each.record.name == "vllm" else 4
        native = [word.replace(str(tmp_path), "/run/privml/model") for word in each.argv[program:]]
        assert [word for word in native if word != "--enable-prompt-tokens-details"] == list(each.measured[1:])
        running = pairs.Running(each, tmp_path / "engine")
        assert running.socket == tmp_path / "engine" / each.record.socket_name
        assert str(running.socket) in running.argv
        assert not [word for word in (*running.argv, *running.environment.values()) if DIRECTORY in word]
    assert found[0].environment["OMP_NUM_THREADS"] == "1"
    assert found[1].place.name == "backends0" and found[1].argv[found[1].argv.index("--threads") + 1] == "1"


def test_the_engine_has_all_processors_but_one_and_the_others_that_one() -> None:
    assert pairs.divided([4, 0, 7], shared=False) == ({0, 4}, {7})
    assert pairs.divided([4, 0, 7], shared=True) == ({0, 4, 7}, {0, 4, 7})
    assert pairs.divided([3], shared=True) == ({3}, {3})
    with pytest.raises(UsageError, match="one processor"):
        pairs.divided([3], shared=False)


# A Unix socket.


@contextmanager
def on_a_socket(place: Path, handler: type[Handler]) -> Iterator[Engine]:
    engine = Engine()
    path = place / "e.sock"
    with in_thread(UnixServer(str(path), type("Bound", (handler,), {"engine": engine}))):
        engine.address = f"{UNIX}{path}"
        yield engine


class Closing(Handler):
    """Closes each connection after its answer, without saying so, as llama-server does after a stream."""

    def do_POST(self) -> None:
        super().do_POST()
        self.close_connection = True


@pytest.mark.parametrize("handler", [Handler, Closing])
def test_an_endpoint_on_a_socket_is_measured_as_any_other(tmp_path: Path, handler: type[Handler]) -> None:
    with on_a_socket(tmp_path, handler) as engine:
        words = ("--model", "tiny", "--endpoint", f"direct={engine.address}", "--input", "64", "--concurrency", "2")
        record = tmp_path / "record.json"
        assert serving.main([*words, "--output", "3", "--rounds", "1", "--record", str(record)]) == 0
        (cell,) = serving.Record.read(record).cells.values()
        assert (cell.requests, cell.tokens) == (4, 12)
        assert len(set(engine.prompts)) == len(engine.prompts) == 2 + 4, "nothing was computed twice"


def test_a_socket_that_nobody_answers_on_is_an_error(tmp_path: Path) -> None:
    with SocketConnections(tmp_path / "none.sock", 1) as connections, pytest.raises(FileNotFoundError):
        connections.post(f"{UNIX}{tmp_path}/none.sock/v1/models", b"{}", {})


# A whole run.

STAND_IN = """
import sys
from tests.unit.agent_guest import COUNTED, UnixServer
from tests.unit.test_benchmark_serving import Engine, Handler
class Whole(Handler):
    engine = Engine()
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_POST(self):
        if self.path != "/v1/completions":
            return super().do_POST()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(COUNTED)))
        self.end_headers()
        self.wfile.write(COUNTED)
UnixServer(sys.argv[1], Whole).serve_forever()
"""


def stand_in(folder: Path) -> engines.LocalEngine:
    """An engine that answers at once, as a process."""
    (folder / "model.gguf").write_bytes(b"GGUF")
    record = ENGINES["llama-server"]
    return engines.LocalEngine(
        record=record,
        weights="none",
        measured=("/usr/bin/llama-server", "--model", "/run/privml/model/model.gguf"),
        argv=(sys.executable, "-c", STAND_IN, record.socket),
        environment={"PYTHONPATH": ":".join(entry for entry in sys.path if entry)},
        model=folder,
        file="model.gguf",
        place=Path(__file__).parents[2],
    )


def test_a_whole_run_asks_the_engine_and_the_guest_in_front_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pairs, "_engine", lambda words, stack, threads: stand_in(tmp_path))
    words = ("llama-server", "--input", "64", "--concurrency", "2", "--output", "4", "--pairs", "2")
    assert pairs.main([*words, "--record", str(tmp_path / "record.json"), "--about", "a test"]) == 0
    out = capfd.readouterr().out.splitlines()
    lines = [json.loads(line) for line in out if line.startswith("{")]
    assert [line.get("pair") for line in lines] == [1, 2, None]
    assert all(line["ratio"] > 0 for line in lines) and lines[-1]["pairs"] == 2
    cells = serving.Record.read(tmp_path / "record.json").cells
    assert [(cell.column, cell.requests, cell.tokens) for cell in cells.values()] == [
        ("direct", 8, 32),
        ("guest", 8, 32),
    ]
    assert "- through the guest: a test" in out


def test_an_engine_that_ends_is_shown_with_its_last_words(tmp_path: Path) -> None:
    engine = stand_in(tmp_path)
    # Its processors are set after its start.
    code = "import os, time; time.sleep(0.2); raise SystemExit(f'no memory on {len(os.sched_getaffinity(0))}')"
    broken = engines.LocalEngine(**{**vars(engine), "argv": (sys.executable, "-c", code)})
    (one, *_) = sorted(os.sched_getaffinity(0))
    running = pairs.Running(broken, tmp_path, {one})
    assert not running.alive()
    running.start()
    end = time.monotonic() + LIMIT
    while running.alive():
        assert time.monotonic() < end
        time.sleep(0.01)
    running.stop()
    assert running.said() == "no memory on 1\n"


@pytest.mark.parametrize("words", [("tgi",), ("vllm", "--pairs", "0"), ("vllm", "--concurrency", "1,64")])
def test_a_wrong_command_line_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as refused:
        pairs.main(words)
    assert refused.value.code == 2
