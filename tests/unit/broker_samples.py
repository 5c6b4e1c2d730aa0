"""A key broker over a new store, the guest that it waits for, and its owners."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import attestation_samples as samples
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privml.base import dsse
from privml.channel.kem import X25519, Kem, PrivateKey
from privml.channel.release import Release, Request, Statement
from privml.client import attested
from privml.events.stages import KEY_RELEASE
from privml.evidence.document import Document
from privml.evidence.sections import CHANNEL_KEY, TLS_KEY, Key, Keys
from privml.keybroker import kek, resources, store
from privml.keybroker.broker import Broker
from privml.keybroker.challenges import Challenges
from privml.keybroker.policy import Document as Signable
from privml.keybroker.policy import ReleasePolicy, sign
from privml.keybroker.store import Store
from privml.output.volumekey import VolumeKey
from privml.publish.signer import KeySigner
from privml.statement import predicate
from privml.statement.keys import Role
from privml.verify.anchor import Built, Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

RESOURCE = "model/qwen"
SIGNER = Ed25519PrivateKey.from_private_bytes(b"b" * 32)
BROKER = SIGNER.public_key().public_bytes_raw()
OWNERS = [KeySigner.of(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in (1, 2, 3)]
PREDICATE = dataclasses.replace(samples.PREDICATE, purposes={"key-release": 1, "serve": 4})
IMAGE = hashlib.sha256(predicate.encode(PREDICATE)).digest()
EXPECTED = Expected(PREDICATE, Built("out/demo-cpu"))
VERIFYING = Policy(purpose=KEY_RELEASE, allow_simulated=samples.ROOT)


def role(count: int = 1, threshold: int | None = None) -> Role:
    """The first owners, all of whom must sign unless ``threshold`` says how many."""
    return Role(tuple(each.public for each in OWNERS[:count]), threshold or count)


def policy(**changes: Any) -> ReleasePolicy:
    """The owner's policy, which allows the honest guest."""
    fields: dict[str, Any] = {
        "resource": RESOURCE,
        "broker": BROKER,
        "serial": 1,
        "images": (IMAGE,),
        "not_after": samples.NOW + 1000,
        "simulated": True,
        **changes,
    }
    return ReleasePolicy(**fields)


def signed(document: Signable, *numbers: int) -> dsse.Envelope:
    """``document`` signed by the owners of these numbers (0: the first)."""
    bare = sign(document)
    made = [dsse.Signature(OWNERS[n].sign(bare.signed), OWNERS[n].public.keyid) for n in numbers or (0,)]
    return sign(document, tuple(made))


@dataclass
class Guest:
    """A guest at stage `keys`, with its release keys."""

    private: Sequence[PrivateKey] = field(default_factory=lambda: [X25519.generate()])

    @property
    def keys(self) -> Keys:
        """Its keys section."""
        others = [Key(*TLS_KEY, samples.SPKI), Key(*CHANNEL_KEY, bytes(32))]
        made = [*others, *(Key("release", key.kem.name, key.public) for key in self.private)]
        return Keys(tuple(sorted(made, key=lambda key: (key.use, key.alg))))

    def document(self, nonce: bytes, **changes: Any) -> Document:
        """Its document for key release."""
        given: dict[str, Any] = {
            "keys": self.keys,
            "nonce": nonce,
            "agent_events": samples.AGENT_EVENTS[:1],
            "purpose": KEY_RELEASE,
            **changes,
        }
        return samples.document(**given)

    def opened(self, body: bytes, broker: bytes) -> tuple[Statement, tuple[bytes, ...]]:
        """The statement and the keys in a release to this guest."""
        release = Release.decode(body)
        said = release.statement_by(lambda key: key == broker)
        key = next(key for key in self.private if key.kem.name == said.kem)
        return said, release.open(said, key)


def guest(*kems: Kem) -> Guest:
    """A guest with a key of each of these KEMs."""
    return Guest([kem.generate() for kem in kems])


def judge(document: bytes, nonce: bytes, expected: Expected = EXPECTED, criteria: Policy = VERIFYING) -> Judgement:
    """What a broker's verifier says of a document, at the time of the samples."""
    return attested.judge(
        document, expected, criteria, now=samples.NOW, nonce=nonce, tls_spki_sha256=None, carried=True
    )


@dataclass
class Desk:
    """A broker with one resource, whose policy allows the honest guest."""

    path: Path
    kek: str
    store: Store
    broker: Broker
    key: VolumeKey

    def nonce(self) -> bytes:
        """A nonce of the broker's."""
        answer = self.broker.challenge()
        assert answer.status == 200, answer
        return bytes.fromhex(json.loads(answer.body)["nonce"])

    def ask(self, made: Guest, *wanted: tuple[str, int], **changes: Any) -> tuple[int, dict[str, Any], bytes]:
        """Status, JSON and bytes of the answer to a request of ``made``, for the one key unless others are wanted."""
        nonce = self.nonce()
        request = Request(nonce, made.document(nonce, **changes).encode(), wanted or ((RESOURCE, 1),))
        return self.send(request)

    def send(self, request: Request) -> tuple[int, dict[str, Any], bytes]:
        """The same for any request."""
        answer = self.broker.release(request.encode())
        return answer.status, json.loads(answer.body), answer.body

    def entries(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.store.lines()]


def codes(answer: tuple[int, dict[str, Any], bytes]) -> list[str]:
    """The error's code, then those of the refusals."""
    _, told, _ = answer
    return [told["error"]["code"], *(each["code"] for each in told["refusals"])]


@contextlib.contextmanager
def desk(
    folder: Path,
    *,
    development: bool = True,
    owners: Role | None = None,
    signer: Ed25519PrivateKey = SIGNER,
    **changes: Any,
) -> Iterator[Desk]:
    """A new store in ``folder`` with a resource and a policy (``changes`` of `policy`), and its broker."""
    path = folder / "broker.store"
    uri = f"file:{folder}/broker.kek"
    signing = mock.patch.object(store, "Ed25519PrivateKey", mock.Mock(generate=lambda: signer))
    with contextlib.ExitStack() as stack:
        with signing:
            made = stack.enter_context(store.create(path, kek.make(uri), development=development))
        key = resources.add(made, RESOURCE, owners or role())
        if owners is None:
            resources.set_policy(made, signed(policy(**{"broker": made.public, **changes})))
        yield Desk(path, uri, made, Broker(made, judge, lambda: samples.NOW, Challenges()), key)
