"""The guest's network cards, in slot order: static addresses, the host's DHCP server, or unused.

Recipe, measured configuration and manifest have the same list. One without the list has a single card, with DHCP.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

STATIC, DHCP, UNUSED = "static", "dhcp", "unused"
USES = (STATIC, DHCP, UNUSED)
MAX_CARDS = 8
MAX_ADDRESSES = 4
MAX_GATEWAYS = 2
_ADDRESS = re.compile(r"\A[0-9a-f:.]{2,45}\Z")
_PREFIX = re.compile(r"\A[1-9][0-9]{0,2}\Z")
_PREFIXES = {4: (8, 30), 6: (16, 126)}
_INTERFACE = "an address with its prefix length, such as 10.0.2.15/24"
_GATEWAY = "an address without a prefix, such as 10.0.2.2"
_UNICAST_V6 = ("2000::/3", "fc00::/7")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Card:
    """One card. Only static ones have ``addresses`` (``10.0.2.15/24``, ``fd00::15/64``) and ``gateways``
    (``10.0.2.2``).
    """

    use: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """``{"use": s, "addresses": [s...], "gateways": [s...]}``."""
        return {"use": self.use, "addresses": list(self.addresses), "gateways": list(self.gateways)}

    @property
    def has_ipv6(self) -> bool:
        """Whether one of its addresses is IPv6."""
        return any(":" in address for address in self.addresses)


@dataclass(frozen=True)
class Problem:
    """Why a list of cards cannot be used: ``path`` in the list, the ``rule`` of `lint`, and what is wrong."""

    path: Path
    rule: str
    text: str


def device(number: int) -> str:
    """The kernel's name of card ``number`` (from 0): nothing in the guest renames cards."""
    return f"eth{number}"


def cards_from(items: Sequence[object], path: str) -> tuple[Card, ...]:
    """Decode a list of cards; ``EvidenceError`` for anything that `problems` reports."""
    cards = tuple(_card(item, f"{path}[{number}]") for number, item in enumerate(items))
    for problem in problems(cards):
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.path)
        raise EvidenceError(f"{path}{where}: {problem.text}")
    return cards


def _card(item: object, path: str) -> Card:
    fields = Fields(item, path)
    use = fields.text("use", one_of=USES)
    addresses = tuple(_text(each, path) for each in fields.array("addresses", limit=MAX_ADDRESSES))
    gateways = tuple(_text(each, path) for each in fields.array("gateways", limit=MAX_GATEWAYS))
    fields.end()
    return Card(use, addresses, gateways)


def _text(item: object, path: str) -> str:
    if not isinstance(item, str):
        raise EvidenceError(f"{path}: expected addresses as strings")
    return item


def interface(text: str) -> IPv4Interface | IPv6Interface:
    """``10.0.2.15/24``, spelled canonically and of an ordinary host; ``ValueError`` for anything else."""
    import ipaddress  # most guests have no static address and should not pay for this import

    address, _, prefix = text.partition("/")
    if not _PREFIX.match(prefix):
        raise ValueError(f"got `{text[:60]}`, expected {_INTERFACE}")
    host = _address(address, _INTERFACE)
    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise ValueError(f"got `{text}`, expected {_INTERFACE} ({error})") from error
    low, high = _PREFIXES[found.version]
    if not low <= found.network.prefixlen <= high:
        raise ValueError(f"got a prefix of {found.network.prefixlen} bits, expected {low} to {high}")
    if _is_edge(host, found):
        raise ValueError(f"got `{host}`, which stands for {found.network} itself, expected a host in it")
    return found


def _address(text: str, expected: str) -> IPv4Address | IPv6Address:
    """``10.0.2.2``, spelled canonically and of an ordinary host; otherwise ``ValueError`` that says ``expected``."""
    import ipaddress

    if not _ADDRESS.match(text):
        raise ValueError(f"got `{text[:60]}`, expected {expected}")
    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError(f"got `{text}`, expected {expected}") from error
    # First: Python versions differ in how they spell addresses that no host has, such as IPv4 mapped into IPv6.
    _check_unicast(found)
    if str(found) != text:
        raise ValueError(f"got `{text}`, expected `{found}`, the usual spelling")
    return found


