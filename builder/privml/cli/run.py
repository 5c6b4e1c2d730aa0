"""`run`: boot an image on this machine and ask its model."""

from __future__ import annotations

import time
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.steps import say, step
from privml.cli.completion import TARGET
from privml.cli.output import show, show_text
from privml.image.target import recipes_directory, resolve
from privml.image.workplace import Workplace
from privml.vm.ask import await_ready, complete, fetch
from privml.vm.launch import launch_of
from privml.vm.machine import started


@click.command()
@click.argument("target", type=TARGET)
@click.option(
    "--prompt", help="Ask this, print the answer and stop. Without --prompt and --get the machine runs until Ctrl-C."
)
@click.option(
    "--get", "paths", multiple=True, metavar="PATH", help="Print the answer to GET PATH, and stop; repeatable."
)
@click.option("--max-tokens", default=24, show_default=True, help="The longest answer, in tokens.")
@click.option(
    "--timeout",
    default=300,
    show_default=True,
    help="Give up when the machine is not ready, or has not answered, after this many seconds.",
)
@click.option("--console", is_flag=True, help="Print the guest's console at the end.")
def run(
    target: str, *, prompt: str | None, paths: tuple[str, ...], max_tokens: int, timeout: int, console: bool
) -> None:
    """Boot TARGET in QEMU on this machine, exactly as it was built, and ask its model.

    TARGET is a recipe's name or the directory of a built image. This needs no TDX and verifies nothing: to talk to an
    image on a machine that you do not own, use `verify` and `proxy`.

    \b
    Examples:
      privml-build run demo-cpu --prompt "The capital of France is"
      privml-build run demo-cpu
      privml-build run my-image --get /x/my-service/status
    """
    for path in paths:
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise UsageError(f"--get `{path}`: expected a path such as /x/my-service/status")
    found = resolve(target)
    manifest = found.manifest()
    if prompt is not None and manifest.engine is None:
        raise UsageError(f"{manifest.name} has no model to answer a prompt", hint="leave out --prompt")
    place = Workplace()
    launch = launch_of(found.directory, manifest, recipes_directory(found))
    with started(place.tools_of(found), launch) as machine:
        try:
            with step("Booting until ready"):
                seconds = await_ready(machine, timeout, show=say)
            say(f"ready after {seconds:.0f} s")
            if prompt is None and not paths:
                serves = "/v1" if manifest.engine is not None else " attests only"
                show(f"https://127.0.0.1:{machine.port}{serves} (not verified; Ctrl-C stops it)")
                while True:
                    machine.check_running()
                    time.sleep(1)
            for path in paths:
                with step(f"Asking for {path}"):
                    text = fetch(machine, path, timeout)
                show_text(text)
            if prompt is not None:
                with step("Asking the model"):
                    answer = complete(machine, prompt, max_tokens, timeout)
                show_text(answer)
        finally:
            if console:
                show_text(Path(machine.console).read_text(errors="replace"), err=True)
