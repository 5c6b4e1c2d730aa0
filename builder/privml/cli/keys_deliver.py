"""`keys deliver`: carry keys from their brokers to a guest that waits for them."""

from __future__ import annotations

import click

from privml.base.errors import HostError, Refused
from privml.base.steps import say
from privml.cli.output import print_json, show


@click.command()
@click.argument("guest", metavar="GUEST")
@click.option(
    "--broker",
    "brokers",
    metavar="URL",
    multiple=True,
    required=True,
    help="The address of a key broker. Repeat it where the guest's models have several.",
)
@click.option(
    "--wait",
    "patience",
    metavar="SECONDS",
    type=click.IntRange(min=0),
    default=600,
    show_default=True,
    help="How long to wait until the guest asks for keys, and for servers that are busy.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was released, and each refusal, as JSON.")
def deliver(guest: str, *, brokers: tuple[str, ...], patience: int, as_json: bool) -> None:
    """Carry GUEST's proof to each broker, and the keys that it releases back to GUEST.

    You need no right for it and can learn nothing: a broker judges the proof, and the key is sealed to the guest. So
    the TLS certificates of both are not checked. The guest goes on when it has all of its keys. Exit status: 8 a
    broker or the guest refused, 5 a server cannot be reached, or keys are still missing.

    \b
    Examples:
      privml-build keys deliver https://HOST:8443 --broker http://127.0.0.1:8200
      privml-build keys deliver https://HOST:8443 \\
        --broker https://weights.example --broker https://data.example --json
    """
    from privml.client.courier import courier

    done = courier(guest, brokers, patience=float(patience), said=say).deliver()
    if as_json:
        print_json(done.to_dict())
    else:
        for name, generation in done.released:
            show(f"released: {name} generation {generation}")
        for want in done.missing:
            show(f"missing: {want}")
    if not done.missing:
        return
    names = ", ".join(str(want) for want in done.missing)
    if done.refused:
        raise Refused(
            f"{guest} still waits for {names}",
            hint="the reasons are above; `keys log show` at the broker has them, too, and docs/KEYS.md explains them",
        )
    raise HostError(f"{guest} still waits for {names}", hint="name each broker that it waits for with --broker")
