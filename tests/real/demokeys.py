"""The demo's acts about an encrypted model: the honest image gets its key, a tampered one nothing."""

from __future__ import annotations

import http.client
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.real.brokers import MODEL, Owner, delivered, encrypted_image
from tests.real.conftest import ROOT
from tests.real.levers import append, pulled
from tests.real.simulation import Simulation

from privml.base.errors import HostError
from privml.base.steps import step
from privml.image.target import resolve
from privml.image.tools import ToolsTree
from privml.vm.ask import request
from privml.vm.launch import launch_of
from privml.vm.machine import Launch, Machine, started
from privml.vm.platforms import platform

FOLDER = ROOT / "out/demo-keys"
WAIT = 300.0
WANTED = "/.well-known/privml-key-request"


def image_with_key(simulation: Simulation) -> tuple[Owner, Path, Launch]:
    """An owner with a broker, an image whose model is encrypted, and how to start it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    owner = Owner("weights", MODEL, FOLDER / "weights", simulation)
    with step("Building an image with an encrypted model"):
        image = encrypted_image(FOLDER / "recipes", FOLDER / "image", owner)
    owner.allow(1, image)
    recipes = FOLDER / "recipes"
    machine = platform(simulation.platform, recipes)
    return owner, image, launch_of(image, resolve(str(image)).manifest(), recipes, platform=machine)


def await_request(machine: Machine) -> None:
    """Wait until the guest asks for its keys."""
    end = time.monotonic() + WAIT
    with step("Booting until the guest asks for its key"):
        while time.monotonic() < end:
            machine.check_running()
            try:
                status, body = request(machine, WANTED, timeout=5)
            except (OSError, http.client.HTTPException):
                status, body = 0, b""
            if status == 200:
                (want,) = json.loads(body)["wanted"]
                print(f"  the guest waits for {want['resource']} of broker {want['name']}")
                return
            time.sleep(0.5)
    raise HostError(f"the guest never asked for its key\n{machine.console_tail()}")


def released(
    tools: ToolsTree, owner: Owner, image: Path, launch: Launch, ask: Callable[[Machine, Path], None]
) -> None:
    """The broker releases the key to the honest image; ``ask`` asks its model."""
    with owner.serving(image) as broker, started(tools, launch) as machine:
        await_request(machine)
        for each in delivered(machine.port, broker)["released"]:
            print(f"  the broker released {each['resource']} generation {each['generation']}")
        ask(machine, image)


def withheld(tools: ToolsTree, owner: Owner, image: Path, launch: Launch) -> list[str]:
    """A tampered image asks for the key; the codes by which the broker refuses."""
    other = pulled(launch, append(f"{resolve(str(image)).manifest().cmdline} audit=0"))
    with owner.serving(image) as broker, started(tools, other) as machine:
        await_request(machine)
        found = delivered(machine.port, broker, code=8)
        refusals = [refusal for each in found["brokers"] for refusal in each["refusals"]]
        for refusal in refusals:
            print(f"  {refusal['code']}: got {refusal['got'][:24]}..., expected {refusal['expected'][:24]}...")
        return [refusal["code"] for refusal in refusals]


def shown(owner: Owner) -> list[str]:
    """Print the broker's log of releases and refusals, once verified; their kinds."""
    kinds = []
    for entry in owner.log():
        if entry["kind"] != "admin":
            kinds.append(entry["kind"])
            print(f"  entry {entry['seq']}: {entry['kind']} {entry['resource']} {' '.join(entry['codes'])}".rstrip())
    return kinds
