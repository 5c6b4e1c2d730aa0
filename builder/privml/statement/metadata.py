"""TUF metadata (specification 1.0, theupdateframework.github.io) in the profile that published measurements use.

Stricter than the specification, so that each document has one meaning (ADR 0060):

- a key's id is the SHA-256 of its SPKI, so one key has one id; the kinds are those of `statement.keys`;
- ``consistent_snapshot`` is true, and every file is named with version, length and SHA-256;
- the top-level targets role names no target; it delegates ``NAME/*`` to a terminating role NAME for each image;
- the role NAME names exactly one target, ``NAME/index.json``, and delegates nothing;
- a root may have ``demonstration``: true, which says that one person made all keys (ADR 0070);
- other fields are refused.

Signatures cover the OLPC canonical JSON of the member ``signed``, as the specification says.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import Fields, loads
from privml.base.times import seconds_of, time_text
from privml.statement.index import INDEX_FILE, MAX_INDEX
from privml.statement.keys import Role
from privml.statement.names import is_name
from privml.statement.tufkeys import keys_from, keys_to_dict, role_from, role_to_dict

SPEC_VERSION = "1.0.33"
ROOT, TIMESTAMP, SNAPSHOT, TARGETS = "root", "timestamp", "snapshot", "targets"
TOP_LEVEL = (ROOT, SNAPSHOT, TARGETS, TIMESTAMP)
MAX_SIGNATURES = 64
MAX_SIGNATURE = 1024
MAX_IMAGES = 1024
MAX_METADATA = 1 << 20
"""Bytes of one metadata file."""
MAX_VERSION = 2**31 - 1
_SPEC = re.compile(r"1\.0\.[0-9]{1,3}")


def olpc(value: Any) -> bytes:
    """OLPC canonical JSON: sorted keys, no blanks, and in strings only ``\\`` and ``"`` are escaped."""
    if isinstance(value, str):
        return ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"').encode("utf-8")
    if isinstance(value, dict):
        return b"{" + b",".join(olpc(key) + b":" + olpc(value[key]) for key in sorted(value)) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(olpc, value)) + b"]"
    if value is None or isinstance(value, bool | int):
        return json.dumps(value).encode("ascii")
    raise ValueError(f"{type(value).__name__} has no canonical JSON form")


@dataclass(frozen=True)
class FileInfo:
    """Version, length and SHA-256 (32 bytes) of a metadata file."""

    version: int
    length: int
    sha256: bytes

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {"version": self.version, "length": self.length, "hashes": {"sha256": self.sha256.hex()}}

    @classmethod
    def from_fields(cls, fields: Fields) -> FileInfo:
        """The inverse of ``to_dict``."""
        hashes = fields.fields("hashes")
        made = cls(
            fields.integer("version", low=1, high=MAX_VERSION),
            fields.integer("length", low=1, high=MAX_METADATA),
            hashes.hexadecimal("sha256", 32),
        )
        hashes.end()
        fields.end()
        return made


@dataclass(frozen=True)
class Metadata:
    """What all metadata has: its version, and when it ``expires`` (Unix seconds)."""

    type: ClassVar[str]
    version: int
    expires: int

    def to_dict(self) -> dict[str, Any]:
        """The member ``signed``."""
        return {
            "_type": self.type,
            "spec_version": SPEC_VERSION,
            "version": self.version,
            "expires": time_text(self.expires),
            **self.own_dict(),
        }

    @abstractmethod
    def own_dict(self) -> dict[str, Any]:
        """The fields of this type."""

    @classmethod
    @abstractmethod
    def from_fields(cls, fields: Fields, version: int, expires: int) -> Any:
        """Read the fields of this type."""


Body = TypeVar("Body", bound=Metadata)


