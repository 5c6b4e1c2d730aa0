"""Fields of a recipe: what the guest's network cards do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from privml.events import network
from privml.recipe.section import CONFIG, Section, about

_Text = Annotated[str, StringConstraints(max_length=60)]


class NetworkCard(Section):
    """One network card of the guest, in the order of their slots."""

    use: Annotated[
        Literal["static", "dhcp", "unused"],
        about(
            "static for the card's `addresses`, dhcp for address and route from the host's DHCP server, unused for a "
            "card that the machine has and the guest leaves alone.",
            network.DHCP,
            CONFIG,
        ),
    ] = "static"
    addresses: Annotated[
        list[_Text],
        about(
            "Its static addresses with their prefix lengths, IPv4 or IPv6.",
            "[10.0.2.15/24]",
            CONFIG,
            max_length=network.MAX_ADDRESSES,
        ),
    ] = Field(default_factory=list)
    gateways: Annotated[
        list[_Text],
        about(
            "The routers for all other addresses, in the network of one of `addresses`; one card may have one for "
            "each IP version.",
            "[10.0.2.2]",
            CONFIG,
            max_length=network.MAX_GATEWAYS,
        ),
    ] = Field(default_factory=list)


def cards(given: Sequence[NetworkCard]) -> tuple[network.Card, ...]:
    """The cards as the measured configuration has them."""
    return tuple(network.Card(each.use, tuple(each.addresses), tuple(each.gateways)) for each in given)
