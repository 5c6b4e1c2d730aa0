"""`doctor`: does this machine have what building and running needs?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from privml.base.errors import HostError
from privml.cli.output import print_json, show
from privml.host.facts import judge
from privml.host.survey import look
from privml.lock.locate import recipe_locks, tools_lock_path
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
    lines = judge(look(tools_lock_path(folder / "any.yaml"), list(recipe_locks(folder))))
    failing = [line.name for line in lines if line.status == "fail"]
    if as_json:
        print_json({"ok": not failing, "lines": [asdict(line) for line in lines]})
    else:
        for line in lines:
            show(str(line))
    if failing:
        raise HostError(f"a build needs: {', '.join(failing)}", hint="see the lines that say `fail`")
