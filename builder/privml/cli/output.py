"""All terminal output of the verbs: lines for people, and JSON for programs.

Output may quote an untrusted file or machine (a partition's name, a manifest, a boot's log), so every line is
cleaned here: nothing can move the cursor, change the terminal's title, reverse the reading direction or add a line.
"""

from __future__ import annotations

import sys

from privml.base.errors import HostError, printable


def show(*lines: str, err: bool = False) -> None:
    """Print each of ``lines`` as one line, cleaned; ``err`` prints to standard error."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    for line in lines:
        # A terminal that cannot show a character gets its escape, not an error.
        stream.write(f"{printable(line).encode(encoding, 'backslashreplace').decode(encoding)}\n")
    stream.flush()


def show_text(text: str, *, err: bool = False) -> None:
    """Print a text of several lines, each of them cleaned. Only ``\\n`` ends a line; tabs stay."""
    for line in text.removesuffix("\n").split("\n"):
        show(line.removesuffix("\r").expandtabs(), err=err)


def print_json(document: object) -> None:
    """Print ``document`` with sorted keys and in ASCII, so that no name in it can control the terminal."""
    import json  # only programs need it, and a short command is mostly imports

    sys.stdout.write(json.dumps(document, indent=2, sort_keys=True) + "\n")
    sys.stdout.flush()


def ask_secret(prompt: str) -> str:
    """Ask for a passphrase or PIN on the terminal, without showing it; ``HostError`` if there is nobody to ask."""
    import click  # only those who sign need it

    try:
        answer: str = click.prompt(printable(prompt), hide_input=True, err=True)
    except click.Abort as abort:
        raise HostError(f"{prompt}: there is nobody to ask") from abort
    return answer
