"""Load an OpenAI-compatible endpoint: tokens/s, time to first token, time between tokens.

    python -m benchmarks.serving --model NAME --endpoint direct=http://127.0.0.1:8000 \
        --endpoint guest=http://127.0.0.1:8080 --input 128,1024 --concurrency 1,16,64 --record serving.json

Cells are added to the record and replace those of an earlier run; the table is printed from the whole record. A cell
that was not measured is empty. Several endpoints in one run take turns, so a busy moment meets all of them.
docs/PERFORMANCE.md has the method.
"""

from __future__ import annotations

import argparse
import http.client
import json
import queue
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.unixsocket import UNIX, SocketConnections

from privml.base.errors import HostError, PrivmlError, UsageError
from privml.base.files import write_atomic
from privml.base.http import Connections
from privml.base.strictjson import loads, pretty
from privml.base.wayout import WayOut

FORMAT = "privml-serving/v1"
COLUMNS = {"direct": "direct", "guest": "through the guest", "cc-off": "CC off", "cc-on": "CC on"}
INPUTS = (128, 1024, 4096, 16384, 32768)
CONCURRENCIES = (1, 4, 16, 64)
TURN = 2
"""Requests of each worker in one turn of an endpoint."""
PATIENCE = 600.0
"""Seconds without a byte after which a request has failed."""
_LINE = 1 << 20
_WORDS = (
    "river",
    "stone",
    "light",
    "paper",
    "water",
    "green",
    "house",
    "seven",
    "music",
    "table",
    "garden",
    "window",
)
_TEXTS = ("content", "reasoning_content", "reasoning")
"""Where a piece of an answer has its text."""


@dataclass(frozen=True)
class Exchange:
    """One streamed answer: tokens as the server counted them, times in seconds since the request was begun."""

    prompt_tokens: int
    tokens: int
    first: float
    last: float

    @property
    def between(self) -> float:
        """Mean time from one token to the next; several may come in one piece."""
        return (self.last - self.first) / max(self.tokens - 1, 1)


