"""`doctor`: does this machine have what building and running needs?"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import click

from privml.base.errors import HostError, UsageError
from privml.cli.output import print_json, show
from privml.host.facts import judge, summary
from privml.host.ladder import ladder
from privml.host.survey import look
from privml.host.tdx import look as tdx_look
from privml.lock.locate import recipe_locks, tools_lock_path
from privml.recipe.loader import qemus_in, recipes_in, shipped
from privml.recipe.names import name_of

_FMSPC = re.compile(r"[0-9A-Fa-f]{12}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--tdx", is_flag=True, help="Report what this machine needs to run TDs, instead.")
@click.option("--gpu", is_flag=True, help="With --tdx: also what its NVIDIA GPUs need.")
@click.option(
    "--fmspc", metavar="HEX", help="With --tdx: the kind of this platform, for whose collateral the PCCS is asked."
)
def doctor(*, as_json: bool, tdx: bool, gpu: bool, fmspc: str | None) -> None:
    """Report what this machine can do: one line for each check, with how to fix what fails, and a summary.

    With --tdx: what running a TD needs, from the CPU to the registration of the platform, in the order in which one
    stands on the other. Everything is only read; the quote service and the PCCS are asked whether they answer.

    Exit status 5 when something that is needed is missing. Nothing is changed; mirrors are asked for headers
    only.

    \b
    Examples:
      privml-build doctor
      privml-build doctor --tdx --gpu
      privml-build doctor --tdx --fmspc 90C06F000000
    """
    folder = Path("recipes") if Path("recipes").is_dir() else shipped()
    if gpu and not tdx:
        raise UsageError("--gpu needs --tdx")
    if fmspc is not None and not tdx:
        raise UsageError("--fmspc needs --tdx")
    if tdx:
        _ladder(folder, gpu=gpu, fmspc=fmspc, as_json=as_json)
        return
    facts = look(tools_lock_path(folder / "any.yaml"), list(recipe_locks(folder)), qemus_in(folder))
    lines = judge(facts)
    failing = [line.name for line in lines if line.status == "fail"]
    if as_json:
        print_json({"ok": not failing, "lines": [asdict(line) for line in lines]})
    else:
        show(*map(str, lines), f"this machine {summary(facts)}")
    if failing:
        raise HostError(f"a build needs: {', '.join(failing)}", hint="see the lines that say `fail`")
    if as_json:
        return
    recipes = [name_of(path) for path in recipes_in(folder)]
    name = "demo-cpu" if "demo-cpu" in recipes or not recipes else recipes[0]
    show(f"next: `privml-build image {name}`", err=True)


def _ladder(folder: Path, *, gpu: bool, fmspc: str | None, as_json: bool) -> None:
    if fmspc is not None and not _FMSPC.fullmatch(fmspc):
        raise UsageError(f"--fmspc {fmspc[:40]}: expected 12 hex digits, as `verify` prints them")
    lines = ladder(tdx_look(qemus_in(folder), gpus=gpu, fmspc=fmspc or ""))
    failing = [line.name for line in lines if line.status == "fail"]
    if as_json:
        print_json({"ok": not failing, "lines": [asdict(line) for line in lines]})
    else:
        show(*map(str, lines))
    if failing:
        raise HostError(
            f"a TD needs: {', '.join(failing)}", hint=f"mend `{failing[0]}` first: the others stand on it"
        )