@dataclass(frozen=True)
class Root(Metadata):
    """The keys of the four top-level roles. A ``demonstration``'s were all made by one person."""

    type = ROOT
    roles: Mapping[str, Role]
    demonstration: bool = False

    def own_dict(self) -> dict[str, Any]:
        """``consistent_snapshot``, ``keys`` and ``roles``, and the mark of a demonstration."""
        return {
            **({"demonstration": True} if self.demonstration else {}),
            "consistent_snapshot": True,
            "keys": keys_to_dict(self.roles.values()),
            "roles": {name: role_to_dict(role) for name, role in self.roles.items()},
        }

    @classmethod
    def from_fields(cls, fields: Fields, version: int, expires: int) -> Root:
        """The inverse of ``own_dict``."""
        if not fields.boolean("consistent_snapshot"):
            raise EvidenceError(f"{fields.path}.consistent_snapshot: got false, expected true")
        keys = keys_from(fields.fields("keys"))
        roles = fields.fields("roles")
        found = {name: role_from(roles.fields(name), keys) for name in TOP_LEVEL}
        roles.end()
        marked = fields.has("demonstration")
        if marked and not fields.boolean("demonstration"):
            raise EvidenceError(f"{fields.path}.demonstration: got false, expected true or no such field")
        return cls(version, expires, found, marked)


@dataclass(frozen=True)
class Timestamp(Metadata):
    """The newest snapshot."""

    type = TIMESTAMP
    snapshot: FileInfo

    def own_dict(self) -> dict[str, Any]:
        """``meta``."""
        return {"meta": {"snapshot.json": self.snapshot.to_dict()}}

    @classmethod
    def from_fields(cls, fields: Fields, version: int, expires: int) -> Timestamp:
        """The inverse of ``own_dict``."""
        meta = fields.fields("meta")
        snapshot = FileInfo.from_fields(meta.fields("snapshot.json"))
        meta.end()
        return cls(version, expires, snapshot)


@dataclass(frozen=True)
class Snapshot(Metadata):
    """The newest metadata of the targets role and of each image, by role."""

    type = SNAPSHOT
    meta: Mapping[str, FileInfo]

    def own_dict(self) -> dict[str, Any]:
        """``meta``."""
        return {"meta": {f"{role}.json": info.to_dict() for role, info in self.meta.items()}}

    @classmethod
    def from_fields(cls, fields: Fields, version: int, expires: int) -> Snapshot:
        """The inverse of ``own_dict``."""
        meta = fields.fields("meta")
        names = meta.names()
        if len(names) > MAX_IMAGES + 1:
            raise EvidenceError(f"{meta.path}: {len(names)} files, expected at most {MAX_IMAGES + 1}")
        found = {}
        for file in names:
            role = file.removesuffix(".json")
            if role == file or not (role == TARGETS or is_name(role)):
                raise EvidenceError(f"{meta.path}: `{printable(file)[:80]}`, expected targets.json or an image's")
            found[role] = FileInfo.from_fields(meta.fields(file))
        if TARGETS not in found:
            raise EvidenceError(f"{meta.path}: no targets.json")
        return cls(version, expires, found)


@dataclass(frozen=True)
class Targets(Metadata):
    """The publishers of each image: the role that must sign its index and its statements."""

    type = TARGETS
    images: Mapping[str, Role]

    def own_dict(self) -> dict[str, Any]:
        """``targets``, which is empty, and ``delegations``."""
        rows = [
            {"name": name, "paths": [f"{name}/*"], "terminating": True, **role_to_dict(role)}
            for name, role in self.images.items()
        ]
        return {"targets": {}, "delegations": {"keys": keys_to_dict(self.images.values()), "roles": rows}}

    @classmethod
    def from_fields(cls, fields: Fields, version: int, expires: int) -> Targets:
        """The inverse of ``own_dict``."""
        fields.fields("targets").end()
        delegations = fields.fields("delegations")
        keys = keys_from(delegations.fields("keys"), MAX_IMAGES)
        images: dict[str, Role] = {}
        for number, item in enumerate(delegations.array("roles", limit=MAX_IMAGES)):
            row = Fields(item, f"{delegations.path}.roles[{number}]")
            name = row.text("name", limit=63)
            if not is_name(name) or name in images:
                raise EvidenceError(f"{row.path}.name: got `{printable(name)}`, expected an image's name, each once")
            if row.take("paths") != [f"{name}/*"] or not row.boolean("terminating"):
                raise EvidenceError(f"{row.path}: expected the path `{name}/*` and a terminating role")
            images[name] = role_from(row, keys)
        delegations.end()
        return cls(version, expires, images)


