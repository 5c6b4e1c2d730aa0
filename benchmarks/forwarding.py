"""What agent and proxy add to an engine: tokens/s, small requests/s, time to first token, processor time.

    python -m benchmarks.forwarding [--before DIRECTORY] [--streams 64] [--rounds 3]

The engine is a stand-in on a Unix socket; the agent is the real server process on a simulated TEE; the proxy is a
process of its own: `proxy` seals requests as it does by default, `proxy-open` does not, `proxy-receipts` also checks
and keeps a receipt for each answer. Everything is on this machine, so a figure of a flat-out load is one of the
processors shared by the load, the engine and what is measured: processor time for each token or request says more.
``--before`` names another checkout, whose proxies and agent take turns with these, so that a busy moment meets all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import smallrequests
from tests.unit.agent_guest import Guest, a_config, free_port, guest, prediction

from privml.client.connection import tls_context
from privml.statement.predicate import encode

ROOT = Path(__file__).resolve().parents[1]
PACE = 50
"""Tokens a second of each paced stream."""
SMALL_CALLERS = 16
"""Callers of small requests at once."""
KINDS = ("", "open", "receipts")
"""The ways of a proxy: sealed, open, and sealed with receipts."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PIECE = b'data: {"choices":[{"index":0,"delta":{"content":" token"}}]}\n\n'
_CHUNK = b"%x\r\n%s\r\n" % (len(_PIECE), _PIECE)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PROXY = """
import sys, time
from pathlib import Path
from privml.client import attested, proxy
from privml.client.direct import Direct
from privml.client.gate import Gate
from privml.evidence.tdx.signature import root_der
from privml.sim import quote as sim
from privml.statement.predicate import decode
from privml.verify.anchor import Built, Expected
from privml.verify.policy import Policy
from privml.client.guests import Guest, Guests
from privml.client.receipts import Receipts
url, port, path, kind, folder = sys.argv[1:]
expected = Expected(decode(open(path, "rb").read()), Built("out"))
policy = Policy(allow_simulated=root_der(sim.root_pem()))
def check(document, nonce, key):
    now = int(time.time())
    return attested.judge(document, expected, policy, now=now, nonce=nonce, tls_spki_sha256=key)
receipts = Receipts(Path(folder)) if kind == "receipts" else None
if receipts is not None:
    check = receipts.watching(check, lambda judgement: None)
gate = Gate(url, check)
guests = Guests([Guest(gate, Direct(gate.upstream) if kind == "open" else None)])
proxy.server(("127.0.0.1", int(port)), guests, receipts=receipts).run()
"""


# --- the engine -----------------------------------------------------------------------------------------------------


async def engine(path: str) -> None:
    """Serve streams on a Unix socket: `max_tokens` pieces, at `PACE` with temperature 1, else at once."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                asked = json.loads(await reader.readexactly(length)) if length else {}
                writer.write(_STREAM)
                begun, paced = time.perf_counter(), asked.get("temperature") == 1
                for number in range(asked["max_tokens"]):
                    if paced and (late := begun + number / PACE - time.perf_counter()) > 0:
                        await asyncio.sleep(late)
                    writer.write(_CHUNK)
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        await server.serve_forever()


# --- the load -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """Something that answers, and the processes whose time counts as its own."""

    name: str
    place: str | int
    tls: bool = False
    pids: tuple[int, ...] = ()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that is kept for many requests."""
        if isinstance(self.place, str):
            return await asyncio.open_unix_connection(self.place)
        return await asyncio.open_connection("127.0.0.1", self.place, ssl=tls_context() if self.tls else None)

    def request(self, **fields: Any) -> bytes:
        """One request."""
        body = json.dumps({"messages": [{"role": "user", "content": "a"}], "model": "tiny", **fields}).encode()
        host = f"127.0.0.1:{self.place}" if isinstance(self.place, int) else "engine"
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def cpu(self) -> float:
        """Seconds of processor time of its processes so far."""
        total = 0
        for pid in self.pids:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(words[11]) + int(words[12])
        return total / _TICKS

    def resident(self) -> int:
        """Bytes of memory of its processes."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids) * 4096


class Caller:
    """A caller of one endpoint, on one connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def connect(self) -> None:
        """Connect and ask once, so that every connection behind the endpoint is open, as it is in a service."""
        self._reader, self._writer = await self._endpoint.connect()
        await self.stream(1, paced=False)

    async def stream(self, tokens: int, *, paced: bool, delay: float = 0.0) -> tuple[int, float]:
        """Tokens of one stream, and the seconds to the first."""
        await asyncio.sleep(delay)
        begun = time.perf_counter()
        self._writer.write(self._endpoint.request(stream=True, max_tokens=tokens, temperature=int(paced)))
        first, count, data = 0.0, 0, b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            piece = await self._reader.read(1 << 16)
            if not piece:
                raise ConnectionError(f"{self._endpoint.name}: ended early")
            count += piece.count(b"delta")
            if count and not first:
                first = time.perf_counter() - begun
            data = (data + piece)[-16:]
        return count, first

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


@dataclass(frozen=True)
class Run:
    """One load on one endpoint: how much in a second, its processor time for 1,000, and the times to first token."""

    rate: float
    cpu: float
    firsts: Sequence[float] = ()


