"""`run`: boot an image here and talk to it."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from privml.base.errors import HostError, UsageError
from privml.base.steps import say, step
from privml.cli.context import Workplace, recipes_directory, resolve
from privml.vm.launch import launch_of
from privml.vm.machine import Machine, started


@click.command()
@click.argument("target")
@click.option("--prompt", help="Ask this, print the answer and stop. Without it the machine runs until Ctrl-C.")
@click.option("--max-tokens", default=24, show_default=True)
@click.option("--timeout", default=300, show_default=True, help="Seconds until the machine must be ready.")
@click.option("--console", is_flag=True, help="Show the guest's console at the end.")
def run(target: str, *, prompt: str | None, max_tokens: int, timeout: int, console: bool) -> None:
    """Boot TARGET's artefacts in QEMU, as built, and ask its model.

    Nothing is verified here: the machine is this one, and no TDX is needed. To ask a machine that you do not own,
    use `verify` and `proxy`.

    \b
    privml-build run demo-cpu --prompt "The capital of France is"
    """
    found = resolve(target)
    manifest = found.manifest()
    if prompt is not None and manifest.engine is None:
        raise UsageError(f"{manifest.name} holds no model, so it answers no prompt", hint="leave out --prompt")
    place = Workplace()
    launch = launch_of(found.directory, manifest, recipes_directory(found))
    with started(place.tools_of(found), launch) as machine:
        try:
            with step("Booting until ready"):
                seconds = await_ready(machine, timeout)
            say(f"ready after {seconds:.0f} s")
            if prompt is None:
                serves = "/v1" if manifest.engine is not None else " attests only"
                click.echo(f"https://127.0.0.1:{machine.port}{serves} (not verified; Ctrl-C stops it)")
                while True:
                    machine.check_running()
                    time.sleep(1)
            click.echo(complete(machine, prompt, max_tokens))
        finally:
            if console:
                click.echo(Path(machine.console).read_text(errors="replace"), err=True)


def await_ready(machine: Machine, timeout: float) -> float:
    """Wait until the guest says that it is ready; ``HostError`` with its stages when one failed or time runs out."""
    start = time.monotonic()
    stages: list[dict[str, Any]] = []
    while time.monotonic() - start < timeout:
        machine.check_running()
        try:
            status, body = request(machine, "/boot-stages", timeout=5)
            stages = json.loads(body)["stages"] if status == 200 else stages
            failed = [stage for stage in stages if stage["status"] == "failed"]
            if failed:
                raise HostError(
                    f"guest stage `{failed[0]['name']}` failed: {failed[0]['detail']}",
                    hint="see the console: --console",
                )
            if request(machine, "/readyz", timeout=5)[0] == 200:
                return time.monotonic() - start
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.5)
    told = ", ".join(f"{stage['name']} {stage['status']}" for stage in stages) or "none told"
    raise HostError(f"the guest was not ready within {timeout:g} s; stages: {told}\n{machine.console_tail()}")


def complete(machine: Machine, prompt: str, max_tokens: int) -> str:
    """One completion at temperature 0, as text."""
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    status, answer = request(machine, "/v1/completions", data=json.dumps(body).encode(), timeout=600)
    if status != 200:
        raise HostError(f"the guest answered {status}: {answer[:400].decode('utf-8', 'replace')}")
    text: str = json.loads(answer)["choices"][0]["text"]
    return text


def request(machine: Machine, path: str, *, data: bytes | None = None, timeout: float) -> tuple[int, bytes]:
    """One request to the guest over TLS whose certificate nobody checks: it is our own machine."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    query = urllib.request.Request(
        f"https://127.0.0.1:{machine.port}{path}", data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(query, timeout=timeout, context=context) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
