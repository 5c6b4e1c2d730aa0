"""Cards of the guest: which lists are accepted, and what image and QEMU get for them."""

from __future__ import annotations

import configparser
import dataclasses
import ipaddress
import itertools
import json
import socket
from pathlib import Path

import pytest
from agent_guest import a_config
from hypothesis import given
from hypothesis import strategies as st
from test_image_manifest import sample

from privml.agent import server
from privml.base.errors import EvidenceError, HostError, RecipeError
from privml.base.strictjson import canonical
from privml.events import configuration, network
from privml.events.network import DHCP, STATIC, UNUSED, Card, cards_from, interface, problems
from privml.image import resources
from privml.image.config import measured_config, origins
from privml.image.network import BY_DHCP
from privml.lock.lockfile import read_lock
from privml.machine import usernetwork
from privml.machine.platform import Device, Size
from privml.machine.qemu import HostSide, arguments
from privml.output import manifest
from privml.recipe.finding import RecipeProblems
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.starter import commented
from privml.vm.platforms import platform

V4 = Card(STATIC, ("10.0.2.15/24",), ("10.0.2.2",))
V6 = Card(STATIC, ("fd00:9::4/64",), ("fd00:9::1",))
BOTH = Card(STATIC, ("10.0.2.15/24", "fd00::15/64"), ("10.0.2.2", "fd00::2"))
# Cards -> the first problem's path, rule and text.
REFUSED: dict[str, tuple[tuple[Card, ...], tuple[str | int, ...], str, str]] = {
    "no card": ((), (), "cards", "0 cards, expected 1 to 8"),
    "too many": ((Card(UNUSED),) * 9, (), "cards", "9 cards, expected 1 to 8"),
    "none is used": ((Card(UNUSED),), (), "cards", "nobody could reach the guest"),
    "no address": ((Card(STATIC),), (0,), "address", "expected at least one address"),
    "an address for DHCP": ((Card(DHCP, ("10.0.2.15/24",)),), (0,), "address", "expected no addresses"),
    "overlapping": (
        (V4, Card(STATIC, ("10.0.2.129/25",))),
        (1, "addresses", 0),
        "address",
        "10.0.2.128/25 overlaps 10.0.2.0/24 of `network[0]`",
    ),
    "given twice": ((Card(STATIC, ("10.0.2.15/24",) * 2),), (0, "addresses", 1), "address", "is given twice"),
    "a gateway elsewhere": (
        (Card(STATIC, ("10.0.2.15/24",), ("10.0.3.1",)),),
        (0, "gateways", 0),
        "gateway",
        "got `10.0.3.1`, expected an address in the card's networks: 10.0.2.0/24",
    ),
    "a gateway in the other card's network": (
        (V4, Card(STATIC, ("10.9.0.2/24",), ("10.0.2.2",))),
        (1, "gateways", 0),
        "gateway",
        "networks: 10.9.0.0/24",
    ),
    "its own gateway": (
        (Card(STATIC, ("10.0.2.15/24",), ("10.0.2.15",)),),
        (0, "gateways", 0),
        "gateway",
        "another machine",
    ),
    "a gateway that is the network": (
        (Card(STATIC, ("10.0.2.15/24",), ("10.0.2.0",)),),
        (0, "gateways", 0),
        "gateway",
        "another machine",
    ),
    "a gateway with a prefix": (
        (Card(STATIC, ("10.0.2.15/24",), ("10.0.2.2/24",)),),
        (0, "gateways", 0),
        "gateway",
        "without a prefix",
    ),
    "a gateway for DHCP": ((Card(DHCP, (), ("10.0.2.2",)),), (0, "gateways", 0), "gateway", "networks: none"),
    "two default routes": (
        (V4, Card(STATIC, ("10.9.0.2/24",), ("10.9.0.1",))),
        (1, "gateways", 0),
        "gateway",
        "`network[0]` has the default route for IPv4 already",
    ),
    "DHCP and a default route": ((V4, Card(DHCP)), (1,), "gateway", "`network[0]` has the default route for IPv4"),
    "DHCP twice": ((Card(DHCP), Card(DHCP)), (1,), "gateway", "`network[0]` has the default route for IPv4 already"),
}


@pytest.mark.parametrize(
    "cards",
    [
        (V4,),
        (BOTH,),
        (V4, V6),
        (Card(DHCP), V6, Card(UNUSED)),
        (Card(DHCP), Card(STATIC, ("10.9.0.2/24",))),
        (Card(STATIC, ("10.0.2.15/24", "10.0.2.16/24", "10.9.0.1/8", "fd00::15/64")),),
    ],
)
def test_cards_are_accepted_and_read_back(cards: tuple[Card, ...]) -> None:
    assert list(problems(cards)) == []
    assert cards_from([card.to_dict() for card in cards], "network") == cards


