"""The one way in which verbs print data for programs: JSON on standard output. Talk goes to standard error."""

from __future__ import annotations

import json

import click


def print_json(document: object) -> None:
    """Print ``document`` with sorted keys, in ASCII, so that no name from an image can command the terminal."""
    click.echo(json.dumps(document, indent=2, sort_keys=True))
