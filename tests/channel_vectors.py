"""The channel's vectors, a gateway with given keys, and every small change of a message.

Run as a program, with nothing but Python, `cryptography` and our package, it checks the vectors and prints what it
found as JSON: so the Python of a guest can.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cryptography
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privml.channel import mlkem
from privml.channel.hpke import Recipient, schedule
from privml.channel.kem import X25519, X_WING, PrivateKey, XWingKey, usable
from privml.channel.keyconfig import KeyConfig
from privml.channel.keyring import GatewayKey, KeyRing
from privml.channel.ohttp import CHUNKED, PLAIN, CallerRequest, Find, RequestOpener
from privml.channel.record import Record
from privml.channel.replay import ReplaySet
from privml.channel.suites import AEADS, Sequence

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


def _recipient_key(vector: dict[str, Any], provider: mlkem.Provider | None) -> PrivateKey:
    secret = bytes.fromhex(vector["skRm"])
    return XWingKey(secret, provider) if vector["kem_id"] == X_WING.id else X25519.private(secret)


def check_hpke(vector: dict[str, Any], provider: mlkem.Provider | None = None) -> int:
    """Compare one set of HPKE vectors, with ML-KEM by ``provider``; how many messages were opened."""
    value = {name: bytes.fromhex(text) for name, text in vector.items() if isinstance(text, str)}
    key, aead = _recipient_key(vector, provider), AEADS[vector["aead_id"]]
    assert key.public == value["pkRm"]
    assert key.decapsulate(value["enc"]) == value["shared_secret"]
    derived = schedule(key.kem, aead, value["shared_secret"], value["info"])
    assert (derived.key, derived.nonce, derived.exporter) == (
        value["key"],
        value["base_nonce"],
        value["exporter_secret"],
    )
    context = Recipient(key, aead, value["enc"], value["info"])
    for one in vector["exports"]:
        assert context.export(bytes.fromhex(one["exporter_context"]), one["L"]) == bytes.fromhex(
            one["exported_value"]
        )
    sealing, opening = (Sequence(aead, derived.key, derived.nonce) for _ in range(2))
    for one in vector["encryptions"]:
        number = int.from_bytes(bytes.fromhex(one["nonce"])) ^ int.from_bytes(value["base_nonce"])
        opening._count = sealing._count = number
        aad, plain, sealed = (bytes.fromhex(one[name]) for name in ("aad", "pt", "ct"))
        assert sealing.seal(plain, aad) == sealed
        assert opening.open(sealed, aad) == plain
    for number, one in enumerate(vector["encryptions"][:4]):
        assert context.open(bytes.fromhex(one["ct"]), bytes.fromhex(one["aad"])) == bytes.fromhex(one["pt"]), number
    return len(vector["encryptions"]) + len(vector["encryptions"][:4])


def check_oblivious(name: str) -> None:
    """Open the request of one file of oblivious HTTP."""
    found = vector(name)
    form = PLAIN if name.startswith("rfc9458") else CHUNKED
    opener = RequestOpener(only(gateway_key(name)), form)
    opener.feed(bytes.fromhex(found["enc_request"]))
    opened = opener.end()
    assert opened.plain.hex() == found["bhttp_request"], name
    exported = opened.context.export(form.response_label, opened.context.aead.secret_size)
    assert exported.hex() == found["exported"], name


def check_ring() -> None:
    """Keys of every KEM that this machine has: a request to each, and its answer."""
    ring = KeyRing(usable(), now=0.0, places=16)
    for config in ring.configs:
        aead = config.preferred()
        assert aead is not None
        caller = CallerRequest(config, aead)
        opener = RequestOpener(ring.find)
        opener.feed(caller.whole(b"prompt"))
        answer = caller.response()
        assert answer.feed(opener.end().response().whole(b"answer")) + answer.end() == b"answer"


def main() -> None:
    """Check every file; assertions fail the program."""
    if not __debug__:
        raise SystemExit("assertions are off")
    opened = sum(check_hpke(one) for one in hpke_vectors())
    for name in FILES[2:]:
        check_oblivious(name)
    check_ring()
    try:  # the way of a release whose `cryptography` has no ML-KEM, whichever this one is
        library = mlkem.Libcrypto()
        by_library = sum(check_hpke(one, library) for one in hpke_vectors() if one["kem_id"] == X_WING.id)
    except OSError:
        by_library = 0
    provider = mlkem.provider()
    found = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "cryptography": cryptography.__version__,
        "mlkem": provider.name if provider else None,
        "kems": [one.name for one in usable()],
        "opened": opened,
        "opened_by_libcrypto": by_library,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
