"""What agent and proxy cost a real engine: tokens/s directly and through the guest, in pairs.

    PRIVML_VLLM_CPU=DIRECTORY python -m benchmarks.pairs vllm [--pairs 10] [--record serving.json]
    python -m benchmarks.pairs llama-server [--image out/demo-cpu]

The engine runs on this machine's processors with the command line of its record (`benchmarks.engines`) and listens on
a Unix socket. The agent is the real server process on a simulated TEE, whose boot starts the engine and judges its
first answers; the proxy is a process of its own that seals requests. `direct` asks the engine's socket, `guest` the
proxy's port. The load is that of `benchmarks.serving`; the two of a pair get the same prompts, which neither engine
keeps, and every second pair has the other order. One JSON line for each pair and for each cell, then the tables.

The engine has all processors but one, and load, agent and proxy have that one: an engine that waits busily, as vLLM
does, would leave them none. With ``--shared`` all have all. Nothing is a bound here.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmarks import forwarding, serving
from benchmarks.engines import IMAGE, MODEL, SLOTS, LocalEngine, Running, llama_server, unpacked, vllm
from benchmarks.unixsocket import UNIX
from tests.real import smollm2, vllm_cpu
from tests.unit.agent_guest import a_config, a_model, guest

from privml.agent.volume import Volumes
from privml.base.errors import HostError, PrivmlError, UsageError
from privml.events.configuration import Engine

ROOT = Path(__file__).resolve().parents[1]
READY = 900.0
"""Seconds within which the engine has loaded its model and answers."""
_HEAD = 1 << 16


@dataclass(frozen=True)
class Turn:
    """One turn of one endpoint: its exchanges, and the seconds from first to last byte."""

    exchanges: tuple[serving.Exchange, ...]
    wall: float

    @property
    def rate(self) -> float:
        """Output tokens/s."""
        return sum(exchange.tokens for exchange in self.exchanges) / self.wall


@dataclass(frozen=True)
class Pair:
    """A turn of each endpoint with the same prompts, and the seconds of processor time of agent and proxy in it."""

    direct: Turn
    guest: Turn
    cpu: float

    @property
    def ratio(self) -> float:
        """Tokens/s through the guest over those directly; 1 if agent and proxy cost nothing."""
        return self.guest.rate / self.direct.rate

    @property
    def cpu_per_1000(self) -> float:
        """Seconds of processor time of agent and proxy for 1,000 tokens."""
        return self.cpu / sum(exchange.tokens for exchange in self.guest.exchanges) * 1000

    @property
    def said(self) -> dict[str, float]:
        """Its figures, rounded."""
        rates = {"direct_per_second": self.direct.rate, "guest_per_second": self.guest.rate}
        return {name: round(rate, 1) for name, rate in rates.items()} | {"ratio": round(self.ratio, 4)}


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What the pairs of one cell say together: medians, and the middle half of the ratios."""
    ratios = sorted(pair.ratio for pair in pairs)
    quarter = len(ratios) // 4
    return {
        "pairs": len(pairs),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_middle_half": [round(ratios[quarter], 4), round(ratios[-1 - quarter], 4)],
        "direct_per_second": round(statistics.median(pair.direct.rate for pair in pairs), 1),
        "guest_per_second": round(statistics.median(pair.guest.rate for pair in pairs), 1),
        "cpu_s_per_1000": round(statistics.median(pair.cpu_per_1000 for pair in pairs), 4),
    }


def measured(
    direct: serving.Endpoint,
    through: serving.Endpoint,
    prompts: serving.Prompts,
    size: int,
    concurrency: int,
    number: int,
    cpu: Callable[[], float],
) -> Iterator[Pair]:
    """So many pairs of one cell, after one that does not count; ``cpu`` says what agent and proxy took so far."""
    for turn in range(number + 1):
        asked = [prompts.of_tokens(size) for _ in range(serving.TURN * concurrency)]
        found, used = {}, 0.0
        for endpoint in (through, direct) if turn % 2 else (direct, through):
            before = cpu()
            exchanges, wall = serving.load(endpoint, asked, concurrency)
            found[endpoint] = Turn(tuple(exchanges), wall)
            used = cpu() - before if endpoint is through else used
        if turn:
            yield Pair(found[direct], found[through], used)


def cells(
    ends: Sequence[serving.Endpoint], pairs: Sequence[Pair], weights: str, size: int, concurrency: int
) -> list[serving.Cell]:
    """The two cells of the pairs, for the table of `benchmarks.serving`: ``ends`` are direct and guest."""
    found = []
    for endpoint, turns in zip(ends, ([pair.direct for pair in pairs], [pair.guest for pair in pairs]), strict=True):
        exchanges = [exchange for turn in turns for exchange in turn.exchanges]
        wall = sum(turn.wall for turn in turns)
        found.append(serving.cell_of(endpoint, exchanges, wall, weights, size, concurrency))
    return found


def divided(processors: Collection[int], *, shared: bool) -> tuple[set[int], set[int]]:
    """The processors of the engine, and those of load, agent and proxy: the last one, unless they are ``shared``."""
    every = set(processors)
    if shared:
        return every, every
    if len(every) < 2:
        raise UsageError("this machine has one processor", hint="let the engine share it: --shared")
    return every - {max(every)}, {max(every)}


