"""An image with services of its own, built and booted: reached through the agent, and seeing nothing of the guest."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import privml, succeeded

from privml.image.target import resolve
from privml.image.workplace import Workplace
from privml.recipe.loader import shipped
from privml.vm.ask import await_ready, request
from privml.vm.launch import launch_of
from privml.vm.machine import started

pytestmark = pytest.mark.real

# Answers every request with what it finds when it looks around, and ends when asked to.
PROGRAM = """
import http.server, json, os, socket, socketserver, threading

def tried(work):
    try:
        return repr(work())[:200]
    except OSError as error:
        return type(error).__name__ + ": " + os.strerror(error.errno)

def connected(address, family):
    with socket.socket(family) as probe:
        probe.settimeout(2)
        probe.connect(address)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            threading.Timer(0.2, os._exit, [1]).start()
        found = {
            "path": self.path,
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
            "me": os.getpid(),
        }
        text = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    def get_request(self):
        return super().get_request()[0], ("client", 0)

Server(os.environ["SOCKET"], Handler).serve_forever()
"""
RUN = json.dumps(["/usr/bin/python3", "-c", f"exec(bytes.fromhex('{PROGRAM.encode().hex()}'))"])
RECIPE = f"""\
extends: ./tdx-min.yaml
description: tdx-min with two services of its own.
services:
  guard: {{run: {RUN}, memory: 64MiB, required: true}}
  metrics:
    run: {RUN}
    environment: {{ACME_LEVEL: info}}
    memory: 64MiB
"""


def look(machine: Any, name: str, path: str = "/look?a=1") -> dict[str, Any]:
    status, body = request(machine, f"/x/{name}{path}", timeout=30)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def test_services_are_reached_by_the_agent_and_see_nothing_else(tmp_path: Path) -> None:
    shutil.copytree(shipped(), tmp_path / "recipes")
    recipe = tmp_path / "recipes/tdx-services.yaml"
    recipe.write_text(RECIPE)
    # The same packages as in tdx-min: no archive is asked.
    shutil.copy(tmp_path / "recipes/tdx-min.lock.json", tmp_path / "recipes/tdx-services.lock.json")
    succeeded(privml("lint", str(recipe)))
    succeeded(privml("lock", str(recipe)))
    succeeded(privml("image", str(recipe), "--output", str(tmp_path / "image")))
    target, place = resolve(str(recipe), tmp_path / "image"), Workplace()
    launch = launch_of(target.directory, target.manifest(), shipped())
    with started(place.tools_of(target), launch) as machine:
        await_ready(machine, 240)
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
