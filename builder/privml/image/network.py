"""Files of the image for the recipe's network cards; without a list of cards, the one card has DHCP."""

from __future__ import annotations

from collections.abc import Sequence

from privml.events.network import DHCP, MAX_CARDS, STATIC, UNUSED, Card, device
from privml.image.render import File

BY_DHCP = "etc/systemd/network/10-privml.network"
"""Of ``images/guest/common``: any card without a file of its own has DHCP."""
_FOLDER = "etc/systemd"
# Sorted after privml.conf, which turns IPv6 off.
_SYSCTLS = "etc/sysctl.d/privml.network.conf"
_SERVER = f"{_FOLDER}/system/privml-server.service.d/network.conf"
_STATIC_ONLY = f"{_FOLDER}/system/systemd-networkd.service.d/privml.static.conf"
_QUIET = "DHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nLLDP=no\nEmitLLDP=no\nMulticastDNS=no\nLLMNR=no\n"


def overlay(cards: Sequence[Card]) -> tuple[dict[str, File], frozenset[str]]:
    """Overlay files (path -> file), and those of ``images/guest/common`` that the image goes without."""
    files = {}
    for number, card in enumerate(cards):
        text = _unit(card, number)
        if text:
            files[_of_card(number)] = File(text.encode())
    if with_ipv6 := [device(number) for number, card in enumerate(cards) if card.has_ipv6]:
        files[_SYSCTLS] = File("".join(map(_ipv6, with_ipv6)).encode())
        files[_SERVER] = File(b"[Service]\nRestrictAddressFamilies=AF_INET6\n")
    if not cards or any(card.use == DHCP for card in cards):
        return files, frozenset()
    files[_STATIC_ONLY] = File(
        b"# Nothing here speaks DHCP, so it needs neither raw packets nor a port.\n"
        b"[Service]\nAmbientCapabilities=\nAmbientCapabilities=CAP_NET_ADMIN\n"
        b"CapabilityBoundingSet=\nCapabilityBoundingSet=CAP_NET_ADMIN\n"
    )
    return files, frozenset({BY_DHCP})


def cards_of(path: str, what: str) -> str | None:
    """The part of ``network`` that decides ``what`` of the file at ``path``: `network[1]`, or all of `network`.

    None if it is not a file that ``overlay`` makes, nor one whose ``presence`` it decides.
    """
    number = next((number for number in range(MAX_CARDS) if path == _of_card(number)), None)
    if number is not None:
        return f"network[{number}]"
    decided = path in (_SYSCTLS, _SERVER, _STATIC_ONLY) or (path == BY_DHCP and what == "presence")
    return "network" if decided else None


def _of_card(number: int) -> str:
    return f"{_FOLDER}/network/05-privml-{device(number)}.network"


def _unit(card: Card, number: int) -> str:
    match = f"[Match]\nName={device(number)}\n\n"
    if card.use == STATIC:
        lines = [f"Address={address}\n" for address in card.addresses]
        lines += [f"Gateway={address}\n" for address in card.gateways]
        return f"{match}[Network]\n{_QUIET}{''.join(lines)}"
    if card.use == UNUSED:
        return f"{match}[Link]\nUnmanaged=yes\n"
    return ""


def _ipv6(name: str) -> str:
    values = {"accept_ra": 0, "autoconf": 0, "accept_redirects": 0, "addr_gen_mode": 1, "disable_ipv6": 0}
    return "".join(f"net.ipv6.conf.{name}.{key} = {value}\n" for key, value in values.items())