@contextmanager
def served(
    engine: LocalEngine, concurrency: int, output: int, processors: Collection[int] = ()
) -> Iterator[tuple[list[serving.Endpoint], Callable[[], float]]]:
    """Boot a guest with the engine and start a proxy: `direct` and `guest`, and the processor time of the latter."""
    model = replace(a_model(MODEL), file=engine.file)
    config = a_config(
        engine=Engine(engine.record.name, engine.measured),
        models=(model,),
        max_concurrency=concurrency,
        per_address=0,
    )
    with guest(config) as made:

        def runner(argv: Sequence[str]) -> None:
            made.runner(argv)
            if argv[0] == "mount":
                with (engine.model / engine.file).open("rb") as file:
                    (Path(argv[-1]) / engine.file).write_bytes(file.read(_HEAD))

        volume = Volumes(sys=made.layout.sys, dev=made.layout.dev, runner=runner, wait=0.2)
        running = Running(engine, made.layout.engine, processors)
        made.start_server()
        try:
            if not made.boot(engine=running, volumes=volume, engine_wait=READY).run():
                raise HostError(f"the guest does not boot: {made.said[-1:]}; the engine said: {running.said()}")
            made.connect().close()
            with forwarding.proxied(made, "", ROOT / "builder") as proxy:
                behind = replace(proxy, pids=(*proxy.pids, made.server.pid))
                places = {"direct": f"{UNIX}{running.socket}", "guest": f"http://127.0.0.1:{proxy.place}"}
                yield [serving.Endpoint(name, place, MODEL, output) for name, place in places.items()], behind.cpu
        finally:
            running.stop()


def _engine(words: argparse.Namespace, stack: ExitStack, threads: int) -> LocalEngine:
    if words.engine == "llama-server":
        return llama_server(*stack.enter_context(unpacked(words.image)), threads)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="privml-pairs.")))
    model: Path = words.model
    if not model.is_dir():
        model = folder / "smollm2"
        smollm2.convert(model)
    return vllm(vllm_cpu.python(folder), model.absolute(), threads)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs", description="Load a real engine directly and through the guest."
    )
    parser.add_argument("engine", choices=("vllm", "llama-server"))
    parser.add_argument("--input", type=serving.numbers, default=[128], metavar="N,...", help="tokens of a prompt")
    parser.add_argument("--concurrency", type=serving.numbers, default=[1, SLOTS], metavar="N,...")
    parser.add_argument("--output", type=int, default=128, metavar="N", help="tokens of an answer, at most")
    parser.add_argument("--pairs", type=int, default=10, metavar="N", help="pairs in a cell")
    parser.add_argument("--threads", type=int, help="threads that compute answers; one for each of its processors")
    parser.add_argument("--shared", action="store_true", help="the engine's processors are those of the others too")
    parser.add_argument("--image", type=Path, default=Path("out") / IMAGE, help="where llama-server is taken from")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "smollm2", help="vLLM's; made if not there")
    parser.add_argument("--about", default="", help="what this is measured on")
    parser.add_argument("--record", type=Path, default=Path("out/pairs.json"), metavar="FILE")
    options = parser.parse_args(words)
    if min(options.output, options.pairs, 1 if options.threads is None else options.threads) < 1:
        parser.error("--output, --pairs and --threads: expected at least 1")
    if max(options.concurrency) > SLOTS:
        parser.error(f"--concurrency: expected at most {SLOTS}, as many as the engines compute at the same time")
    return options


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Measure every cell; print pairs, medians and tables, and write the record after each cell."""
    options = _options(words)
    record = serving.Record.read(options.record)
    options.record.parent.mkdir(parents=True, exist_ok=True)
    of_engine, others = divided(os.sched_getaffinity(0), shared=options.shared)
    with ExitStack() as stack:
        engine = _engine(options, stack, options.threads or len(of_engine))
        os.sched_setaffinity(0, others)  # agent and proxy inherit it
        stack.callback(os.sched_setaffinity, 0, of_engine | others)
        ends, cpu = stack.enter_context(served(engine, max(options.concurrency), options.output, of_engine))
        prompts = serving.Prompts()
        with ends[0].connections() as connections:
            prompts.calibrate(partial(ends[0].tokens_of, connections))
        for size in options.input:
            for concurrency in options.concurrency:
                load: dict[str, Any] = {"engine": options.engine, "input": size, "concurrency": concurrency}
                pairs: list[Pair] = []
                for pair in measured(*ends, prompts, size, concurrency, options.pairs, cpu):
                    pairs.append(pair)
                    _say(load | {"pair": len(pairs)} | pair.said)
                _say(load | summary(pairs) | {"load_average": round(os.getloadavg()[0], 1)})
                found = cells(ends, pairs, engine.weights, size, concurrency)
                record.cells |= {cell.key: cell for cell in found}
                record.about |= {cell.column: options.about for cell in found if options.about}
                record.write(options.record)
    print(record.table())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (PrivmlError, OSError, http.client.HTTPException, pytest.skip.Exception) as error:
        sys.exit(f"error: {error}")
