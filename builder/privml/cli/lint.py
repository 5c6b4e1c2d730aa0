"""`lint`: is a recipe right?"""

from __future__ import annotations

import click

from privml.base.errors import RecipeError
from privml.recipe.lint import lint as problems_of
from privml.recipe.loader import find, is_recipe, load, shipped


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
def lint(targets: tuple[str, ...]) -> None:
    """Check recipes (all of `recipes` by default) without network, store or build.

    \b
    privml-build lint demo-cpu
    """
    folder = find(targets[0]).parent if targets else shipped()
    chosen = [find(target) for target in targets] or [
        path for path in sorted(folder.glob("*.yaml")) if is_recipe(path)
    ]
    wrong: list[str] = []
    for path in chosen:
        try:
            recipe = load(path)
            problems = problems_of(recipe)
        except RecipeError as error:
            problems = [error.message + (f" ({error.hint})" if error.hint else "")]
        else:
            if not problems:
                click.echo(f"ok {recipe.name}")
        wrong += problems
    if wrong:
        raise RecipeError("\n".join(wrong))
