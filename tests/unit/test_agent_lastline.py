"""The last line of an engine, from its parent to the boot process. A real program prints it here."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_guest import Guest, a_config, guest
from pytest import MonkeyPatch

from privml.agent import engine, lastline
from privml.agent.enginestart import EngineStart
from privml.agent.lastline import LIMIT, Listener
from privml.agent.process import Restartable
from privml.base.errors import HostError
from privml.engines.registry import engine_named
from privml.events.configuration import Engine

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with contextlib.closing(Listener(tmp_path / "run" / "line.sock", os.getgid())) as made:
        yield made


def ran(place: Path, program: str) -> int:
    return lastline.run([sys.executable, "-c", program], ENVIRONMENT, place)


@pytest.mark.parametrize(
    ("program", "status", "line"),
    [
        ("print('one'); print('no CUDA device'); print()", 0, "no CUDA device"),
        ("import sys; print('out', flush=True); sys.exit('no memory')", 1, "no memory"),
        ("raise RuntimeError('no device')", 1, "RuntimeError: no device"),
        ("print('x' * 300_000); print('end')", 0, "end"),
        ("print('y' * 9000)", 0, "y" * LIMIT),
        ("import os; os.write(1, b'\\xff\\xfe')", 0, "\N{REPLACEMENT CHARACTER}" * 2),
        ("import os, signal; print('here', flush=True); os.kill(os.getpid(), signal.SIGKILL)", 137, "here"),
        ("import os; os.close(1); os.close(2); import time; time.sleep(0.3)", 0, ""),
        ("pass", 0, ""),
    ],
)
def test_a_program_that_ends_has_a_last_line(
    tmp_path: Path, listener: Listener, program: str, status: int, line: str
) -> None:
    assert ran(tmp_path / "run" / "line.sock", program) == status
    assert listener.line() == line
    assert listener.line() == ""


def test_it_ends_with_the_program_though_a_child_goes_on_and_prints(tmp_path: Path, listener: Listener) -> None:
    child = "import time\nfor _ in range(200): print('child', flush=True); time.sleep(0.05)"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); print('gone')"
    begun = time.monotonic()
    assert ran(tmp_path / "run" / "line.sock", program) == 0
    assert time.monotonic() - begun < 8
    assert listener.line() in ("gone", "child")


def test_only_the_engines_group_may_offer_a_line_and_only_while_somebody_listens(tmp_path: Path) -> None:
    place = tmp_path / "line.sock"
    listener = Listener(place, os.getgid())
    found = place.stat()
    assert stat.S_IMODE(found.st_mode) == 0o620 and stat.S_ISSOCK(found.st_mode)
    listener.close()
    assert not place.exists()
    assert ran(place, "import sys; print('nobody listens'); sys.exit(3)") == 3
    assert not place.exists()


def test_who_offers_too_much_waits_for_nobody(tmp_path: Path, listener: Listener) -> None:
    place = tmp_path / "run" / "line.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood:
        flood.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                flood.sendto(b"z" * 2000, str(place))
        assert ran(place, "print('late')") == 0
    assert listener.line() == "z" * LIMIT


def test_the_engines_parent_runs_the_measured_arguments(
    tmp_path: Path, monkeypatch: MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = "import os, sys; print(sys.argv[1:], sorted(os.environ)); sys.exit(7)"
    argv = (sys.executable, "-I", "-c", program, "a b")
    monkeypatch.setenv("SECRET", "s")
    with guest(a_config(engine=Engine("llama-server", argv))) as made:
        place = made.layout.engine_line
        with contextlib.closing(Listener(place, os.getgid())) as opened:
            assert engine.main(made.layout) == 7
            line = opened.line()
    assert line.startswith("['a b'] ")
    assert "SECRET" not in line
    assert capfd.readouterr() == ("", "")


class Dying(Restartable):
    """An engine that offers a line and has ended, each time it is started."""

    def __init__(self, made: Guest, line: str) -> None:
        self._place = made.layout.engine_line
        self._line = line
        self._folder = made.layout.engine

    def start(self) -> None:
        ran(self._place, f"print({self._line!r})")

    def alive(self) -> bool:
        return False

    def stop(self) -> None:
        self._folder.rmdir()


def started(made: Guest, *, secret: bool, line: str = "no CUDA device") -> EngineStart:
    return EngineStart(
        Dying(made, line), engine_named("llama-server"), made.layout, ["tiny"], wait=5.0, secret=secret
    )


def test_the_first_start_says_it_and_no_later_one() -> None:
    with guest() as made:
        start = started(made, secret=False)
        with pytest.raises(HostError) as caught:
            start.start()
        assert str(caught.value) == "engine: exited before it was ready; it said last: no CUDA device"
        assert not made.layout.engine_line.exists()
        # The machine may have had prompts by now.
        with pytest.raises(HostError) as caught:
            start.again(lambda: None)
        assert str(caught.value) == "engine: exited before it was ready"


def test_an_engine_of_encrypted_models_says_nothing() -> None:
    with guest() as made, pytest.raises(HostError) as caught:
        started(made, secret=True).start()
    assert str(caught.value) == "engine: exited before it was ready"


def test_the_stage_list_and_the_console_have_one_clean_line_of_it() -> None:
    with guest() as made:
        made.start_server()
        assert not made.boot(engine=Dying(made, "\x1b[2Jbad\x07 line")).run()
        (row,) = [row for row in made.json("/boot-stages")[1]["stages"] if row["name"] == "engine"]  # type: ignore[attr-defined]
        assert row["detail"].startswith("engine: exited before it was ready; it said last: ")
        for shown in (row["detail"], made.said[-1]):
            assert "bad" in shown and shown.isprintable()
