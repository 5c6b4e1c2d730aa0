"""Waiting for a guest, with the agent's own attestor and server."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from agent_guest import LIMIT, Guest, free_port, guest

from privml.base.errors import HostError
from privml.events.stages import STAGES
from privml.events.stagetable import Row, StageTable
from privml.vm.ask import _show, await_ready, complete


def machine_of(made: Guest, check: Callable[[], None] = lambda: None) -> Any:
    return SimpleNamespace(port=made.config.listen, check_running=check, console_tail=lambda: "  | console")


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each TLS connection that was made."""
    made: list[bool] = []
    connect = http.client.HTTPSConnection.connect

    def counted(self: http.client.HTTPSConnection) -> None:
        connect(self)
        made.append(True)

    monkeypatch.setattr(http.client.HTTPSConnection, "connect", counted)
    return made


def test_a_guest_is_awaited_over_one_connection_and_its_stages_are_shown(connections: list[bool]) -> None:
    shown: list[str] = []
    with guest() as made:
        made.start_server()
        booting = threading.Thread(target=made.boot().run)
        booting.start()
        assert await_ready(machine_of(made), LIMIT, show=shown.append) < LIMIT
        booting.join()
        assert [line.partition(" after")[0] for line in shown][-2:] == ["stage engine: ok", "stage ready: ok"]
        assert len(shown) == len(set(shown)) == len(STAGES)
        assert len(connections) == 1
        assert complete(machine_of(made), "The capital of France is", 1) == " Paris."


def test_a_connection_that_breaks_is_made_again(connections: list[bool]) -> None:
    with guest() as made:
        made.start_server()
        assert made.boot().run()
        ready = made.layout.stages.read_bytes()
        made.layout.stages.write_bytes(b"not a table")

        def restarted() -> None:
            if len(connections) == 1 and made.layout.stages.read_bytes() != ready:
                made.server.kill()
                made.server.wait()
                made.start_server()
                made.layout.stages.write_bytes(ready)

        await_ready(machine_of(made, restarted), LIMIT)
        assert len(connections) == 2


def test_a_failed_stage_is_named() -> None:
    with guest() as made:
        made.start_server()
        made.engine.completion_status = 500
        assert not made.boot().run()
        with pytest.raises(HostError, match="guest stage `engine` failed: engine: the first completion"):
            await_ready(machine_of(made), LIMIT)


def test_what_a_stage_waits_for_is_shown_once() -> None:
    seen: set[str] = set()
    shown: list[str] = []
    for row in (Row("keys", "running", "waiting for a key"),) * 2 + (Row("keys", "ok"),):
        _show(StageTable(False, (row, Row("model"), Row("engine", "running"))), seen, shown.append)
    assert shown == ["stage keys: waiting for a key", "stage keys: ok"]


def test_nobody_answers_until_the_limit() -> None:
    machine = SimpleNamespace(port=free_port(), check_running=lambda: None, console_tail=lambda: "  | console")
    with pytest.raises(HostError, match=r"(?s)not ready within 0\.3 s; stages: none.*\| console"):
        await_ready(machine, 0.3)  # type: ignore[arg-type]
