"""`lint`: check recipes, and explain their fields and the rules."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from privml.base.errors import RecipeError, UsageError
from privml.cli.completion import TARGET
from privml.cli.output import print_json, show, show_text
from privml.lock.facts import lock_facts
from privml.lock.trees import images_folder
from privml.recipe.fields import Fact, fact_named, facts, plain_name
from privml.recipe.finding import Finding, RecipeProblems
from privml.recipe.guestfiles import lint_guest, read_guest
from privml.recipe.lint import lint as findings_of
from privml.recipe.loader import OldSchema, find, load, recipes_in, shipped
from privml.recipe.migration import NEW
from privml.recipe.names import name_of
from privml.recipe.rules import RULES

GUEST = "guest files"


@click.command()
@click.argument("targets", nargs=-1, type=TARGET, metavar="[TARGET]...")
@click.option("--explain", metavar="RULE|FIELD", help="Explain a rule, or a field of a recipe, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def lint(targets: tuple[str, ...], *, explain: str | None, as_json: bool) -> None:
    """Check recipes (by default all in `recipes`) and the guest's own files. Needs no network and builds nothing.

    Errors end in exit status 3; warnings go to standard error. A recipe of schema 1 is printed in schema 2.

    \b
    Examples:
      privml-build lint demo-cpu
      privml-build lint --explain agent.listen        what a field means
      privml-build lint --explain platform-devices    what a rule demands, and why
    """
    if explain is not None:
        _explain(explain, as_json=as_json)
        return
    wrong: list[str] = []
    report: list[dict[str, Any]] = []
    rewritten: dict[str, dict[str, str]] = {}
    judged = []
    for path in _chosen(targets):
        name = name_of(path)
        found, rewritten[name] = _findings(path)
        judged.append((name, found))
    judged.append((GUEST, lint_guest(read_guest(images_folder()))))
    for name, found in judged:
        errors = [finding for finding in found if finding.severity == "error"]
        wrong += [str(finding) for finding in errors]
        report.append({"name": name, "ok": not errors, "findings": [asdict(finding) for finding in found]})
        if files := rewritten.get(name):
            report[-1]["rewritten"] = files
            if not as_json:
                for file, text in files.items():
                    show_text(f"# {file}, in schema {NEW}\n{text}")
        for finding in found:
            if finding.severity == "warning":
                show(f"warning: {finding}", err=True)
        if not errors and not as_json and name != GUEST:
            show(f"ok {name}")
    if as_json:
        print_json({"recipes": report[:-1], "guest": report[-1]})
    if wrong:
        raise RecipeError("\n".join(wrong), hint=_hint(wrong))


def _chosen(targets: tuple[str, ...]) -> list[Path]:
    if targets:
        return [find(target) for target in targets]
    folder = Path("recipes") if Path("recipes").is_dir() else shipped()
    return recipes_in(folder)


def _findings(path: Path) -> tuple[list[Finding], dict[str, str]]:
    """The findings for a recipe, and its files rewritten in this schema if they use an old one."""
    try:
        recipe = load(path)
        return findings_of(recipe, lock_facts(recipe)), {}
    except OldSchema as error:
        return list(error.findings), error.rewritten
    except RecipeProblems as error:
        return list(error.findings), {}
    except RecipeError as error:
        return [Finding(error.message + (f" ({error.hint})" if error.hint else ""))], {}


def _hint(wrong: list[str]) -> str | None:
    named = [rule for rule in RULES if any(line.endswith(f"[{rule}]") for line in wrong)]
    return f"why: `privml-build lint --explain {named[0]}`" if named else None


def _value_named(word: str) -> Fact | None:
    """The field of one value, as `diff` names it: ``shapes[1].memory``, ``sysctl.vm.swappiness``."""
    found = fact_named(word)
    if found is None or found.model is not None:
        return None
    same = plain_name(word).rpartition(".")[2] == found.path.rpartition(".")[2]
    return found if same or found.named_values else None


def _explain(word: str, *, as_json: bool) -> None:
    fields = facts()
    found = RULES.get(word) or fields.get(word) or _value_named(word)
    if found is None:
        known = [*RULES, *fields]
        near = difflib.get_close_matches(word, known, n=3) or [name for name in known if name.endswith(f".{word}")]
        guess = f"did you mean {' or '.join(f'`{name}`' for name in near)}? " if near else ""
        raise UsageError(
            f"there is no rule or field `{word}`",
            hint=f"{guess}rules: {', '.join(RULES)}; fields: as in a recipe, `agent.listen`, or `platform.tpm`",
        )
    if as_json:
        print_json({key: value for key, value in asdict(found).items() if key != "model"})
        return
    show(*found.lines())
