"""The release of volume keys to one guest, `privml-key-release/v1`: what a broker says, seals and signs.

    statement = JCS({"format", "broker": hex32, "kem": "x-wing"|"x25519", "report_data": hex64,
                     "resources": [{"resource", "generation", "check": hex32, "policy_sha256": hex32}...],
                     "log": {"size": n, "root": hex32}})
    sealed    = HPKE base mode to the attested release key, AES-256-GCM: encapsulated key || ciphertext,
                info = "privml-key-release/v1\\0" || SHA256(statement)
    plaintext = JCS({"keys": [{"resource", "generation", "key": b64}...]}), in the order of the statement
    signature = Ed25519 of the broker over "privml-key-release/v1\\0" || SHA256(statement) || SHA256(sealed)

A courier carries it and can only withhold it: the key is sealed to one guest's boot, and the statement names the
report data of the document that was judged. There is no time in it, because the host sets a guest's clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError, Refused
from privml.base.resource import generation_of, resource_of
from privml.base.strictjson import Fields, b64, canonical, loads
from privml.channel.hpke import Recipient, Sender
from privml.channel.kem import KEMS, Kem, PrivateKey
from privml.channel.suites import AEADS, CannotOpen

FORMAT = "privml-key-release/v1"
REQUEST_FORMAT = "privml-key-request/v1"
MAX_RELEASE = 64 * 1024
"""Bytes of an encoded release."""
MAX_RESOURCES = 32
REPORT_DATA_SIZE = 64
NONCE_SIZE = 32
_LABEL = FORMAT.encode() + b"\0"
_AEAD = AEADS[0x0002]
_BY_NAME = {kem.name: kem for kem in KEMS.values()}
_MAX_LOG = 2**53 - 1
_MAX_KEY = 1024


@dataclass(frozen=True)
class Released:
    """A key that is released: its resource and generation, its check value, and the owner's policy (SHA-256)."""

    resource: str
    generation: int
    check: bytes
    policy_sha256: bytes


@dataclass(frozen=True)
class LogHead:
    """The number of entries of the broker's log with that of this release, and the root of their Merkle tree."""

    size: int
    root: bytes


