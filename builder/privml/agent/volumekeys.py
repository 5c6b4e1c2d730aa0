"""The keys of encrypted volumes: which ones this boot wants, and what it accepts of the brokers' releases.

A release is accepted only if a broker of the measured configuration signed it for a document of this boot, and if it
has the wanted key of each resource that it names: the measured check value decides that. All of its keys are
accepted, or none. Whoever carries releases can only withhold or repeat them.

Private keys and volume keys exist in the boot process only, and are dropped once they are not needed. Python cannot
overwrite them, so copies may stay in the memory of this process until it is used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from privml.agent.wire import RefusedRequest
from privml.base.errors import EvidenceError, Refused
from privml.channel.kem import PrivateKey
from privml.channel.release import Release, Released, Statement
from privml.channel.suites import CannotOpen
from privml.events.configuration import Config
from privml.events.crypt import Broker, Crypt, check_key

MAX_QUOTED = 1024
"""Documents of this boot that are remembered: a release for an older one is refused."""
ALREADY = "already-released"
CODES = {
    "release-malformed": "It is not of the format `privml-key-release/v1`.",
    "release-broker": "The broker that it names is not in the measured configuration.",
    "release-signature": "The broker's signature is wrong.",
    "release-other-boot": "It is for a document that this boot did not give, or that is not remembered any more.",
    "release-unknown-resource": "The measured configuration does not want this resource of any broker.",
    "release-other-broker": "Another broker releases this resource.",
    "release-generation": "It has another generation of the resource than the image was built with.",
    ALREADY: "This boot has the key of the resource.",
    "release-check": "Its check value is not that of the measured configuration, so its key is another one.",
    "release-kem": "It is sealed by a KEM for which this boot has no key.",
    "release-sealed": "The keys are not sealed to this boot, or are not those that the statement lists.",
    "release-wrong-key": "A key that was sealed is not the one that the check value was made of.",
    "release-unusable-key": "A key is not 64 bytes of two different halves.",
}
"""Why a release is refused, in the order of the checks."""


@dataclass(frozen=True)
class Wanted:
    """A key that this boot wants, and the broker that releases it."""

    broker: Broker
    crypt: Crypt

    def __str__(self) -> str:
        return f"{self.broker.name} for {self.crypt.resource}, generation {self.crypt.generation}"

    def to_dict(self) -> dict[str, Any]:
        """Its JSON object, as the server shows it."""
        return {
            "broker": self.broker.ed25519.hex(),
            "name": self.broker.name,
            "resource": self.crypt.resource,
            "generation": self.crypt.generation,
        }


def signed_release(body: bytes, brokers: Mapping[bytes, Broker]) -> tuple[Release, Statement]:
    """A release that one of ``brokers``, by public key, signed, and its statement.

    ``RefusedRequest`` with one of the first three of `CODES` for anything else. No secret is used.
    """
    try:
        release = Release.decode(body)
        said = Statement.decode(release.statement)
    except EvidenceError as error:
        raise RefusedRequest("release-malformed", error.message) from error
    if said.broker not in brokers:
        raise RefusedRequest(
            "release-broker",
            f"release: by broker {said.broker.hex()}, which the measured configuration does not name",
        )
    try:
        release.statement_by(said.broker.__eq__)
    except Refused as refused:
        raise RefusedRequest("release-signature", refused.message) from refused
    return release, said


class VolumeKeys:
    """The volume keys of one boot; ``private`` are the keys that they are sealed to."""

    def __init__(self, config: Config, private: Sequence[PrivateKey]) -> None:
        brokers = {broker.name: broker for broker in config.brokers}
        self._brokers = {broker.ed25519: broker for broker in config.brokers}
        self._all = tuple(Wanted(brokers[crypt.broker], crypt) for crypt in config.encrypted)
        self._private = {key.kem.name: key for key in private}
        self._quoted: dict[bytes, None] = {}
        self._keys: dict[Crypt, bytes] = {}

    @property
    def missing(self) -> tuple[Wanted, ...]:
        """The keys that were not released yet, in the volumes' order."""
        return tuple(wanted for wanted in self._all if wanted.crypt not in self._keys)

    def quoted(self, report_data: bytes) -> None:
        """Note that this boot gave a document with this report data."""
        self._quoted[report_data] = None
        while len(self._quoted) > MAX_QUOTED:
            del self._quoted[next(iter(self._quoted))]

    def accept(self, body: bytes) -> tuple[Wanted, ...]:
        """Take the keys of a release; ``RefusedRequest`` with one of `CODES` if it is not for this boot."""
        release, said = signed_release(body, self._brokers)
        broker = self._brokers[said.broker]
        if said.report_data not in self._quoted:
            raise RefusedRequest(
                "release-other-boot",
                f"release: for report data {said.report_data.hex()[:16]}..., which this boot has not quoted: "
                "get a new document from this guest",
            )
        found = [self._wanted(broker, released) for released in said.resources]
        keys = self._opened(release, said)
        for wanted, key in zip(found, keys, strict=True):
            _check(wanted, key)
        self._keys |= {wanted.crypt: key for wanted, key in zip(found, keys, strict=True)}
        if not self.missing:
            self._private.clear()
            self._quoted.clear()
        return tuple(found)

    def key(self, crypt: Crypt) -> bytes:
        """The key of a volume, once it was released."""
        return self._keys[crypt]

    def drop(self) -> None:
        """Forget every key."""
        self._private.clear()
        self._keys.clear()

    def _wanted(self, broker: Broker, released: Released) -> Wanted:
        """The key that this boot wants, of what a broker released."""
        what = f"release of {released.resource}"
        named = [wanted for wanted in self._all if wanted.crypt.resource == released.resource]
        if not named:
            raise RefusedRequest("release-unknown-resource", f"{what}: no volume of this image has this resource")
        found = next((wanted for wanted in named if wanted.broker == broker), None)
        if found is None:
            expected = ", ".join(wanted.broker.name for wanted in named)
            raise RefusedRequest("release-other-broker", f"{what}: by broker {broker.name}, expected {expected}")
        crypt = found.crypt
        if released.generation != crypt.generation:
            raise RefusedRequest(
                "release-generation", f"{what}: generation {released.generation}, expected {crypt.generation}"
            )
        if crypt in self._keys:
            raise RefusedRequest(ALREADY, f"{what}: this boot has its key")
        if released.check != crypt.check:
            raise RefusedRequest(
                "release-check", f"{what}: check value {released.check.hex()}, expected {crypt.check.hex()}"
            )
        return found

    def _opened(self, release: Release, said: Statement) -> tuple[bytes, ...]:
        key = self._private.get(said.kem)
        if key is None:
            expected = " or ".join(self._private)
            raise RefusedRequest("release-kem", f"release: sealed by {said.kem}, expected {expected}")
        try:
            return release.open(said, key)
        except CannotOpen:
            raise RefusedRequest("release-sealed", "release: the keys are not sealed to this boot") from None
        except EvidenceError:
            # Not its message, which could quote a key.
            text = "release: what is sealed is not the keys that the statement lists, in its order"
            raise RefusedRequest("release-sealed", text) from None


def _check(wanted: Wanted, key: bytes) -> None:
    what = f"release of {wanted.crypt.resource}"
    if not wanted.crypt.is_key(key):
        raise RefusedRequest("release-wrong-key", f"{what}: the key does not have the check value of this image")
    try:
        check_key(key)
    except ValueError as error:
        raise RefusedRequest("release-unusable-key", f"{what}: {error}") from error
