"""`status`: the stages of a guest, read strictly, shown without a verdict."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guest_fake
import pytest
from guest_fake import Guest
from hypothesis import given
from hypothesis import strategies as st
from test_cli_main import Outcome

from privml.agent import progress
from privml.base.errors import EvidenceError
from privml.client import stages
from privml.events import stagetable
from privml.events.stages import STAGES

READY = {
    "format": "privml-stages/v1",
    "ready": True,
    "stages": [
        {"name": "config", "status": "ok", "detail": "", "started_ms": 0, "ended_ms": 1500},
        {"name": "services", "status": "skipped", "detail": "", "started_ms": None, "ended_ms": 1500},
        {"name": "ready", "status": "ok", "detail": "demo-cpu", "started_ms": 1500, "ended_ms": 21250},
    ],
}


def booting(*, last: str = "running") -> dict[str, Any]:
    table = copy.deepcopy(READY)
    table["ready"] = False
    table["stages"][2] |= {"status": last, "ended_ms": None, "detail": ""}  # type: ignore[index]
    return table


def parked(detail: str, name: str = "engine") -> dict[str, Any]:
    table = booting()
    table["stages"][2] |= {"name": name, "status": "failed", "detail": detail, "ended_ms": 9000}
    table["stages"] = [row for row in table["stages"][:2] if row["name"] != name] + table["stages"][2:]
    return table


@pytest.fixture
def guest() -> Iterator[Guest]:
    with guest_fake.running(Guest()) as running:
        running.stages = READY
        yield running


def test_a_ready_guest(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "status", guest.url)
    assert outcome.code == 0
    assert outcome.stdout.splitlines() == [
        "unverified: whoever answers at this address can say this; `verify` checks a guest",
        "config     ok            1.5 s",
        "services   skipped",
        "ready      ok           19.8 s  demo-cpu",
        "ready 21.2 s after the agent started",
    ]
    assert guest.requests == [] and guest.attestations == 0


def test_as_json(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.stages = parked("engine: exited before it was ready")
    outcome = Outcome(capsys, "status", guest.url, "--json")
    told = json.loads(outcome.stdout)
    assert outcome.code == 5
    assert (told["verified"], told["ready"], told["parked"], told["seconds"]) == (False, False, "engine", 9.0)
    assert told["stages"][2]["remedy"].startswith("give the machine more memory")
    assert [row["remedy"] for row in told["stages"][:2]] == ["", ""]


@pytest.mark.parametrize(
    ("name", "detail", "remedy"),
    [
        ("model", "model: no partition is named x: is its disk attached?", "attach the volume's disk"),
        ("model", "data: no partition is named x: is its disk attached?", "attach the volume's disk"),
        (
            "model",
            "model: the measured volume has no erofs filesystem: it was encrypted with another key",
            "build the image again",
        ),
        ("model", "data: the measured volume has no erofs filesystem", "build the image again"),
        ("model", "data: the last sector of the measured volume is not the expected one", "build the image again"),
        ("model", "model: the volume has no file `x.gguf`", "build the image again"),
        ("model", "data: the volume does not match the measured configuration", "attach the disks of the build"),
        ("engine", "engine: engine-answers-wrong: no number", "do not compute right together"),
        ("engine", "engine: exited before it was ready", "shows nothing that its engine prints but"),
        ("engine", "the engine exited, after 5 restarts within an hour", "shows nothing that its engine prints but"),
        ("gpu", "gpu: recipe declares 1 GPU, found 0", "give the guest the GPUs"),
        ("gpu", "gpu-cc-off: environment 0, expected environment 1", "set the GPU's mode"),
        ("gpu", "gpu-chain: a root of its own", "does not prove that it is genuine"),
        ("devices", "devices: 1 x virtio-rng not declared", "the devices of its platform and no other"),
        ("services", "the service guard exited", "try the service outside a guest"),
        ("model", "model: the volume does not match the measured configuration", "attach the disks of the build"),
        ("platform", "the attestor exited, after 3 restarts", "stop the guest and start it again"),
        ("ready", "something new", "stop the guest and start it again"),
    ],
)
def test_a_parked_guest_is_told_with_its_remedy(
    guest: Guest, capsys: pytest.CaptureFixture[str], name: str, detail: str, remedy: str
) -> None:
    guest.stages = parked(detail, name)
    outcome = Outcome(capsys, "status", guest.url)
    assert outcome.code == 5
    assert f"parked in stage {name}: {detail}" in outcome.stderr
    assert remedy in outcome.stderr.partition("hint: ")[2]


def test_the_remedy_for_an_engine_promises_no_lines_that_its_unit_drops() -> None:
    units = (Path(__file__).parents[2] / "images/guest").rglob("*")
    of_engine = [path for path in units if path.is_file() and "privml-engine.service" in str(path)]
    said = "".join(path.read_text() for path in of_engine)
    assert said.count("StandardError=") == said.count("StandardError=null") == 1
    assert "a guest shows nothing that its engine prints but the last line before any request" in stages._ENGINE_ENDED


def test_every_remedy_is_for_words_of_the_agent() -> None:
    agent = "".join(path.read_text() for path in Path(progress.__file__).parent.glob("*.py"))
    assert [start for start, _ in stages._REMEDIES if start not in agent] == []
    assert stages._OF_STAGES.keys() <= {stage.name for stage in STAGES}


def test_a_booting_guest(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.stages = booting()
    outcome = Outcome(capsys, "status", guest.url)
    assert outcome.code == 5
    assert "not ready yet: stage ready" in outcome.stderr
    assert "`--watch` waits" in outcome.stderr


def test_watching_shows_each_stage_once_until_it_is_ready(
    guest: Guest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.stages = booting()
    guest.stages["stages"][2]["detail"] = "waiting for a key"
    monkeypatch.setattr("privml.cli.status._PAUSE", 0.05)
    later = threading.Timer(0.5, lambda: setattr(guest, "stages", READY))
    later.start()
    outcome = Outcome(capsys, "status", guest.url, "--watch")
    later.join()
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.stdout.splitlines()] == [
        "unverified:",
        "config",
        "services",
        "ready",
        "ready",
        "ready",
    ]
    assert outcome.stdout.splitlines()[3].split() == ["ready", "running", "waiting", "for", "a", "key"]


def test_watching_ends_at_its_limit(
    guest: Guest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privml.cli.status._PAUSE", 0.05)
    guest.stages = booting()
    outcome = Outcome(capsys, "status", guest.url, "--watch", "--timeout", "3")
    assert outcome.code == 5 and "not ready after 3 s" in outcome.stderr
    nobody = f"https://127.0.0.1:{guest_fake.unused_port()}"
    outcome = Outcome(capsys, "status", nobody, "--watch", "--timeout", "1")
    assert outcome.code == 5 and "no boot stages: connection refused" in outcome.stderr


def test_a_request_that_the_limit_cuts_short_hides_nothing(
    guest: Guest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, times = stages.fetch, iter((20.0, 1e-6, 1e-6))
    monkeypatch.setattr("privml.cli.status._PAUSE", 0.9)
    monkeypatch.setattr("privml.client.stages.fetch", lambda where, left: fetch(where, next(times)))
    guest.stages = booting()
    outcome = Outcome(capsys, "status", guest.url, "--watch", "--timeout", "2")
    assert outcome.code == 5 and "not ready after 2 s" in outcome.stderr


def test_what_a_stranger_says_cannot_move_the_terminal(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.stages = parked("\x1b[2J\nready 1 s after the agent started\u202e")
    outcome = Outcome(capsys, "status", guest.url)
    assert outcome.code == 5
    text = outcome.stdout + outcome.stderr
    assert "\x1b" not in text and "\u202e" not in text
    assert not [line for line in text.splitlines() if line.startswith("ready 1 s")]


def test_the_agents_own_table_is_read(tmp_path: Any) -> None:
    path = tmp_path / "stages.json"
    written = progress.Progress(path, [stage.name for stage in STAGES])
    for stage in STAGES:
        written.begin(stage.name)
        stagetable.decode(path.read_bytes())
        written.end(stage.name, "ok", "x" * 2000)
    found = stagetable.decode(path.read_bytes())
    assert found.ready and [row.name for row in found.rows] == [stage.name for stage in STAGES]
    written.again("engine", "the engine exited")
    found = stagetable.decode(path.read_bytes())
    assert (found.ready, found.restarts("engine")) == (False, 1)
    written.end("engine", "ok", "llama-server")
    found = stagetable.decode(path.read_bytes())
    assert (found.ready, found.restarts("engine"), found.restarts("model")) == (True, 1, 0)


def test_restarts_are_shown(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    table = copy.deepcopy(READY) | {"format": stagetable.FORMAT}
    for row, restarts in zip(table["stages"], (0, 1, 2), strict=True):
        row["restarts"] = restarts
    guest.stages = table
    lines = Outcome(capsys, "status", guest.url).stdout.splitlines()
    assert lines[1:4] == [
        "config     ok            1.5 s",
        "services   skipped              restarted once",
        "ready      ok           19.8 s  demo-cpu, restarted 2 times",
    ]
    told = json.loads(Outcome(capsys, "status", guest.url, "--json").stdout)
    assert [row["restarts"] for row in told["stages"]] == [0, 1, 2]


CHANGES: list[Any] = [
    lambda t: t.update(format="privml-stages/v2"),  # its rows lack `restarts`
    lambda t: t["stages"][0].update(restarts=0),
    lambda t: t.update(more=1),
    lambda t: t.pop("ready"),
    lambda t: t.update(ready=1),
    lambda t: t.update(stages={}),
    lambda t: t.update(stages=t["stages"] * 20),
    lambda t: t.update(stages=t["stages"][:1] * 2),
    lambda t: t["stages"][0].update(status="fine"),
    lambda t: t["stages"][0].update(name="x" * 65),
    lambda t: t["stages"][0].update(detail="x" * 1001),
    lambda t: t["stages"][0].update(detail=None),
    lambda t: t["stages"][0].update(started_ms=-1),
    lambda t: t["stages"][0].update(ended_ms=1.5),
    lambda t: t["stages"][0].update(ended_ms=True),
    lambda t: t["stages"][0].pop("ended_ms"),
    lambda t: t["stages"].append(None),
    lambda t: t["stages"][0].update(more=""),
]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_anything_else_is_malformed(guest: Guest, capsys: pytest.CaptureFixture[str], change: Any) -> None:
    table = copy.deepcopy(READY)
    change(table)
    guest.stages = table
    assert Outcome(capsys, "status", guest.url).code == 9


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        stagetable.decode(data)


def test_a_command_in_the_background_ends_at_term() -> None:
    """A shell lets what it starts in the background ignore SIGINT."""
    url = f"https://127.0.0.1:{guest_fake.unused_port()}"
    child = subprocess.Popen(
        [
            "sh",
            "-c",
            'trap "" INT; exec "$@"',
            "sh",
            sys.executable,
            "-c",
            "from privml.cli.start import main; main()",
            "status",
            url,
            "--watch",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith("unverified")
    child.terminate()
    _, said = child.communicate(timeout=20)
    assert (child.returncode, said.strip()) == (130, "privml-build: stopped")