@pytest.mark.parametrize("name", REFUSED)
def test_lists_of_cards_that_cannot_work(name: str) -> None:
    cards, path, rule, text = REFUSED[name]
    first = next(problems(cards))
    assert (first.path, first.rule) == (path, f"network-{rule}")
    assert text in first.text
    with pytest.raises(EvidenceError, match=r"^network"):
        cards_from([card.to_dict() for card in cards], "network")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected an address with its prefix length"),
        ("10.0.2.15", "expected an address with its prefix length"),
        ("10.0.2.15/255.255.255.0", "expected an address with its prefix length"),
        ("10.0.2.15/024", "expected an address with its prefix length"),
        ("10.0.2.15/24\n", "expected an address with its prefix length"),
        ("fe80::1%eth0/64", "expected an address with its prefix length"),
        ("10.0.2.300/24", "expected an address with its prefix length"),
        ("10.0.2/24", "expected an address with its prefix length"),
        ("fd00:0::15/64", "expected `fd00::15`, the usual spelling"),
        ("FD00::15/64", "expected an address with its prefix length"),
        ("10.0.2.15/31", "got a prefix of 31 bits, expected 8 to 30"),
        ("10.0.2.15/7", "got a prefix of 7 bits"),
        ("fd00::15/127", "got a prefix of 127 bits, expected 16 to 126"),
        ("10.0.2.0/24", "stands for 10.0.2.0/24 itself"),
        ("10.0.2.255/24", "stands for 10.0.2.0/24 itself"),
        ("fd00::/64", "stands for fd00::/64 itself"),
        ("127.0.0.2/8", "a loopback address"),
        ("224.0.0.5/24", "a multicast address"),
        ("169.254.3.4/16", "a link-local address"),
        ("240.0.0.1/8", "a reserved address"),
        ("0.0.2.15/24", "a reserved address"),
        ("::1/64", "expected an address in 2000::/3 or fc00::/7"),
        ("fe80::15/64", "expected an address in 2000::/3 or fc00::/7"),
        ("ff02::1/64", "expected an address in 2000::/3 or fc00::/7"),
        ("::ffff:a00:20f/96", "2000::/3 or fc00::/7"),
    ],
)
def test_addresses_that_are_none_of_an_ordinary_host(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="got") as caught:
        interface(text)
    assert message in str(caught.value)


@given(st.text(alphabet="0123456789abcdef.:/% \n", max_size=24))
def test_whatever_is_accepted_is_spelled_as_it_is_read(text: str) -> None:
    try:
        found = interface(text)
    except ValueError:
        return
    assert str(found) == text
    assert found.ip in found.network
    assert not (found.ip.is_loopback or found.ip.is_multicast or found.ip.is_unspecified or found.ip.is_link_local)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use": "other"}, "config.network[0].use: got `other`"),
        ({"more": 1}, "config.network[0].more: unknown field"),
        ({"addresses": [1]}, "expected addresses as strings"),
        ({"addresses": ["10.0.2.15/24"] * 5}, "5 items, expected at most 4"),
        ({"gateways": ["10.0.9.9"]}, "config.network[0].gateways[0]: got `10.0.9.9`"),
        ({"addresses": []}, "config.network[0]: `use: static`, expected at least one address"),
    ],
)
def test_the_configuration_refuses_what_the_recipe_refuses(change: dict[str, object], message: str) -> None:
    value = json.loads(configuration.encode(a_config(network=(V4,))))
    value["network"][0] |= change
    with pytest.raises(EvidenceError) as caught:
        configuration.decode(canonical(value))
    assert message in str(caught.value)


def test_a_configuration_without_cards_is_as_it_was() -> None:
    assert "network" not in json.loads(configuration.encode(a_config()))
    made = a_config(network=(BOTH, Card(UNUSED)))
    assert configuration.decode(configuration.encode(made)).network == made.network


def test_the_manifest_has_the_cards_only_where_a_recipe_has_them(tmp_path: Path) -> None:
    plain = sample(tmp_path / "image")
    assert "network" not in json.loads(plain.encode())
    made = dataclasses.replace(plain, network=(V4, Card(UNUSED)))
    assert manifest.decode(made.encode()) == made
    with pytest.raises(EvidenceError, match=r"manifest.network: 0 cards"):
        manifest.decode(canonical(json.loads(plain.encode()) | {"network": []}))


# -- from the recipe into the image --------------------------------------------------------------------------------


