"""Shell completion: the script for each shell, and completion of TARGET."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from privml.cli.output import show_text
from privml.cli.usage import PROGRAM
from privml.recipe.names import SUFFIXES, name_of

SHELLS = {
    "bash": f'eval "$({PROGRAM} --completion bash)"',
    "zsh": f'eval "$({PROGRAM} --completion zsh)"',
    "fish": f"{PROGRAM} --completion fish | source",
}
_VARIABLE = "_PRIVML_BUILD_COMPLETE"


def completion_option(command: click.Command) -> click.Command:
    """Add `--completion SHELL`, which prints the shell's script and exits."""
    option = click.Option(
        ["--completion"],
        type=click.Choice(list(SHELLS)),
        is_eager=True,
        expose_value=False,
        callback=_print_script,
        help=f"Print the completion script of a shell. In ~/.bashrc: {SHELLS['bash']}",
    )
    command.params.append(option)
    return command


def _print_script(context: click.Context, _: click.Parameter, shell: str | None) -> None:
    if shell is None:
        return
    kind = get_completion_class(shell)
    assert kind is not None
    show_text(kind(context.command, {}, PROGRAM, _VARIABLE).source())
    context.exit()


class TargetName(click.ParamType[str]):
    """TARGET: completes the recipes in `recipes` and the images in `out`, else files."""

    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The completions that begin with ``incomplete``."""
        del ctx, param
        recipes = [name_of(path) for suffix in SUFFIXES for path in Path("recipes").glob(f"*{suffix}")]
        images = [str(path.parent) for path in Path("out").glob("*/manifest.json")]
        found = [CompletionItem(name) for name in sorted({*recipes, *images}) if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word unchanged; each verb looks it up itself. An empty word, as from an unset variable, is refused."""
        if not value:
            self.fail("it is empty, expected a recipe's name, a file or a directory", param, ctx)
        return str(value)


TARGET = TargetName()
