"""A flood of callers against the agent's own processes, with a platform that takes two seconds for a quote."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.real.conftest import only_full
from tests.unit.agent_guest import NO_MODEL, a_config, guest
from tests.unit.burst import burst

pytestmark = [pytest.mark.real, only_full]


def test_a_thousand_callers_from_250_addresses_are_answered_or_told_when() -> None:
    """Meanwhile one more address holds all the handshakes that it can get, and idle connections."""
    with guest(a_config(**NO_MODEL, max_concurrency=16)) as made, contextlib.ExitStack() as held:
        made.start_server()
        assert made.boot().run(), made.said
        made.json("/readyz")
        for number in range(150):
            port = made.config.listen
            one = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=("127.0.9.9", 0))
            held.enter_context(one)
            if number % 2:
                one.sendall(b"\x16\x03\x01\x02\x00\x01")
        (made.root / "delay").write_text("2")
        begun = time.monotonic()
        found = burst(made.config.listen, 1000, 250, 1.0)
        assert time.monotonic() - begun < 8.0  # the last caller began one second in
        assert Counter(each.statuses[-1] for each in found) == {200: 1000}
        assert max(len(each.statuses) for each in found) <= 2
        assert max(each.ended for each in found) < 6.0
        status = Path(f"/proc/{made.server.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        assert peak < 160 * 1024, f"the server had {peak} kB"
        assert made.json("/healthz") == (200, {"alive": True})
