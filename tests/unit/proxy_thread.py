"""The proxy on a free port, as `serve` runs it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from privml.client import proxy
from privml.client.callers import Callers
from privml.client.gate import Gate
from privml.client.guests import Guest, Guests

START = 10.0


@contextlib.contextmanager
def proxied(gate: Gate | Guests, callers: Callers = proxy.ANYBODY_HERE) -> Iterator[int]:
    """Run the proxy in a thread, for one guest or several; yields its port."""
    guests = Guests([Guest(gate)]) if isinstance(gate, Gate) else gate
    server = proxy.server(("127.0.0.1", 0), guests, callers=callers)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + START
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
