"""`doctor`: does this machine have what building and running needs?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from privml.base.errors import HostError
from privml.cli.context import tools_lock_path
from privml.host.facts import judge
from privml.host.survey import look
from privml.recipe.loader import shipped


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(*, as_json: bool) -> None:
    """Look at this machine: one line each, `ok`, `warn` or `fail`, with what to do about it.

    Exit 5 when something fails that a build needs. Nothing is changed; mirrors are asked for headers only.

    \b
    privml-build doctor
    privml-build doctor --json
    """
    folder = Path("recipes") if Path("recipes").is_dir() else shipped()
    tools_lock = tools_lock_path(folder / "any.yaml")
    locks = [path for path in sorted(folder.glob("*.lock.json")) if path.name != "tools.lock.json"]
    lines = judge(look(tools_lock, locks))
    failing = [line.name for line in lines if line.status == "fail"]
    if as_json:
        told = {"ok": not failing, "lines": [asdict(line) for line in lines]}
        click.echo(json.dumps(told, indent=2, sort_keys=True))
    else:
        for line in lines:
            click.echo(str(line))
    if failing:
        raise HostError(f"a build needs: {', '.join(failing)}", hint="see the lines that say `fail`")