def recipe(tmp_path: Path, lines: str) -> Recipe:
    (tmp_path / "tdx-min.yaml").write_bytes((shipped() / "tdx-min.yaml").read_bytes())
    path = tmp_path / "acme.yaml"
    path.write_text(f"extends: ./tdx-min.yaml\n{lines}")
    return load(path)


def unit(file: resources.File) -> dict[str, dict[str, list[str]]]:
    """A systemd file: section -> key -> values."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in file.data.decode().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


def test_a_static_card_has_its_addresses_and_nothing_asks_for_others(tmp_path: Path) -> None:
    made = recipe(
        tmp_path, 'network: [{addresses: [10.0.2.15/24, "fd00::15/64"], gateways: [10.0.2.2, "fd00::2"]}]\n'
    )
    files = resources.overlay(made, [], config=b"{}")
    found = unit(files["etc/systemd/network/05-privml-eth0.network"])
    assert found["Match"] == {"Name": ["eth0"]}
    assert found["Network"].pop("Address") == ["10.0.2.15/24", "fd00::15/64"]
    assert found["Network"].pop("Gateway") == ["10.0.2.2", "fd00::2"]
    assert {value for values in found["Network"].values() for value in values} == {"no"}
    assert {"DHCP", "IPv6AcceptRA", "LinkLocalAddressing", "LLMNR", "MulticastDNS"} <= found["Network"].keys()
    assert BY_DHCP not in files
    drop_in = unit(files["etc/systemd/system/systemd-networkd.service.d/privml.static.conf"])["Service"]
    assert drop_in == {"AmbientCapabilities": ["", "CAP_NET_ADMIN"], "CapabilityBoundingSet": ["", "CAP_NET_ADMIN"]}
    families = files["etc/systemd/system/privml-server.service.d/network.conf"]
    assert unit(families) == {"Service": {"RestrictAddressFamilies": ["AF_INET6"]}}


def test_ipv6_is_on_only_for_the_cards_that_have_it(tmp_path: Path) -> None:
    made = recipe(tmp_path, 'network: [{use: dhcp}, {addresses: ["fd00:9::4/64"]}, {use: unused}]\n')
    files = resources.overlay(made, [], config=b"{}")
    names = sorted(path for path in files if path.startswith("etc/sysctl.d/"))
    assert names == ["etc/sysctl.d/privml.conf", "etc/sysctl.d/privml.network.conf"], "the later file wins"
    parser = configparser.RawConfigParser(delimiters=("=",), strict=True)
    parser.read_string("[all]\n" + files[names[1]].data.decode())
    assert dict(parser["all"]) == {
        "net.ipv6.conf.eth1.accept_ra": "0",
        "net.ipv6.conf.eth1.autoconf": "0",
        "net.ipv6.conf.eth1.accept_redirects": "0",
        "net.ipv6.conf.eth1.addr_gen_mode": "1",
        "net.ipv6.conf.eth1.disable_ipv6": "0",
    }
    assert unit(files["etc/systemd/network/05-privml-eth2.network"])["Link"] == {"Unmanaged": ["yes"]}
    assert "etc/systemd/network/05-privml-eth0.network" not in files
    assert BY_DHCP in files
    assert not [path for path in files if "static" in path]


def test_a_recipe_without_cards_has_the_files_that_it_had() -> None:
    files = resources.overlay(load(shipped() / "tdx-min.yaml"), [], config=b"{}")
    assert [path for path in files if "network" in path] == [BY_DHCP, *[p for p in files if "networkd.service" in p]]


def test_the_cards_are_measured(tmp_path: Path) -> None:
    made = recipe(tmp_path, "network: [{addresses: [10.0.2.15/24], gateways: [10.0.2.2]}]\n")
    lock = read_lock(shipped() / "tdx-min.lock.json")
    assert configuration.decode(configuration.encode(measured_config(made, lock, []))).network == (V4,)
    assert origins(made)["network"] == "acme.yaml:2 network"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("network: [{addresses: [10.0.2.15]}]\n", "acme.yaml:2: network[0].addresses[0]: got `10.0.2.15`"),
        ("network:\n  - {use: dhcp}\n  - {use: dhcp}\n", "acme.yaml:4: network[1]: `network[0]` has the default"),
        ("network: [{}]\n", "network[0]: `use: static`, expected at least one address"),
        ("network: [{use: other}]\n", "network[0].use: got `other`, expected static or dhcp or unused"),
        ("network: [{address: 10.0.2.15/24}]\n", "network[0].address: unknown field"),
        ("network: [dhcp]\n", "network[0]: got `dhcp`, expected fields"),
        ("network: {use: dhcp}\n", "network: got fields, expected a list"),
        ("network: [{addresses: [1]}]\n", "network[0].addresses[0]: got `1`, expected text"),
    ],
)
def test_what_a_card_may_not_say(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises((RecipeProblems, RecipeError)) as caught:
        recipe(tmp_path, lines)
    assert message in str(caught.value)


def test_recipes_without_new_fields_keep_their_digests() -> None:
    for name in ("tdx-min", "demo-cpu", "demo-cpu-dev"):
        assert load(shipped() / f"{name}.yaml").digest == read_lock(shipped() / f"{name}.lock.json").recipe_sha256


def test_a_recipe_that_init_writes_has_the_same_cards_and_sizes(tmp_path: Path) -> None:
    lines = (
        'network: [{addresses: ["fd00:9::4/64"], gateways: ["fd00:9::1"]}, {use: dhcp}, {use: unused}]\n'
        "services: {a: {run: [/usr/bin/python3], memory: 64MiB, scratch: 32MiB}}\n"
    )
    made = recipe(tmp_path, lines)
    (tmp_path / "again.yaml").write_text(commented(made.content, "acme"))
    again = load(tmp_path / "again.yaml").content
    assert again.cards == made.content.cards == (V6, Card(DHCP), Card(UNUSED))
    assert again.services == made.content.services


# -- on the host ---------------------------------------------------------------------------------------------------


def netdevs(*cards: Card, forwards: tuple[tuple[int, int], ...] = ((40001, 8443),)) -> list[str]:
    one = platform("qemu-11-q35-one-disk", shipped())
    more = tuple(Device("virtio-net", 8 + number) for number in range(len(cards) - 1))
    host = HostSide("/fw", forwards=forwards, network=cards)
    argv = arguments(dataclasses.replace(one, devices=(*one.devices, *more)), Size(2, 2 << 30), host, "tcg")
    return [value for word, value in itertools.pairwise(argv) if word == "-netdev"]


def test_the_host_forwards_to_the_first_card_with_ipv4() -> None:
    assert netdevs(V4) == [
        "user,id=net0,restrict=on,net=10.0.2.0/24,host=10.0.2.2,dns=10.0.2.254,dhcpstart=10.0.2.253,"
        "hostfwd=tcp:127.0.0.1:40001-10.0.2.15:8443"
    ]
    assert netdevs(V6, Card(UNUSED), Card(DHCP)) == [
        "user,id=net0,restrict=on",
        "user,id=net1,restrict=on",
        "user,id=net2,restrict=on,hostfwd=tcp:127.0.0.1:40001-:8443",
    ]
    with pytest.raises(HostError, match="no card of the guest has an IPv4 address"):
        netdevs(V6)
    assert netdevs(V6, forwards=()) == ["user,id=net0,restrict=on"]


@pytest.mark.parametrize(
    ("address", "gateways"),
    [
        ("192.168.77.6/30", ("192.168.77.5",)),
        ("192.168.77.254/29", ()),
        ("192.168.77.253/24", ("192.168.77.254",)),
        ("192.168.77.252/24", ("192.168.77.251",)),
        ("10.255.255.254/8", ()),
        ("172.16.0.1/16", ()),
    ],
)
def test_qemu_s_network_has_the_guest_and_four_different_addresses(address: str, gateways: tuple[str, ...]) -> None:
    words = dict(
        word.split("=", 1) for word in usernetwork.netdev("n", Card(STATIC, (address,), gateways), ()).split(",")[3:]
    )
    own = ipaddress.ip_interface(address)
    whole = ipaddress.ip_network(words.pop("net"))
    places = [ipaddress.ip_address(text) for text in words.values()]
    assert sorted(words) == ["dhcpstart", "dns", "host"]
    assert len({own.ip, *places}) == 4
    assert all(place in whole for place in (own.ip, *places))
    assert ipaddress.ip_address(words["host"]) in own.network, "the guest reaches it without a gateway"
    assert not gateways or words["host"] == gateways[0]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_the_server_listens_on_both_ip_versions_only_where_asked() -> None:
    with server.listen(0) as plain:
        assert plain.family == socket.AF_INET
        assert plain.getsockname()[0] == "0.0.0.0"
    with server.listen(0, ipv6=True) as both:
        assert both.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        with socket.create_connection(("127.0.0.1", both.getsockname()[1]), timeout=5) as caller:
            assert caller.getpeername()[0] == "127.0.0.1"


def test_a_card_is_called_as_the_kernel_numbers_it() -> None:
    assert [network.device(number) for number in (0, 1)] == ["eth0", "eth1"]