@dataclass(frozen=True)
class Statement:
    """What a broker says of a release. ``broker`` is its public key, ``report_data`` that of the judged document."""

    broker: bytes
    kem: str
    report_data: bytes
    resources: tuple[Released, ...]
    log: LogHead

    def encode(self) -> bytes:
        """The statement as canonical JSON."""
        return canonical(
            {
                "format": FORMAT,
                "broker": self.broker.hex(),
                "kem": self.kem,
                "report_data": self.report_data.hex(),
                "resources": [
                    {
                        "resource": each.resource,
                        "generation": each.generation,
                        "check": each.check.hex(),
                        "policy_sha256": each.policy_sha256.hex(),
                    }
                    for each in self.resources
                ],
                "log": {"size": self.log.size, "root": self.log.root.hex()},
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Statement:
        """Parse a statement; ``EvidenceError`` for anything but these fields in canonical JSON."""
        fields = Fields(loads(data, what="release statement", limit=MAX_RELEASE), "statement")
        fields.text("format", one_of=(FORMAT,))
        broker = fields.hexadecimal("broker", 32)
        kem = fields.text("kem", one_of=tuple(_BY_NAME))
        report_data = fields.hexadecimal("report_data", REPORT_DATA_SIZE)
        items = fields.array("resources", limit=MAX_RESOURCES)
        resources = tuple(_released(Fields(item, f"statement.resources[{n}]")) for n, item in enumerate(items))
        log = fields.fields("log")
        head = LogHead(log.integer("size", low=1, high=_MAX_LOG), log.hexadecimal("root", 32))
        log.end()
        fields.end()
        names = [each.resource for each in resources]
        if not names or len(set(names)) != len(names):
            raise EvidenceError("statement.resources: expected at least one, each resource once")
        found = cls(broker, kem, report_data, resources, head)
        if found.encode() != data:
            raise EvidenceError("release statement: not canonical JSON")
        return found


@dataclass(frozen=True)
class Release:
    """A release as it is carried: the statement's bytes, the sealed keys, and the broker's signature over both."""

    statement: bytes
    sealed: bytes
    signature: bytes

    def encode(self) -> bytes:
        """The JSON object that a courier carries."""
        return canonical(
            {"statement": b64(self.statement), "sealed": b64(self.sealed), "signature": b64(self.signature)}
        )

    @classmethod
    def decode(cls, data: bytes) -> Release:
        """Parse one; ``EvidenceError`` for anything but these fields, or above 64 KiB."""
        fields = Fields(loads(data, what="release", limit=MAX_RELEASE), "release")
        parts = (fields.base64(name, limit=MAX_RELEASE) for name in ("statement", "sealed", "signature"))
        found = cls(*parts)
        fields.end()
        return found

    def statement_by(self, brokers: Callable[[bytes], bool]) -> Statement:
        """The statement, if one of ``brokers`` (true for its public key) signed this release.

        ``Refused`` for another broker, or a signature that is not its own.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        said = Statement.decode(self.statement)
        if not brokers(said.broker):
            raise Refused(f"release: by broker {said.broker.hex()}, which the measured configuration does not name")
        try:
            Ed25519PublicKey.from_public_bytes(said.broker).verify(
                self.signature, _signed(self.statement, self.sealed)
            )
        except (InvalidSignature, ValueError):
            raise Refused("release: the broker's signature is wrong") from None
        return said

    def open(self, said: Statement, key: PrivateKey) -> tuple[bytes, ...]:
        """The keys, in the order of the statement's resources; ``CannotOpen`` if they are not sealed to ``key``.

        ``EvidenceError`` if the sealed list is not that of the statement.
        """
        if said.kem != key.kem.name:
            raise EvidenceError(f"release: sealed by {said.kem}, expected {key.kem.name}")
        size = key.kem.encapsulated_size
        if len(self.sealed) <= size:
            raise CannotOpen
        recipient = Recipient(key, _AEAD, self.sealed[:size], _info(self.statement))
        return _keys(recipient.open(self.sealed[size:]), said)


def seal(said: Statement, keys: tuple[bytes, ...], public: bytes, sign: Callable[[bytes], bytes]) -> Release:
    """A release of ``keys``, one for each resource of ``said`` in order, to the release key ``public`` of a guest.

    ``ValueError`` if ``public`` is not a usable key of the statement's KEM.
    """
    statement = said.encode()
    listed = [
        {"resource": each.resource, "generation": each.generation, "key": b64(key)}
        for each, key in zip(said.resources, keys, strict=True)
    ]
    sender = Sender(_BY_NAME[said.kem], _AEAD, public, _info(statement))
    sealed = sender.encapsulated + sender.seal(canonical({"keys": listed}))
    return Release(statement, sealed, sign(_signed(statement, sealed)))


def kem_named(name: str) -> Kem:
    """The KEM of a release key's algorithm."""
    return _BY_NAME[name]


def _info(statement: bytes) -> bytes:
    return _LABEL + hashlib.sha256(statement).digest()


def _signed(statement: bytes, sealed: bytes) -> bytes:
    return _info(statement) + hashlib.sha256(sealed).digest()


def _released(fields: Fields) -> Released:
    released = Released(
        resource_of(fields),
        generation_of(fields),
        fields.hexadecimal("check", 32),
        fields.hexadecimal("policy_sha256", 32),
    )
    fields.end()
    return released


def _keys(plain: bytes, said: Statement) -> tuple[bytes, ...]:
    fields = Fields(loads(plain, what="released keys", limit=MAX_RELEASE), "released keys")
    items = fields.array("keys", limit=MAX_RESOURCES)
    fields.end()
    if len(items) != len(said.resources):
        raise EvidenceError(f"released keys: {len(items)}, expected {len(said.resources)} as in the statement")
    return tuple(_key(Fields(item, f"keys[{n}]"), said.resources[n]) for n, item in enumerate(items))


def _key(fields: Fields, said: Released) -> bytes:
    name, generation = resource_of(fields), generation_of(fields)
    key = fields.base64("key", limit=_MAX_KEY)
    fields.end()
    if (name, generation) != (said.resource, said.generation):
        raise EvidenceError("released keys: not in the order of the statement's resources")
    return key


@dataclass(frozen=True)
class Request:
    """What a courier asks a broker: the challenge's nonce, the guest's document, and the wanted resources.

    A resource is its name and generation.
    """

    nonce: bytes
    document: bytes
    resources: tuple[tuple[str, int], ...]

    def encode(self) -> bytes:
        """The request's JSON body."""
        listed: list[dict[str, Any]] = [{"resource": name, "generation": number} for name, number in self.resources]
        return canonical(
            {
                "format": REQUEST_FORMAT,
                "nonce": self.nonce.hex(),
                "document": b64(self.document),
                "resources": listed,
            }
        )

    @classmethod
    def decode(cls, data: bytes, *, limit: int) -> Request:
        """Parse one of at most ``limit`` bytes; ``EvidenceError`` for anything but these fields."""
        fields = Fields(loads(data, what="release request", limit=limit), "request")
        fields.text("format", one_of=(REQUEST_FORMAT,))
        nonce = fields.hexadecimal("nonce", NONCE_SIZE)
        document = fields.base64("document", limit=limit)
        resources = []
        for number, item in enumerate(fields.array("resources", limit=MAX_RESOURCES)):
            wanted = Fields(item, f"request.resources[{number}]")
            resources.append((resource_of(wanted), generation_of(wanted)))
            wanted.end()
        fields.end()
        names = [name for name, _ in resources]
        if not names or len(set(names)) != len(names):
            raise EvidenceError("request.resources: expected at least one, each resource once")
        return cls(nonce, document, tuple(resources))