async def _all(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return list(await asyncio.gather(*work))


def streams(endpoint: Endpoint, number: int, tokens: int, *, paced: bool) -> Run:
    """``number`` streams at once; paced ones begin spread over half a second."""

    async def work() -> Run:
        callers = [Caller(endpoint) for _ in range(number)]
        await _all([caller.connect() for caller in callers])
        before, begun = endpoint.cpu(), time.perf_counter()
        delays = [index / number / 2 if paced else 0.0 for index in range(number)]
        found = await _all(
            [one.stream(tokens, paced=paced, delay=delay) for one, delay in zip(callers, delays, strict=True)]
        )
        taken = time.perf_counter() - begun
        for caller in callers:
            caller.close()
        total = sum(count for count, _ in found)
        return Run(total / taken, (endpoint.cpu() - before) / total * 1000, [first for _, first in found])

    return asyncio.run(work())


def small(endpoint: Endpoint, number: int, seconds: float) -> Run:
    """Small requests from ``number`` callers at once."""
    assert isinstance(endpoint.place, int)
    before, begun = endpoint.cpu(), time.perf_counter()
    context = tls_context() if endpoint.tls else None
    total = smallrequests.load(endpoint.place, endpoint.request(), context, number, seconds)
    return Run(total / (time.perf_counter() - begun), (endpoint.cpu() - before) / total * 1000)


# --- what is measured -----------------------------------------------------------------------------------------------


@contextmanager
def process(argv: Sequence[str], builder: Path) -> Iterator[int]:
    """A process with the modules of ``builder`` and this checkout; its id."""
    path = os.pathsep.join([str(builder), str(ROOT), *(entry for entry in sys.path if entry)])
    child = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL)
    try:
        yield child.pid
    finally:
        child.terminate()
        child.wait()


def until_there(port: int) -> None:
    """Wait until something listens on a port of this machine."""
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def proxied(made: Guest, kind: str, builder: Path) -> Iterator[Endpoint]:
    """A proxy, of `KINDS`, in a process of its own in front of a guest that serves."""
    predicted, port = made.root / "prediction.json", free_port()
    predicted.write_bytes(encode(prediction(made)))
    url = f"https://127.0.0.1:{made.config.listen}"
    argv = [sys.executable, "-c", _PROXY, url, str(port), str(predicted), kind, str(made.root / "receipts")]
    with process(argv, builder) as pid:
        until_there(port)
        yield Endpoint(f"proxy{kind and '-'}{kind}", port, pids=(pid,))


@contextmanager
def served(name: str, checkout: Path, number: int, *, small_only: bool = False) -> Iterator[list[Endpoint]]:
    """The agent and the proxy of a checkout, in front of an engine of their own."""
    builder = checkout / "builder"
    with ExitStack() as stack:
        made: Guest = stack.enter_context(
            guest(a_config(max_concurrency=max(number, SMALL_CALLERS), per_address=0), builder=builder)
        )
        made.start_server()
        if not made.boot().run():
            raise RuntimeError(f"the guest does not boot: {made.said}")
        made.connect().close()
        made.engine.stop()
        path = made.engine.socket
        path.parent.mkdir()  # an engine that is stopped takes it along
        path.unlink(missing_ok=True)
        code = f"import asyncio; from benchmarks.forwarding import engine; asyncio.run(engine({str(path)!r}))"
        argv = ["-m", "benchmarks.smallrequests", str(path)] if small_only else ["-c", code]
        stack.enter_context(process([sys.executable, *argv], ROOT / "builder"))
        while not path.exists():
            time.sleep(0.02)
        found = [Endpoint(f"direct{name}", str(path))]
        found.append(Endpoint(f"agent{name}", made.config.listen, tls=True, pids=(made.server.pid,)))
        for kind in KINDS:
            one = stack.enter_context(proxied(made, kind, builder))
            found.append(replace(one, name=one.name + name))
        yield found


def main() -> None:
    """Measure and print one JSON line for each load and endpoint: medians over the rounds."""
    parser = argparse.ArgumentParser(description="Load agent and proxy over a stand-in engine.")
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--loads", default="paced,flat,small", help="which of paced, flat and small")
    words = parser.parse_args()
    number: int = words.streams
    loads: dict[str, Callable[[Endpoint], Run]] = {
        "paced": lambda endpoint: streams(endpoint, number, int(words.seconds * PACE), paced=True),
        "flat": lambda endpoint: streams(endpoint, number, 500, paced=False),
        "small": lambda endpoint: small(endpoint, SMALL_CALLERS, words.seconds),
    }
    chosen = [load for load in loads if load in words.loads.split(",")]
    for group in (("paced", "flat"), ("small",)):
        if wanted := {load: loads[load] for load in chosen if load in group}:
            _report(wanted, words.before, number, words.rounds)


def _report(loads: Mapping[str, Callable[[Endpoint], Run]], before: Path | None, number: int, rounds: int) -> None:
    small_only = set(loads) == {"small"}
    with ExitStack() as stack:
        endpoints = stack.enter_context(served("", ROOT, number, small_only=small_only))
        if before is not None:
            other = served("-before", before.resolve(), number, small_only=small_only)
            endpoints += stack.enter_context(other)[1:]
        if small_only:
            endpoints = [one for one in endpoints if isinstance(one.place, int)]
        found: dict[tuple[str, str], list[Run]] = {}
        for turn in range(rounds):
            for load, work in loads.items():
                for endpoint in reversed(endpoints) if turn % 2 else endpoints:
                    found.setdefault((load, endpoint.name), []).append(work(endpoint))
        memory = {endpoint.name: endpoint.resident() for endpoint in endpoints}
    for (load, name), runs in found.items():
        firsts = sorted(first for run in runs for first in run.firsts)
        line = {
            "load": load,
            "endpoint": name,
            "per_second": round(statistics.median(run.rate for run in runs), 1),
            "cpu_s_per_1000": round(statistics.median(run.cpu for run in runs), 4),
            "first_ms": [round(1000 * firsts[int(len(firsts) * part)], 2) for part in (0.5, 0.95)]
            if firsts
            else None,
            "mb": round(memory[name] / 1e6),
            "load_average": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
