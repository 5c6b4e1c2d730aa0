"""Sealed streams over open ones: 64 at a time through the agent, from an engine of 50 tokens a second for each.

    python -m benchmarks.sealed

Engine, agent and caller are a process each on one machine. Streams begin 10 ms after each other. Open and sealed
rounds take turns, so that a busy moment meets both. The caller opens what it gets as it arrives.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measured import figure
from tests.sealed import request, seal

from privml.agent import identity
from privml.agent.layout import Layout
from privml.agent.progress import Progress
from privml.channel.keyconfig import KeyConfig, decode_list
from privml.channel.ohttp import GATEWAY
from privml.engines.registry import engine_named
from privml.events.configuration import Config, Engine, Model, encode
from privml.events.verity import Verity

Figure = Callable[[str, list[float], float, str], None]

STREAMS = 64
TOKENS = 100
PAUSE = 0.02
APART = 0.01
ROUNDS = 7
PATH = "/v1/chat/completions"
BODY = b'{"messages":[{"role":"user","content":"Count on."}],"stream":true}'
ENGINE = "llama-server"
_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}],"object":"chunk"}\n\n'


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request: its tokens, one after the other."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return  # somebody looked whether this runs
    size = next(int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(size)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    due = asyncio.get_running_loop().time()
    for _ in range(TOKENS):
        writer.write(b"%x\r\n%s\r\n" % (len(_TOKEN), _TOKEN))
        await writer.drain()
        due += PAUSE
        await asyncio.sleep(due - asyncio.get_running_loop().time())
    writer.write(b"0\r\n\r\n")
    writer.close()


async def engine(place: str) -> None:
    """Serve on the unix socket ``place``, forever."""
    server = await asyncio.start_unix_server(_stream, place, backlog=2 * STREAMS)
    await server.serve_forever()


@contextmanager
def agent() -> Iterator[tuple[int, int]]:
    """An agent that is ready, with such an engine: its port and its process."""
    with tempfile.TemporaryDirectory(prefix="privml-") as name, socket.socket() as probe:
        root = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        me = os.getuid()
        layout = Layout(root / "config.json", root / "run", root / "engine", root_id=me, server_id=me)
        for folder in (layout.run, layout.engine):
            folder.mkdir()
        model = Model("tiny", "model.gguf", Verity(bytes(32), bytes(32), 4, 1))
        started = Engine(ENGINE, ("/usr/bin/llama-server",))
        config = Config("", "bench", "development", port, STREAMS, started, (model,), (), "staged")
        layout.config.write_bytes(encode(config))
        identity.create(layout)
        Progress(layout.stages, ["ready"]).end("ready", "ok")
        place = str(layout.engine_socket(engine_named(ENGINE)))
        works = (
            f"import asyncio; from benchmarks import sealed; asyncio.run(sealed.engine({place!r}))",
            "from pathlib import Path, PosixPath; from privml.agent.layout import Layout; "
            f"from privml.agent.server import main; raise SystemExit(main({layout!r}))",
        )
        children = [subprocess.Popen([sys.executable, "-c", work]) for work in works]
        try:
            _wait(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
            _wait(lambda: _closed(place))
            yield port, children[1].pid
        finally:
            for child in children:
                child.kill()
                child.wait()


def _closed(place: str) -> None:
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(place)


def _wait(attempt: Callable[[], None]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            attempt()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # this measures, and proves nothing
    return context


def _pieces(tls: ssl.SSLSocket) -> Iterator[bytes]:
    """The body of an answer in chunked coding as it arrives."""
    buffer = b""
    while b"\r\n\r\n" not in buffer:
        buffer += tls.recv(65536)
    head, _, buffer = buffer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(head.decode("latin-1"))
    while True:
        while (end := buffer.find(b"\r\n")) < 0 or len(buffer) < end + 4 + int(buffer[:end], 16):
            buffer += tls.recv(65536)
        size = int(buffer[:end], 16)
        if size == 0:
            return
        yield buffer[end + 2 : end + 2 + size]
        buffer = buffer[end + 4 + size :]


def _ask(context: ssl.SSLContext, port: int, configs: tuple[KeyConfig, ...]) -> tuple[float, int]:
    """Seconds to the first token, and tokens; sealed if there are keys."""
    begun = time.perf_counter()
    sealed = seal(configs, request("POST", PATH, BODY)) if configs else None
    path, body, media = (
        (GATEWAY, sealed.body, sealed.form.request_type) if sealed else (PATH, BODY, "application/json")
    )
    first, tokens = 0.0, 0
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 60)) as tls:
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {media}\r\ncontent-length: {len(body)}\r\n\r\n"
        tls.sendall(head.encode() + body)
        for piece in _pieces(tls):
            tokens += (sealed.feed(piece) if sealed else piece).count(b"data: ")
            first = first or (time.perf_counter() - begun if tokens else 0.0)
    if sealed:
        sealed.end()
    return first, tokens


def _load(port: int, configs: tuple[KeyConfig, ...]) -> tuple[float, float]:
    """Seconds of a round, and the median of its seconds to a first token."""
    context, found = _context(), list[tuple[float, int]]()
    threads = [threading.Thread(target=lambda: found.append(_ask(context, port, configs))) for _ in range(STREAMS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
        time.sleep(APART)
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begun
    if [tokens for _, tokens in found] != [TOKENS] * STREAMS:
        raise RuntimeError(f"{len(found)} answers, {sum(tokens for _, tokens in found)} tokens")
    return wall, statistics.median(first for first, _ in found)


def _cpu(process: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _keys(port: int) -> tuple[KeyConfig, ...]:
    with _context().wrap_socket(socket.create_connection(("127.0.0.1", port), 60)) as tls:
        tls.sendall(f"GET {GATEWAY} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        return decode_list(b"".join(iter(lambda: tls.recv(65536), b"")).partition(b"\r\n\r\n")[2])


def run(figure: Figure) -> None:
    """Four figures: time of a round and to a first token against open streams, what a token costs, and memory."""
    with agent() as (port, process):
        configs = _keys(port)
        _load(port, ())
        _load(port, configs)
        pairs, costs = [], {True: 0.0, False: 0.0}
        for number in range(ROUNDS):
            taken = {}
            for sealed in (True, False) if number % 2 else (False, True):
                before = _cpu(process)
                taken[sealed] = _load(port, configs if sealed else ())
                costs[sealed] += _cpu(process) - before
            pairs.append((taken[True], taken[False]))
        status = Path(f"/proc/{process}/status").read_text()
        (memory,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    figure("sealed-over-open", [one[0] / other[0] for one, other in pairs], 1.02, "ratio")
    figure("sealed-first-token-added", [1000 * (one[1] - other[1]) for one, other in pairs], 3, "ms")
    thousands = ROUNDS * STREAMS * TOKENS / 1000
    figure("sealed-cpu-added", [1000 * (costs[True] - costs[False]) / thousands], 50, "ms of CPU for 1,000 tokens")
    figure("sealed-memory", [memory / 1024], 120, "MB")


if __name__ == "__main__":
    run(figure)
