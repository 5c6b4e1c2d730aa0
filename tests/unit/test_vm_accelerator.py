"""The trial of KVM: it may be present and unable to run a firmware."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from privml.vm import accelerator

TOOLS: Any = SimpleNamespace()


class Clock:
    """A clock that only ``sleep`` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(accelerator, "time", clock)
    monkeypatch.setattr(accelerator.os, "access", lambda path, _: path == "/dev/kvm")
    return clock


Start = Callable[..., list[str]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Stand in for QEMU: with a socket or without, alive or not, and the statuses that it answers with in turn."""
    stopped: list[str] = []

    def prepare(*statuses: str, socket: bool = True, alive: bool = True) -> list[str]:
        answers: Iterator[str] = iter(statuses)

        class Child:
            def __init__(self, tools: object, argv: list[str], log: Path, **_: object) -> None:
                if socket:
                    (log.parent / "qmp.sock").touch()

            def running(self) -> bool:
                return alive

            def stop(self) -> None:
                stopped.append("stopped")

        class Qmp:
            def __init__(self, path: Path) -> None:
                path.lstat()  # like connect, an OSError without a socket

            def __enter__(self) -> Qmp:
                return self

            def __exit__(self, *_: object) -> None:
                return

            def command(self, name: str) -> dict[str, str]:
                assert name == "query-status"
                return {"status": next(answers, "running")}

        monkeypatch.setattr(accelerator, "Child", Child)
        monkeypatch.setattr(accelerator, "Qmp", Qmp)
        return stopped

    return prepare


def chosen() -> str:
    return accelerator.choose.__wrapped__(TOOLS)


def test_kvm_is_chosen_after_two_seconds_of_running(clock: Clock, start: Start) -> None:
    stopped = start()
    assert chosen() == "kvm"
    assert 2.0 <= clock.now < 2.2
    assert stopped == ["stopped"]


def test_kvm_that_stops_the_firmware_costs_no_more_time(clock: Clock, start: Start) -> None:
    stopped = start("running", "running", "internal-error")
    assert chosen() == "tcg"
    assert clock.now < 0.5
    assert stopped == ["stopped"]


def test_a_machine_that_exits_or_has_no_monitor_is_not_run_with_kvm(clock: Clock, start: Start) -> None:
    start(alive=False)
    assert chosen() == "tcg"
    assert clock.now == 0.0
    start(socket=False)
    assert chosen() == "tcg"
    assert 5.0 <= clock.now < 7.2
