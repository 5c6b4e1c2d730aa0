"""The option of every verb that relies on published measurements: allow those of a demonstration."""

from __future__ import annotations

import click

demonstration_option = click.option(
    "--allow-demonstration",
    is_flag=True,
    help="Also accept what is published as a demonstration, whose keys one person made; at most as a simulation.",
)