@dataclass(frozen=True)
class Cell:
    """What was measured in one column, with one length of input and one number of concurrent requests."""

    weights: str
    column: str
    input: int
    concurrency: int
    requests: int
    prompt_tokens: int
    tokens: int
    wall_us: int
    first_us: tuple[int, int]
    between_us: tuple[int, int]
    date: str

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What a later measurement of the same replaces."""
        return self.weights, self.column, self.input, self.concurrency


@dataclass
class Record:
    """All cells so far, and what each column was measured on."""

    cells: dict[tuple[str, str, int, int], Cell] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record of a file; an empty one if there is none."""
        if not path.exists():
            return cls()
        document = loads(path.read_bytes(), what=str(path))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise UsageError(f"{path}: expected a record with format {FORMAT}", hint="choose another --record FILE")
        try:
            cells = [Cell(**_row(row)) for row in document["cells"]]
            return cls({cell.key: cell for cell in cells}, dict(document["about"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: not a whole record: {error}", hint="choose another --record FILE") from error

    def write(self, path: Path) -> None:
        """Replace the file."""
        rows = [asdict(self.cells[key]) for key in sorted(self.cells)]
        for row in rows:
            row |= {"first_us": list(row["first_us"]), "between_us": list(row["between_us"])}
        write_atomic(path, pretty({"format": FORMAT, "about": self.about, "cells": rows}))

    def table(self) -> str:
        """Three tables in Markdown with one row for each kind of load, and a column for each in `COLUMNS`."""
        parts = [
            _table("Output tokens/s", self.cells, lambda cell: f"{cell.tokens * 1e6 / cell.wall_us:.1f}"),
            _table("Time to first token, ms: median (95 %)", self.cells, lambda cell: _milliseconds(cell.first_us)),
            _table("Time between tokens, ms: median (95 %)", self.cells, lambda cell: _milliseconds(cell.between_us)),
        ]
        parts += [f"- {COLUMNS[column]}: {text}\n" for column, text in sorted(self.about.items())]
        return "\n".join(parts)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the record's file, with its lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


def _milliseconds(pair: Sequence[int]) -> str:
    return f"{pair[0] / 1000:.1f} ({pair[1] / 1000:.1f})"


def _table(title: str, cells: dict[tuple[str, str, int, int], Cell], shown: Callable[[Cell], str]) -> str:
    lines = [f"{title}\n", f"| weights | input | concurrent | {' | '.join(COLUMNS.values())} |"]
    lines.append("|---" * (3 + len(COLUMNS)) + "|")
    for weights, size, concurrency in sorted(
        {(cell.weights, cell.input, cell.concurrency) for cell in cells.values()}
    ):
        found = [cells.get((weights, column, size, concurrency)) for column in COLUMNS]
        values = " | ".join("" if cell is None else shown(cell) for cell in found)
        lines.append(f"| {weights} | {size} | {concurrency} | {values} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server, and the model that it is asked for; ``address`` is a URL or ``unix:PATH``."""

    column: str
    address: str
    model: str
    output: int

    def connections(self) -> Connections | SocketConnections:
        """Connections to it, for one thread."""
        if self.address.startswith(UNIX):
            return SocketConnections(Path(self.address.removeprefix(UNIX)), PATIENCE)
        return Connections(WayOut(), PATIENCE)

    def tokens_of(self, connections: Connections | SocketConnections, prompt: str) -> int:
        """How many tokens the server counts in a prompt."""
        return self.ask(connections, prompt).prompt_tokens

    def ask(self, connections: Connections | SocketConnections, prompt: str) -> Exchange:
        """Send one chat request and read its whole stream."""
        url = f"{self.address}/v1/chat/completions"
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.output,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        begun = time.perf_counter()
        response = connections.post(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if response.status != 200:
            text = response.read(2000).decode("utf-8", "replace")
            connections.drop(url)
            raise HostError(f"{self.column}: {url} answered {response.status}: {text}")
        first = last = None
        usage: Any = None
        for piece in _pieces(iter(lambda: response.readline(_LINE), b"")):
            if "error" in piece:
                raise HostError(f"{self.column}: the stream ended with an error: {piece['error']}")
            deltas = [choice.get("delta") or {} for choice in piece.get("choices") or []]
            if any(delta.get(name) for delta in deltas for name in _TEXTS):
                last = time.perf_counter() - begun
                first = last if first is None else first
            usage = piece.get("usage") or usage
        response.read()
        if first is None or last is None:
            raise HostError(f"{self.column}: an answer without text")
        match usage:
            case {"prompt_tokens": int(asked), "completion_tokens": int(answered)} if asked > 0 and answered > 0:
                return Exchange(asked, answered, first, last)
        raise HostError(f"{self.column}: the stream's `usage` is {usage}, expected the tokens of prompt and answer")


def _pieces(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of server-sent events, up to `[DONE]`."""
    for line in lines:
        name, _, data = line.rstrip(b"\r\n").partition(b":")
        if name != b"data":
            continue
        if data.strip() == b"[DONE]":
            return
        try:
            piece = json.loads(data)
        except ValueError as error:
            raise HostError(f"a piece of the stream is not JSON: {data[:200]!r}") from error
        if not isinstance(piece, dict):
            raise HostError(f"a piece of the stream is not an object: {data[:200]!r}")
        yield piece
    raise HostError("the stream ended before `[DONE]`")


class Prompts:
    """Prompts of about so many tokens, no two with the same beginning, so that no cache of prefixes helps."""

    def __init__(self) -> None:
        self._chance = random.SystemRandom()  # a seed would give two runs the same prompts
        self._offset, self._each = 0.0, 1.0

    def of_words(self, count: int) -> str:
        """A prompt of ``count`` words after its number."""
        return f"{self._chance.getrandbits(64):016x} " + " ".join(self._chance.choices(_WORDS, k=count))

    def calibrate(self, tokens_of: Callable[[str], int]) -> None:
        """Learn from two prompts how many tokens a word has, and how many the rest."""
        few, many = (tokens_of(self.of_words(count)) for count in (16, 112))
        if many <= few:
            raise HostError(f"16 words are {few} tokens and 112 words {many}: the server's `usage` cannot be right")
        self._each = (many - few) / 96
        self._offset = few - 16 * self._each

    def of_tokens(self, count: int) -> str:
        """A prompt of about ``count`` tokens, the template's included."""
        return self.of_words(max(round((count - self._offset) / self._each), 1))


def load(endpoint: Endpoint, prompts: Sequence[str], concurrency: int) -> tuple[list[Exchange], float]:
    """Ask for all prompts, ``concurrency`` at a time; the exchanges, and the seconds from first to last byte."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for prompt in prompts:
        waiting.put(prompt)
    done: list[Exchange] = []
    failed: list[Exception] = []

    def work() -> None:
        with endpoint.connections() as connections:
            while not failed:
                try:
                    done.append(endpoint.ask(connections, waiting.get_nowait()))
                except queue.Empty:
                    return
                except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
                    failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(concurrency)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return done, time.perf_counter() - begun


def measure(
    endpoints: Sequence[Endpoint], prompts: Prompts, weights: str, size: int, concurrency: int, rounds: int
) -> list[Cell]:
    """One cell for each endpoint. They take turns; every second round in the other order."""
    found: dict[Endpoint, list[Exchange]] = {endpoint: [] for endpoint in endpoints}
    walls = dict.fromkeys(endpoints, 0.0)
    for number in range(rounds):
        for endpoint in reversed(endpoints) if number % 2 else endpoints:
            asked = [prompts.of_tokens(size) for _ in range(TURN * concurrency)]
            exchanges, wall = load(endpoint, asked, concurrency)
            found[endpoint] += exchanges
            walls[endpoint] += wall
    return [cell_of(endpoint, found[endpoint], walls[endpoint], weights, size, concurrency) for endpoint in endpoints]


def cell_of(
    endpoint: Endpoint, found: Sequence[Exchange], wall: float, weights: str, size: int, concurrency: int
) -> Cell:
    """The cell of all exchanges with one endpoint, which took ``wall`` seconds."""
    return Cell(
        weights=weights,
        column=endpoint.column,
        input=size,
        concurrency=concurrency,
        requests=len(found),
        prompt_tokens=round(statistics.median(exchange.prompt_tokens for exchange in found)),
        tokens=sum(exchange.tokens for exchange in found),
        wall_us=round(wall * 1e6),
        first_us=_percentiles([exchange.first for exchange in found]),
        between_us=_percentiles([exchange.between for exchange in found]),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
    )


def _percentiles(values: Sequence[float]) -> tuple[int, int]:
    """Median and 95th percentile, in microseconds."""
    ordered = sorted(values)
    return round(statistics.median(ordered) * 1e6), round(ordered[-(-95 * len(ordered) // 100) - 1] * 1e6)


def numbers(text: str) -> list[int]:
    """The positive numbers of a word like ``1,16,64``."""
    found = [int(word) for word in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError("expected positive numbers with commas between them")
    return found


def _place(text: str) -> tuple[str, str]:
    column, _, address = text.partition("=")
    if column not in COLUMNS or not address.startswith(("http://", "https://", f"{UNIX}/")):
        expected = f"expected COLUMN=URL or COLUMN={UNIX}/PATH, with a column of {', '.join(COLUMNS)}"
        raise argparse.ArgumentTypeError(expected)
    if address.startswith(UNIX):
        return column, address
    return column, address.rstrip("/").removesuffix("/v1")


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description="Load an OpenAI-compatible endpoint."
    )
    parser.add_argument("--endpoint", type=_place, action="append", required=True, metavar="COLUMN=URL")
    parser.add_argument("--model", required=True, help="name of the model, as the endpoint knows it")
    parser.add_argument("--input", type=numbers, default=list(INPUTS), metavar="N,...", help="tokens of a prompt")
    parser.add_argument("--concurrency", type=numbers, default=list(CONCURRENCIES), metavar="N,...")
    parser.add_argument("--output", type=int, default=128, metavar="N", help="tokens of an answer, at most")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each endpoint in a cell")
    parser.add_argument("--weights", default="bf16", help="the row's weights, such as bf16, fp8 or awq")
    parser.add_argument("--about", default="", help="what the columns of this run are measured on")
    parser.add_argument("--record", type=Path, default=Path("out/serving.json"), metavar="FILE")
    options = parser.parse_args(words)
    if min(options.output, options.rounds) < 1:
        parser.error("--output and --rounds: expected at least 1")
    if len(dict(options.endpoint)) != len(options.endpoint):
        parser.error("--endpoint: expected each column once")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Measure every cell, write the record after each, print the table; 1 if a cell could not be measured."""
    options = _options(words)
    record = Record.read(options.record)
    options.record.parent.mkdir(parents=True, exist_ok=True)
    endpoints = [Endpoint(column, address, options.model, options.output) for column, address in options.endpoint]
    prompts, status = Prompts(), 0
    for endpoint in endpoints:  # also the first request of each, which may be slow
        with endpoint.connections() as connections:
            prompts.calibrate(partial(endpoint.tokens_of, connections))
    for size in options.input:
        for concurrency in options.concurrency:
            try:
                cells = measure(endpoints, prompts, options.weights, size, concurrency, options.rounds)
            except (PrivmlError, OSError, http.client.HTTPException) as error:
                print(f"input {size}, concurrency {concurrency}: {error}", file=sys.stderr)
                status = 1
                continue
            record.cells |= {cell.key: cell for cell in cells}
            record.about |= {cell.column: options.about for cell in cells if options.about}
            record.write(options.record)
    print(record.table())
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (PrivmlError, OSError, http.client.HTTPException) as error:
        sys.exit(f"error: {error}")
