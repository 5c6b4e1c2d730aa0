"""`doctor`: does this machine have what building and running needs?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from privml.base.errors import HostError
from privml.cli.output import print_json, show
from privml.host.facts import judge, summary
from privml.host.survey import look
from privml.lock.locate import recipe_locks, tools_lock_path
from privml.recipe.loader import recipes_in, shipped
from privml.recipe.names import name_of


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(*, as_json: bool) -> None:
    """Report what this machine can do: one line for each check, with how to fix what fails, and a summary.

    Exit status 5 when something that a build needs is missing. Nothing is changed; mirrors are asked for headers
    only.

    \b
    Examples:
      privml-build doctor
      privml-build doctor --json
    """
    folder = Path("recipes") if Path("recipes").is_dir() else shipped()
    facts = look(tools_lock_path(folder / "any.yaml"), list(recipe_locks(folder)))
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