@dataclass(frozen=True)
class ImageTargets(Metadata):
    """The index of image ``name``: length and SHA-256 (32 bytes)."""

    type = TARGETS
    name: str
    length: int
    sha256: bytes

    def own_dict(self) -> dict[str, Any]:
        """``targets``: the index."""
        target = {"length": self.length, "hashes": {"sha256": self.sha256.hex()}}
        return {"targets": {f"{self.name}/{INDEX_FILE}": target}}

    @classmethod
    def from_fields(cls, fields: Fields, version: int, expires: int) -> ImageTargets:
        """The inverse of ``own_dict``."""
        targets = fields.fields("targets")
        paths = targets.names()
        name = paths[0].removesuffix(f"/{INDEX_FILE}") if len(paths) == 1 else ""
        if not is_name(name) or paths[0] != f"{name}/{INDEX_FILE}":
            raise EvidenceError(f"{targets.path}: {len(paths)} targets, expected only an image's `NAME/{INDEX_FILE}`")
        target = targets.fields(paths[0])
        hashes = target.fields("hashes")
        length = target.integer("length", low=1, high=MAX_INDEX)
        made = cls(version, expires, name, length, hashes.hexadecimal("sha256", 32))
        hashes.end()
        target.end()
        return made


@dataclass(frozen=True)
class Signed(Generic[Body]):
    """Metadata with the canonical bytes that are signed, and the signatures (key id, signature) over them."""

    body: Body
    data: bytes
    signatures: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(cls, body: Body) -> Signed[Body]:
        """New metadata, not signed yet."""
        return cls(body, olpc(body.to_dict()))

    def with_signature(self, keyid: str, signature: bytes) -> Signed[Body]:
        """The same with this signature, in place of an older one of that key."""
        others = tuple(each for each in self.signatures if each[0] != keyid)
        return Signed(self.body, self.data, tuple(sorted((*others, (keyid, signature)))))

    def encode(self) -> bytes:
        """The metadata file: indented JSON."""
        rows = [{"keyid": keyid, "sig": signature.hex()} for keyid, signature in self.signatures]
        document = {"signatures": rows, "signed": json.loads(self.data.decode("utf-8"), strict=False)}
        return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode("ascii")


def decode(kind: type[Body], data: bytes, what: str) -> Signed[Body]:
    """Read metadata of ``kind``; ``EvidenceError`` if it is malformed. No signature is verified here."""
    fields = Fields(loads(data, what=what, limit=MAX_METADATA), what)
    rows = fields.array("signatures", limit=MAX_SIGNATURES)
    value = fields.take("signed")
    fields.end()
    signatures = tuple(_signature(Fields(row, f"{what}.signatures[{number}]")) for number, row in enumerate(rows))
    inner = Fields(value, f"{what}.signed")
    inner.text("_type", one_of=(kind.type,))
    spec = inner.text("spec_version", limit=16)
    if not _SPEC.fullmatch(spec):
        raise EvidenceError(f"{inner.path}.spec_version: got `{printable(spec)}`, expected 1.0.N")
    version = inner.integer("version", low=1, high=MAX_VERSION)
    body: Body = kind.from_fields(inner, version, _time_of(inner))
    inner.end()
    return Signed(body, olpc(value), signatures)


def _time_of(fields: Fields) -> int:
    text = fields.text("expires", limit=20)
    try:
        return seconds_of(text)
    except ValueError as error:
        raise EvidenceError(f"{fields.path}.expires: {error}") from error


def _signature(fields: Fields) -> tuple[str, bytes]:
    keyid, signature = fields.hexadecimal("keyid", 32), fields.hexadecimal("sig")
    fields.end()
    if not 1 <= len(signature) <= MAX_SIGNATURE:
        raise EvidenceError(f"{fields.path}.sig: {len(signature)} bytes, expected 1 to {MAX_SIGNATURE}")
    return keyid.hex(), signature
