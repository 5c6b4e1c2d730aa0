"""Callers of a server, as limits for each address count them."""

from __future__ import annotations

import ipaddress

_IPV6_NETWORK = 64


def group(address: str) -> str:
    """What limits per address apply to: an IPv4 address, or the /64 of an IPv6 address.

    An IPv4 address in an IPv6 one is that IPv4 address. What is no address is a group of its own.
    """
    plain = address.partition("%")[0]
    try:
        found = ipaddress.ip_address(plain)
    except ValueError:
        return plain
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _IPV6_NETWORK), strict=False))
