"""The owners' policy for one resource: which guests get its key. Signed by k of n owners as a DSSE envelope.

The payload is canonical JSON. Its serial only grows, so an older policy cannot come back. Owners change in the same
way, by a list of the next owners that enough of the present ones signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused
from privml.base.resource import resource_of
from privml.base.strictjson import Fields, canonical, loads
from privml.base.times import MAX_TIME
from privml.keybroker.machineids import ids, ids_or_null, ordered
from privml.keybroker.snprelease import SnpRelease
from privml.statement.keys import MAX_KEYS, Role
from privml.statement.signed import verify
from privml.statement.tufkeys import key_from, key_to_dict, role_from, role_to_dict
from privml.statement.untrusted import UntrustedError

POLICY = "privml-release-policy/v1"
OWNERS = "privml-release-owners/v1"
POLICY_TYPE = "application/vnd.privml.release-policy+json"
OWNERS_TYPE = "application/vnd.privml.release-owners+json"
MAX_POLICY = 1024 * 1024
MAX_IMAGES = 1024
MAX_ADVISORIES = 256
MAX_COUNT = 2**53 - 1
PPID_SIZE = 16


@dataclass(frozen=True)
class ReleasePolicy:
    """What a guest must be to get the key of ``resource`` from ``broker``, named by its Ed25519 public key.

    ``images`` are SHA-256 digests of predicates. ``not_after`` is in Unix seconds by the broker's clock.
    ``max_releases`` counts those under this policy (None: any number). ``simulated`` allows simulated evidence, at a
    development broker only.

    Of TDX machines, ``denied`` are those (PPIDs of 16 bytes) that never get it, ``platforms`` the only ones that do
    (None: any). ``snp`` says which SEV-SNP guests get it; without it, none does.
    """

    resource: str
    broker: bytes
    serial: int
    images: tuple[bytes, ...]
    not_after: int
    denied: tuple[bytes, ...] = ()
    platforms: tuple[bytes, ...] | None = None
    min_tcb_evaluation: int = 0
    advisories_denied: tuple[str, ...] = ()
    max_releases: int | None = None
    simulated: bool = False
    snp: SnpRelease | None = None

    def encode(self) -> bytes:
        """The payload. It has ``snp`` only where there is one, so that policies from before it still count."""
        snp = {} if self.snp is None else {"snp": self.snp.to_dict()}
        return canonical(
            {
                **snp,
                "format": POLICY,
                "resource": self.resource,
                "broker": self.broker.hex(),
                "serial": self.serial,
                "images": [{"predicate_sha256": each.hex()} for each in self.images],
                "denied": [each.hex() for each in self.denied],
                "platforms": None if self.platforms is None else [each.hex() for each in self.platforms],
                "min_tcb_evaluation": self.min_tcb_evaluation,
                "advisories_denied": list(self.advisories_denied),
                "not_after": self.not_after,
                "max_releases": self.max_releases,
                "simulated": self.simulated,
            }
        )

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the payload, by which releases and the log name the policy."""
        return _sha256(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> ReleasePolicy:
        """Read a payload; ``EvidenceError`` for anything but these fields in canonical JSON, lists sorted."""
        fields = Fields(loads(data, what="release policy", limit=MAX_POLICY), "policy")
        fields.text("format", one_of=(POLICY,))
        images = []
        for number, item in enumerate(fields.array("images", limit=MAX_IMAGES)):
            image = Fields(item, f"policy.images[{number}]")
            images.append(image.hexadecimal("predicate_sha256", 32))
            image.end()
        policy = cls(
            resource=resource_of(fields),
            broker=fields.hexadecimal("broker", 32),
            serial=_serial(fields),
            images=ordered(images, "policy.images"),
            denied=ids(fields, "denied", PPID_SIZE),
            platforms=ids_or_null(fields, "platforms", PPID_SIZE),
            min_tcb_evaluation=fields.integer("min_tcb_evaluation", high=2**31),
            advisories_denied=_advisories(fields),
            not_after=fields.integer("not_after", low=1, high=MAX_TIME),
            max_releases=_count(fields),
            simulated=fields.boolean("simulated"),
            snp=SnpRelease.from_fields(fields.fields("snp")) if fields.has("snp") else None,
        )
        fields.end()
        if not policy.images:
            raise EvidenceError("policy.images: no items, expected at least one image")
        if policy.encode() != data:
            raise EvidenceError("release policy: not canonical JSON")
        return policy


@dataclass(frozen=True)
class Owners:
    """The next owners of a resource at ``broker``: their keys, and how many of them must sign its policies."""

    resource: str
    broker: bytes
    serial: int
    role: Role

    def encode(self) -> bytes:
        """The payload."""
        said = {"format": OWNERS, "resource": self.resource, "broker": self.broker.hex(), "serial": self.serial}
        return canonical({**said, **owners_dict(self.role)})

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the payload, by which the log names it."""
        return _sha256(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Owners:
        """Read a payload; ``EvidenceError`` for anything but these fields in canonical JSON."""
        fields = Fields(loads(data, what="owners", limit=MAX_POLICY), "owners")
        fields.text("format", one_of=(OWNERS,))
        owners = cls(resource_of(fields), fields.hexadecimal("broker", 32), _serial(fields), owners_from(fields))
        if owners.encode() != data:
            raise EvidenceError("owners: not canonical JSON")
        return owners


def owners_dict(role: Role) -> dict[str, object]:
    """``{"keys": [KEY...], "keyids": [hex...], "threshold": n}``, sorted by id."""
    return {"keys": [key_to_dict(key) for key in role.keys], **role_to_dict(role)}


def owners_from(fields: Fields) -> Role:
    """Read the rest of ``fields`` as owners; ``EvidenceError`` if they are none."""
    rows = fields.array("keys", limit=MAX_KEYS)
    found = [key_from(row, f"{fields.path}.keys[{number}]") for number, row in enumerate(rows)]
    return role_from(fields, {key.keyid: key for key in found})


Document = ReleasePolicy | Owners


@dataclass(frozen=True)
class Accepted:
    """A document that enough owners signed, and the ids of those who did."""

    document: Document
    signers: tuple[str, ...]


_DECODERS: dict[str, Callable[[bytes], Document]] = {POLICY_TYPE: ReleasePolicy.decode, OWNERS_TYPE: Owners.decode}


def read_unsigned(envelope: dsse.Envelope) -> Document:
    """What an envelope says, whoever signed it; ``EvidenceError`` if it is neither policy nor owners."""
    decode = _DECODERS.get(envelope.payload_type)
    if decode is None:
        raise EvidenceError(f"envelope of type `{envelope.payload_type}`, expected one of {', '.join(_DECODERS)}")
    return decode(envelope.payload)


def payload_type(document: Document) -> str:
    """The payload type of a document's envelope."""
    return POLICY_TYPE if isinstance(document, ReleasePolicy) else OWNERS_TYPE


def accept(envelope: dsse.Envelope, resource: str, owners: Role, serial: int, *, broker: bytes) -> Accepted:
    """The document in ``envelope``, if it is for ``resource`` at ``broker``, newer than ``serial`` and signed.

    Enough of ``owners`` must have signed it; ``Refused`` if not, by name. The next owners must sign as well, so that
    nobody is locked out by a wrong key.
    """
    kind = envelope.payload_type
    if kind not in _DECODERS:
        raise EvidenceError(f"envelope of type `{kind}`, expected one of {', '.join(_DECODERS)}")
    signers = _signed(envelope, owners, "the present owners")
    document = read_unsigned(envelope)
    if document.resource != resource:
        raise Refused(f"policy-resource: got `{document.resource}`, expected `{resource}`")
    if document.broker != broker:
        raise Refused(
            f"policy-broker: for the broker with key {document.broker.hex()}, expected {broker.hex()}",
            hint="a policy counts at one broker: `keys show` prints its key, for `keys policy new --broker`",
        )
    if document.serial <= serial:
        raise Refused(
            f"policy-serial: got serial {document.serial}, expected more than {serial}",
            hint="an older policy never comes back: sign it again with the next serial",
        )
    if isinstance(document, Owners):
        _signed(envelope, document.role, "the next owners")
    return Accepted(document, signers)


def _signed(envelope: dsse.Envelope, role: Role, who: str) -> tuple[str, ...]:
    try:
        return verify(envelope, role, payload_type=envelope.payload_type, what="the envelope").signers
    except UntrustedError as error:
        raise Refused(
            f"policy-signatures: signed by too few of {who}: {error.message}",
            hint="collect signatures with `privml-build keys policy sign FILE --key URI`, one owner after the other",
        ) from error
    except EvidenceError as error:
        raise Refused(f"policy-signatures: {error.message}") from error


def sign(document: Document, signatures: tuple[dsse.Signature, ...] = ()) -> dsse.Envelope:
    """An envelope of ``document`` with ``signatures``."""
    return dsse.Envelope(payload_type(document), document.encode(), signatures)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _serial(fields: Fields) -> int:
    return fields.integer("serial", low=1, high=MAX_COUNT)


def _advisories(fields: Fields) -> tuple[str, ...]:
    found = fields.array("advisories_denied", limit=MAX_ADVISORIES)
    if not all(isinstance(each, str) and 0 < len(each) <= 64 for each in found) or found != sorted(set(found)):
        raise EvidenceError("policy.advisories_denied: expected names like INTEL-SA-00837, sorted, each once")
    return tuple(found)


def _count(fields: Fields) -> int | None:
    value = fields.take("max_releases")
    return None if value is None else Fields({"max_releases": value}, fields.path).integer("max_releases")
