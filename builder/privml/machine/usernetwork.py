"""QEMU's user network for one card: closed, and around the guest's static address if it has one."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

from privml.base.errors import HostError
from privml.events.network import DHCP, Card, interface

_LONGEST_PREFIX = 24


def forwarded(cards: Sequence[Card]) -> int:
    """Number of the card that ports are forwarded to: the first with an IPv4 address; ``HostError`` if none has."""
    for number, card in enumerate(cards or (Card(DHCP),)):
        if card.use == DHCP or _ipv4(card) is not None:
            return number
    raise HostError(
        "no card of the guest has an IPv4 address, and QEMU's user network forwards no other",
        hint="give a card an IPv4 address too, or start the guest on a network of your own",
    )


def netdev(name: str, card: Card, forwards: Sequence[tuple[int, int]]) -> str:
    """QEMU's ``-netdev`` value; ``forwards`` are (host port, guest port) pairs on 127.0.0.1."""
    words = ["user", f"id={name}", "restrict=on"]
    own = _ipv4(card)
    if own is not None:
        words += _around(own, card.gateways)
    guest = "" if own is None else str(own.ip)
    words += [f"hostfwd=tcp:127.0.0.1:{port}-{guest}:{inner}" for port, inner in forwards]
    return ",".join(words)


def _ipv4(card: Card) -> IPv4Interface | None:
    found = (interface(text) for text in card.addresses)
    return next((each for each in found if isinstance(each, IPv4Interface)), None)


def _around(own: IPv4Interface, gateways: Sequence[str]) -> list[str]:
    """Options of a network that has the guest's address, in which QEMU is the gateway.

    QEMU also takes addresses for DHCP and DNS. A small network has none left, so QEMU's is then larger than the
    guest's.
    """
    gateway = next((text for text in gateways if ":" not in text), None)
    host = gateway or str(next(each for each in own.network.hosts() if each != own.ip))
    whole = own.network.supernet(new_prefix=min(own.network.prefixlen, _LONGEST_PREFIX))
    last = int(whole.broadcast_address)
    spare = [text for back in range(1, 5) if (text := str(IPv4Address(last - back))) not in (host, str(own.ip))]
    return [f"net={whole}", f"host={host}", f"dns={spare[0]}", f"dhcpstart={spare[1]}"]