def _check_unicast(address: IPv4Address | IPv6Address) -> None:
    import ipaddress

    if isinstance(address, ipaddress.IPv6Address):
        if not any(address in ipaddress.ip_network(network) for network in _UNICAST_V6):
            raise ValueError(f"got `{address}`, expected an address in {' or '.join(_UNICAST_V6)}")
        return
    kinds = {
        "loopback": address.is_loopback,
        "multicast": address.is_multicast,
        "link-local": address.is_link_local,
        "reserved": address.is_reserved or address.packed[0] == 0,
    }
    for kind, is_one in kinds.items():
        if is_one:
            raise ValueError(f"got `{address}`, a {kind} address, expected one of an ordinary host")


def _is_edge(address: IPv4Address | IPv6Address, of: IPv4Interface | IPv6Interface) -> bool:
    """Whether it is the first address of a network, or IPv4's broadcast address."""
    return address == of.network.network_address or (address.version == 4 and address == of.network.broadcast_address)


def problems(cards: Sequence[Card]) -> Iterator[Problem]:
    """Everything that keeps ``cards`` from being one guest's network."""
    if not 1 <= len(cards) <= MAX_CARDS:
        yield Problem((), "network-cards", f"{len(cards)} cards, expected 1 to {MAX_CARDS}")
        return
    if all(card.use == UNUSED for card in cards):
        yield Problem((), "network-cards", "every card is unused, so that nobody could reach the guest")
    placed: list[tuple[int, IPv4Interface | IPv6Interface]] = []
    for number, card in enumerate(cards):
        if bool(card.addresses) != (card.use == STATIC):
            expected = "at least one address" if card.use == STATIC else "no addresses"
            yield Problem((number,), "network-address", f"`use: {card.use}`, expected {expected}")
        for index, text in enumerate(card.addresses):
            path: Path = (number, "addresses", index)
            try:
                found = interface(text)
            except ValueError as error:
                yield Problem(path, "network-address", str(error))
                continue
            if any(found.ip == other.ip for _, other in placed):
                yield Problem(path, "network-address", f"`{found.ip}` is given twice")
            for card_number, other in placed:
                if card_number != number and _overlap(found, other):
                    said = f"{found.network} overlaps {other.network} of `network[{card_number}]`"
                    yield Problem(path, "network-address", f"{said}: expected a network of its own for each card")
            placed.append((number, found))
    yield from _routes(cards, placed)


def _overlap(one: IPv4Interface | IPv6Interface, other: IPv4Interface | IPv6Interface) -> bool:
    return one.version == other.version and (
        one.network.network_address in other.network or other.network.network_address in one.network
    )


def _routes(cards: Sequence[Card], placed: Sequence[tuple[int, IPv4Interface | IPv6Interface]]) -> Iterator[Problem]:
    """Problems of the default routes; DHCP gives one for IPv4."""
    routes: dict[int, int] = {}
    for number, card in enumerate(cards):
        versions: list[tuple[Path, int]] = [((number,), 4)] if card.use == DHCP else []
        for index, text in enumerate(card.gateways):
            path: Path = (number, "gateways", index)
            try:
                found = _address(text, _GATEWAY)
            except ValueError as error:
                yield Problem(path, "network-gateway", str(error))
                continue
            near = [each for at, each in placed if at == number and found in each.network]
            if not near:
                networks = ", ".join(str(each.network) for at, each in placed if at == number) or "none"
                yield Problem(
                    path, "network-gateway", f"got `{text}`, expected an address in the card's networks: {networks}"
                )
            elif any(found == each.ip for _, each in placed) or any(_is_edge(found, each) for each in near):
                yield Problem(path, "network-gateway", f"got `{text}`, expected the address of another machine")
            versions.append((path, found.version))
        for path, version in versions:
            if version in routes:
                said = f"`network[{routes[version]}]` has the default route for IPv{version} already"
                yield Problem(path, "network-gateway", f"{said}, expected one card with it")
            routes[version] = number
