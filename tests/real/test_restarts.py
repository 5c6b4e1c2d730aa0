"""A real guest whose engine and attestor are killed: both come back, with nothing left and no quote in between.

The image is the development image of a copy of this checkout. The copy's boot process has a thread more, which kills
as the kernel does when memory runs out, and says on the console what it sees. Nothing of it is in a shipped image.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, only_full, succeeded

from privml.image.workplace import Workplace
from privml.output.manifest import read
from privml.vm.ask import await_ready, complete, request
from privml.vm.launch import launch_of
from privml.vm.machine import Machine, started

pytestmark = [pytest.mark.real, only_full]

NAME = "demo-cpu-dev"
NONCE = "5a" * 32
QUOTE = f"/.well-known/privml-attestation?nonce={NONCE}"
READY = 400.0
UNIT = """\
[Service]
ExecStart=
ExecStart=/usr/bin/python3 -B -P -m privml.sim.faults
"""
FAULTS = '''
"""The boot process of development images, with faults."""

import json, os, subprocess, sys, threading, time
from pathlib import Path

from privml.agent import boot
from privml.agent.layout import Layout

ENGINE, ATTESTOR = "privml-engine.service", "privml-attestor.service"
LAYOUT = Layout()
LEFT = [LAYOUT.engine / "left", Path("/dev/shm/left"), Path("/dev/shm/folder/left")]


def say(text):
    sys.stderr.write(f"faults: {text}\\n")
    sys.stderr.flush()


def table():
    if not LAYOUT.stages.exists():
        return {"ready": False, "stages": []}
    return json.loads(LAYOUT.stages.read_bytes())


def count(stage):
    return next(row["restarts"] for row in table()["stages"] if row["name"] == stage)


def until(condition, what):
    end = time.monotonic() + 400
    while not condition():
        if time.monotonic() > end:
            say(f"no {what}")
            time.sleep(1000)
        time.sleep(0.05)


def pids(unit):
    return (Path("/sys/fs/cgroup/system.slice") / unit / "cgroup.procs").read_text().split()


def kill(unit):
    subprocess.run(["systemctl", "kill", "--signal=KILL", unit], check=True)


def faults():
    until(lambda: table()["ready"], "readiness")
    before, user = pids(ENGINE), LAYOUT.engine.stat().st_uid
    for path in LEFT:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        for owned in (path, path.parent):
            if owned != Path("/dev/shm"):
                os.chown(owned, user, user)
    kill(ENGINE)
    until(lambda: count("engine") == 1, "first restart")
    say(f"restart 1 ready {table()['ready']}")
    until(lambda: table()["ready"], "second readiness")
    after = pids(ENGINE)
    say(f"engine left {[str(path) for path in LEFT if path.exists()]} again {sorted(set(before) & set(after))}")
    before = pids(ATTESTOR)
    kill(ATTESTOR)
    until(lambda: count("platform") == 1, "restart of the attestor")
    say(f"attestor again {sorted(set(before) & set(pids(ATTESTOR)))} socket {LAYOUT.stage_socket.exists()}")
    say("done")


if __name__ == "__main__":
    threading.Thread(target=faults, daemon=True).start()
    sys.exit(boot.main())
'''


def privml(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`privml-build` with the code of ``tree``."""
    command = [str(Path(sys.executable).with_name("privml-build")), *words]
    environment = {**os.environ, "PYTHONPATH": str(tree / "builder")}
    return subprocess.run(
        command, cwd=tree, capture_output=True, text=True, timeout=1500, check=False, env=environment
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout whose development image kills, locked and built."""
    tree = tmp_path_factory.mktemp("faults")
    for name in ("builder", "images", "recipes"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    (tree / "builder/privml/sim/faults.py").write_text(FAULTS.lstrip())
    units = tree / "images/guest/development/etc/systemd/system/privml-boot.service.d"
    units.mkdir()
    (units / "faults.conf").write_text(UNIT)
    succeeded(privml(tree, "lock", NAME, "--no-fetch", "--allow-expired"))
    succeeded(privml(tree, "image", NAME, "--output", str(tree / "image")))
    return tree


@contextlib.contextmanager
def asked(machine: Machine) -> Iterator[list[tuple[int, str]]]:
    """Status and code of the answers to questions for a quote meanwhile."""
    found: list[tuple[int, str]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, ValueError):
                status, body = request(machine, QUOTE, timeout=20)
                found.append((status, "" if status == 200 else json.loads(body)["error"]["code"]))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def test_engine_and_attestor_that_are_killed_come_back(tree: Path) -> None:
    manifest = read(tree / "image")
    launch = launch_of(tree / "image", manifest, tree / "recipes")
    with started(Workplace().tools(), launch) as machine:
        await_ready(machine, READY)
        first = json.loads(request(machine, QUOTE, timeout=30)[1])
        url = f"https://127.0.0.1:{machine.port}"
        root = str(tree / "builder/privml/sim/pki/root.pem")
        with asked(machine) as found:
            end = time.monotonic() + READY
            while "faults: done" not in (console := machine.console.read_text(errors="replace")):
                assert "faults: no " not in console, machine.console_tail(40)
                assert time.monotonic() < end, machine.console_tail(40)
                time.sleep(0.5)
        lines = re.findall(r"faults: (.*?)\r?\n", console)
        assert lines == [
            "restart 1 ready False",
            "engine left [] again []",
            "attestor again [] socket False",
            "done",
        ]
        assert "not-ready" in {code for _, code in found}
        assert {code for _, code in found} <= {"", "not-ready", "unavailable"}
        await_ready(machine, READY)
        again = json.loads(request(machine, QUOTE, timeout=30)[1])
        assert [again[part] for part in ("keys", "eventlog")] == [first[part] for part in ("keys", "eventlog")]
        assert complete(machine, "The capital of France is", 4).strip().startswith("Paris")
        told = succeeded(privml(tree, "verify", url, "--expect", "image", "--allow-simulated", root), 10)
        assert told.stdout.startswith("ACCEPTED-SIMULATED")
        shown = succeeded(privml(tree, "status", url)).stdout
        counts = {line.split()[0]: line.rpartition(", ")[2] for line in shown.splitlines() if "restarted" in line}
        assert counts == {"platform": "restarted once", "engine": "restarted once"}
