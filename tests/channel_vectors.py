"""The channel's vectors, a gateway with given keys, and every small change of a message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privml.channel.kem import X25519, XWingKey
from privml.channel.keyconfig import KeyConfig
from privml.channel.keyring import GatewayKey
from privml.channel.ohttp import Find
from privml.channel.record import Record
from privml.channel.replay import ReplaySet

FOLDER = Path(__file__).parent / "vectors/channel"
FILES = (
    "hpke-rfc9180-x25519",
    "hpke-pq-xwing",
    "rfc9458-example",
    "chunked-ohttp-example",
    "chunked-ohttp-xwing-streamed",
)


@cache
def vector(name: str) -> dict[str, Any]:
    """One file; its values in hex are left as they are."""
    return json.loads((FOLDER / f"{name}.json").read_bytes())


def hpke_vectors() -> list[dict[str, Any]]:
    """Every set of HPKE vectors."""
    return [*vector("hpke-rfc9180-x25519")["vectors"], *vector("hpke-pq-xwing")["vectors"]]


def gateway_key(name: str, places: int = 16) -> GatewayKey:
    """The gateway's key of an oblivious HTTP vector, with an empty replay set."""
    found = vector(name)
    config = KeyConfig.decode(bytes.fromhex(found["key_config"]))
    secret = bytes.fromhex(found.get("skR") or found["skR_seed"])
    private = XWingKey(secret) if config.kem.post_quantum else config.kem.private(secret)
    return GatewayKey(config, private, ReplaySet(places))


def only(key: GatewayKey) -> Find:
    """A ring with one key."""
    return lambda key_id: key if key_id == key.config.key_id else None


SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CHANNEL_KEY = SIGNER.public_key().public_bytes_raw()


def fixed_key(seed: int, places: int = 16) -> GatewayKey:
    """A gateway's X25519 key that is the same in every run, with an empty replay set."""
    private = X25519.private(bytes([seed]) * 32)
    return GatewayKey(KeyConfig.of(seed, X25519, private.public), private, ReplaySet(places))


RECORD = Record(
    3,
    keys_sha256=bytes(range(32)),
    configs=tuple(fixed_key(seed).config for seed in (1, 2)),
)
SIGNED_RECORD = RECORD.sign(SIGNER.sign)


def changes(data: bytes) -> Iterator[bytes]:
    """Each byte changed, also by one bit; cut at each length; a byte more at each place."""
    for at, byte in enumerate(data):
        for other in (byte ^ 1, byte ^ 0x80, byte ^ 0xFF):
            yield data[:at] + bytes([other]) + data[at + 1 :]
    for size in range(len(data)):
        yield data[:size]
    for at in range(len(data) + 1):
        yield data[:at] + b"\x00" + data[at:]
        yield data[:at] + b"\xa5" + data[at:]
