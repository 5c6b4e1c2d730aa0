"""Messages for usage errors: what is wrong, the nearest valid word, and an example."""

from __future__ import annotations

import difflib

import click

PROGRAM = "privml-build"


class Unknown(click.UsageError):
    """A verb that does not exist; ``known`` lists the valid ones."""

    def __init__(self, word: str, known: list[str], context: click.Context) -> None:
        super().__init__(f"there is no verb `{word}`", context)
        self.nearest = nearest(word, known)


class Verb(click.Group):
    """A group of verbs that names the nearest one for an unknown word."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that ``args`` begin with; `Unknown` when it does not exist."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise Unknown(args[0], self.list_commands(ctx), ctx)
        return super().resolve_command(ctx, args)


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that was probably meant; None when none is similar."""
    begun = [each for each in known if len(word) > 1 and each.startswith(word)]
    return next(iter(difflib.get_close_matches(word, known, n=1) or begun), None)


def message_and_hint(error: click.UsageError, verb: str | None = None) -> tuple[str, str]:
    """What is wrong, and what to type instead; ``verb`` is used if the error has no context."""
    context = error.ctx
    path = context.command_path if context is not None else f"{PROGRAM} {verb}" if verb is not None else PROGRAM
    group = verb is None if context is None else isinstance(context.command, click.Group)
    more = f"`{path} --help` {'lists the verbs' if group else 'explains the verb'}"
    if isinstance(error, Unknown):
        return error.message, _meant(error.nearest, more)
    if isinstance(error, click.NoSuchOption):
        known = _options(context.command) if context is not None else []
        if context is not None and context.parent is not None:
            root = context.find_root()
            if error.option_name in _options(root.command):
                name = context.command_path.removeprefix(root.command_path).strip()
                return (
                    f"`{error.option_name}` goes before the verb",
                    f"for example `{root.command_path} {error.option_name} {name}`",
                )
        return f"there is no option `{error.option_name}`", _meant(nearest(error.option_name, known), more)
    if isinstance(error, click.MissingParameter):
        example = examples(context.command)[:1] if context is not None else []
        return _missing(error), f"for example `{example[0]}`; {more}" if example else more
    text = error.format_message().removesuffix(".")
    return text[:1].lower() + text[1:], more


def _options(command: click.Command) -> list[str]:
    return [name for each in command.params if isinstance(each, click.Option) for name in each.opts]


def examples(command: click.Command) -> list[str]:
    """The command lines in a verb's help."""
    lines = (line.strip() for line in (command.help or "").splitlines())
    return [line for line in lines if line.startswith(f"{PROGRAM} ")]


def _meant(word: str | None, more: str) -> str:
    return f"did you mean `{word}`? {more}" if word else more


def _missing(error: click.MissingParameter) -> str:
    param = error.param
    if isinstance(param, click.Option):
        return f"the option `{param.opts[0]}` is missing"
    name = param.make_metavar(error.ctx) if param is not None and error.ctx is not None else "an argument"
    return f"{name} is missing"
