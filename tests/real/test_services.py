"""An image with services of its own, built and booted: reached through the agent, and seeing nothing of the guest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import privml, succeeded
from tests.real.serviceprogram import command
from tests.real.wire import Wire, answers_on

from privml.image.target import resolve
from privml.image.workplace import Workplace
from privml.recipe.loader import shipped
from privml.vm.ask import await_ready, request
from privml.vm.bench import Bench
from privml.vm.launch import launch_of
from privml.vm.machine import Launch, started

pytestmark = pytest.mark.real

# Answers every request with what it finds when it looks around, and ends when asked to.
ANSWER = """
import json, os, socket, threading

OWN = ["/tmp", "/var/tmp", "/dev/shm"]

def tried(work):
    try:
        return repr(work())[:200]
    except OSError as error:
        return type(error).__name__ + ": " + os.strerror(error.errno)

def connected(address, family):
    with socket.socket(family) as probe:
        probe.settimeout(2)
        probe.connect(address)

def answer(path):
    if path == "/end":
        threading.Timer(0.2, os._exit, [1]).start()
    found = {
        "path": path,
        "user": os.getuid(),
        "groups": sorted(os.getgroups()),
        "environment": sorted(os.environ),
        "run": tried(lambda: os.listdir("/run/privml")),
        "attestor": tried(lambda: connected("/run/privml/attestor/quote.sock", socket.AF_UNIX)),
        "other": tried(lambda: os.listdir("/run/privml-services/guard")),
        "others": tried(lambda: connected("/run/privml-services/guard/http.sock", socket.AF_UNIX)),
        "network": tried(lambda: connected(("10.0.2.2", 80), socket.AF_INET)),
        "tee": tried(lambda: os.listdir("/sys/kernel/config")),
        "devices": sorted(os.listdir("/dev")),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "write": tried(lambda: open("/etc/passwd", "a")),
        "temporary": tried(lambda: open("/tmp/x", "w").write("x")),
        "sizes": {path: os.statvfs(path).f_blocks * os.statvfs(path).f_frsize >> 20 for path in OWN},
        "flags": {path: os.statvfs(path).f_flag & 15 for path in OWN},
        "left": {path: sorted(os.listdir(path)) for path in OWN},
        "mine": [tried(lambda: open(path + "/mine", "w").write("x")) for path in OWN],
        "me": os.getpid(),
    }
    return json.dumps(found).encode()
"""
RUN = json.dumps(command(ANSWER))
PLATFORM = "three-cards-and-disks"
RECIPE = f"""\
extends: ./tdx-min.yaml
description: tdx-min with two services of its own, on a machine with three cards and more disks than it reads.
services:
  guard: {{run: {RUN}, memory: 64MiB, required: true}}
  metrics:
    run: {RUN}
    environment: {{ACME_LEVEL: info}}
    memory: 96MiB
    scratch: 80MiB
platforms: [{PLATFORM}]
network:
  - {{addresses: ["fd00:77::20/64"], gateways: ["fd00:77::1"]}}
  - {{addresses: [192.168.77.20/29], gateways: [192.168.77.17]}}
  - {{use: unused}}
"""


def platform(one_disk: str) -> str:
    """The shipped platform with two more cards, one before the first, and two more disks."""
    more = """\
devices:
  - {kind: virtio-net, slot: "01.0"}
  - {kind: virtio-net, slot: "06.0"}
  - {kind: virtio-blk, slot: "04.0"}
  - {kind: virtio-blk, slot: "05.0"}
