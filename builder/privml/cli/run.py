"""`run`: boot an image on this machine and ask its model."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.steps import say, step
from privml.cli.completion import TARGET
from privml.cli.output import show, show_text
from privml.cli.paths import Existing
from privml.host.ladder import require_tdx
from privml.image.target import recipes_directory, resolve
from privml.image.workplace import Workplace
from privml.output.manifest import Manifest
from privml.vm import td
from privml.vm.ask import await_ready, complete, fetch
from privml.vm.launch import launch_of
from privml.vm.machine import started
from privml.vm.platforms import td_platform


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
@click.option("--tdx", is_flag=True, help="Start it as a TD, with the arguments whose registers are predicted.")
@click.option(
    "--gpu", "gpus", multiple=True, metavar="PCI-ADDRESS", help="With --tdx: give the TD this card; repeatable."
)
@click.option("--platform", metavar="NAME", help="With --tdx: this platform, instead of the image's first.")
@click.option("--qemu", type=Existing("a QEMU"), help="With --tdx: the QEMU that the platform was learnt from.")
@click.option(
    "--quote-socket",
    metavar="SOCKET",
    default=td.QUOTE_SERVICE,
    show_default=True,
    help="With --tdx: where the quote generation service listens, vsock:CID:PORT or a path.",
)
@click.option("--print-command", is_flag=True, help="With --tdx: print QEMU's command, and start nothing.")
def run(
    target: str,
    *,
    prompt: str | None,
    paths: tuple[str, ...],
    max_tokens: int,
    timeout: int,
    console: bool,
    tdx: bool,
    gpus: tuple[str, ...],
    platform: str | None,
    qemu: Path | None,
    quote_socket: str,
    print_command: bool,
) -> None:
    """Boot TARGET in QEMU on this machine, exactly as it was built, and ask its model.

    TARGET is a recipe's name or the directory of a built image. This needs no TDX and verifies nothing: to talk to an
    image on a machine that you do not own, use `verify` and `proxy`.

    An image with encrypted models waits for their keys: meanwhile, `keys deliver` brings them from another terminal.

    With --tdx it runs as a TD, on the machine that `measure` predicts; exit status 5 where no TD can run, and
    `doctor --tdx` says why.

    \b
    Examples:
      privml-build run demo-cpu --prompt "The capital of France is"
      privml-build run demo-cpu
      privml-build run my-image --get /x/my-service/status
      privml-build run demo-cpu --tdx --print-command
    """
    if not tdx and (gpus or platform is not None or qemu is not None or print_command):
        raise UsageError("--gpu, --platform, --qemu and --print-command need --tdx")
    for path in paths:
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise UsageError(f"--get `{path}`: expected a path such as /x/my-service/status")
    found = resolve(target)
    manifest = found.manifest()
    if prompt is not None and manifest.engine is None:
        raise UsageError(f"{manifest.name} has no model to answer a prompt", hint="leave out --prompt")
    place = Workplace()
    launch = launch_of(found.directory, manifest, recipes_directory(found))
    tools = place.tools_of(found)
    started_here = started(tools, launch)
    if tdx:
        chosen = td_platform(platform, recipes_directory(found), manifest)
        launch = replace(launch, platform=chosen, fw_cfg={})
        host = td.TdHost(td.quote_socket(quote_socket), td.cards(gpus, chosen), td.qemu_for(tools, chosen, qemu))
        if print_command:
            show(td.shown(launch, host))
            return
        require_tdx(Path("/"))
        started_here = td.started_td(launch, host)
    with started_here as machine:
        try:
            for line in awaited(manifest, machine.port):
                say(line)
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


def awaited(manifest: Manifest, port: int) -> list[str]:
    """Lines with the keys that the guest waits for before it is ready, and what delivers them."""
    lines = [f"{each.volume} is encrypted: the guest waits for the key {each.key}" for each in manifest.encrypted]
    if lines:
        lines.append(f"deliver with `privml-build keys deliver https://127.0.0.1:{port} --broker URL`")
    return lines
