"""`store`: what is in the content-addressed store, and is it whole?"""

from __future__ import annotations

import click

from privml.base.errors import InputsError
from privml.base.steps import progress
from privml.store.objects import Store


@click.group()
def store() -> None:
    """The store of input bytes, named by their SHA-256.

    \b
    privml-build store status
    privml-build store verify
    """


@store.command()
def status() -> None:
    """Where the store is, and how much it holds."""
    found = Store()
    count, size = found.size()
    click.echo(f"{found.root}: {count} objects, {size / (1 << 20):.1f} MiB")


@store.command()
def verify() -> None:
    """Read every object; damaged ones are named and removed."""
    found = Store()
    damaged = []
    count = 0
    for count, digest in enumerate(found.digests(), 1):
        progress(f"{count} objects")
        try:
            found.path(digest, verify=True)
        except InputsError as error:
            damaged.append(error.message)
    if damaged:
        raise InputsError("\n".join(damaged), hint="run `privml-build lock NAME` to fetch them again")
    click.echo(f"ok {count} objects")