"""
    return one_disk.replace("name: qemu-11-q35-one-disk", f"name: {PLATFORM}").replace("devices:\n", more)


def look(machine: Any, name: str, path: str = "/look?a=1") -> dict[str, Any]:
    status, body = request(machine, f"/x/{name}{path}", timeout=30)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def image_on(tmp_path: Path) -> Path:
    """The recipe, locked and built."""
    shutil.copytree(shipped(), tmp_path / "recipes")
    recipe = tmp_path / "recipes/tdx-services.yaml"
    recipe.write_text(RECIPE)
    place = tmp_path / "recipes/platforms"
    (place / f"{PLATFORM}.yaml").write_text(platform((place / "qemu-11-q35-one-disk.yaml").read_text()))
    # The same packages as in tdx-min: no archive is asked.
    shutil.copy(tmp_path / "recipes/tdx-min.lock.json", tmp_path / "recipes/tdx-services.lock.json")
    succeeded(privml("lint", str(recipe)))
    succeeded(privml("lock", str(recipe)))
    succeeded(privml("image", str(recipe), "--output", str(tmp_path / "image")))
    return recipe


def on_wires(launch: Launch, folder: Path) -> Launch:
    """``launch`` with the first and the last card on sockets of ours instead of QEMU's user network."""

    def change(argv: list[str]) -> list[str]:
        ends = {f"user,id=net{n},restrict=on": f"stream,id=net{n},server=off,addr.type=unix" for n in (0, 2)}
        found = [f"{ends[word]},addr.path=/attached/wires/{word[11]}" if word in ends else word for word in argv]
        assert sum(word.startswith("stream,") for word in found) == 2
        return found

    return replace(launch, change=change, attached={"wires": folder})


def test_services_cards_and_disks_are_as_the_recipe_declares(tmp_path: Path) -> None:
    recipe = image_on(tmp_path)
    target, place = resolve(str(recipe), tmp_path / "image"), Workplace()
    tools, manifest, recipes = place.tools_of(target), target.manifest(), recipe.parent
    bench = Bench(tools, place.store.root, target.directory, manifest, recipes)
    booted = bench.boot(bench.launch(manifest.shapes[0]))
    assert booted.equal, booted.problems()

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="privml-wires.")))
        first, last = (stack.enter_context(contextlib.closing(Wire(folder / name))) for name in "02")
        launch = on_wires(launch_of(target.directory, manifest, recipes), folder)
        machine = stack.enter_context(started(tools, launch))
        await_ready(machine, 240)
        assert answers_on(first, "fd00:77::20", manifest.listen, own="fd00:77::1")
        assert not answers_on(first, "fd00:77::21", manifest.listen, own="fd00:77::1")
        assert {frame[12:14].hex() for frame in first.frames} == {"86dd"}, "nothing by DHCP"
        assert list(last.receive(1)) == [], "the unused card is silent"

        metrics, guard = look(machine, "metrics"), look(machine, "guard")
        assert metrics["path"] == "/look?a=1"
        assert (guard["user"], metrics["user"]) == (910, 911)
        assert (guard["groups"], metrics["groups"]) in (([], []), ([910], [911]))
        assert metrics["environment"] == ["ACME_LEVEL", "LANG", "LC_CTYPE", "PATH", "SOCKET"] or metrics[
            "environment"
        ] == ["ACME_LEVEL", "LANG", "PATH", "SOCKET"]
        for name in ("run", "attestor", "other", "others", "tee", "write"):
            assert metrics[name].startswith(("PermissionError: ", "OSError: Read-only")), (name, metrics[name])
        assert metrics["network"].split(":")[0] in ("PermissionError", "OSError"), metrics["network"]
        assert not {"tdx_guest", "vda", "vdb", "dm-0", "mem", "kmsg", "ttyS0"} & set(metrics["devices"])
        assert metrics["processes"] == [metrics["me"]]
        assert metrics["temporary"] == "1"
        assert metrics["sizes"] == {"/tmp": 80, "/var/tmp": 64, "/dev/shm": 64}
        assert guard["sizes"] == {"/tmp": 64, "/var/tmp": 64, "/dev/shm": 64}
        assert set(guard["flags"].values()) == {os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC}
        assert metrics["mine"] == ["1", "1", "1"]
        assert guard["left"] == {"/tmp": ["x"], "/var/tmp": [], "/dev/shm": []}, "nothing of another service"
        assert request(machine, "/x/other/", timeout=30)[0] == 404

        look(machine, "metrics", "/end")
        end = time.monotonic() + 30
        while request(machine, "/x/metrics/", timeout=30)[0] != 502:
            assert time.monotonic() < end
        assert request(machine, "/readyz", timeout=30)[0] == 200, "only a required service fails the machine"
        look(machine, "guard", "/end")
        while request(machine, "/readyz", timeout=30)[0] != 503:
            assert time.monotonic() < end + 30
        stages = json.loads(request(machine, "/boot-stages", timeout=30)[1])["stages"]
        assert [stage["detail"] for stage in stages if stage["status"] == "failed"] == ["the service guard exited"]
