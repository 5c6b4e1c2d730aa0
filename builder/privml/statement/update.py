"""Trust in published measurements, built up from a root: the client's workflow of TUF 1.0 (section 5).

Each step takes a file's bytes, checks them, and says what the next file is. No I/O and no clock: what has expired is
a fact for the caller's policy. `Memory` is what a client remembers, so that nothing older is accepted again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads
from privml.statement import index as indexes
from privml.statement import metadata
from privml.statement.index import Index
from privml.statement.keys import Role
from privml.statement.metadata import (
    MAX_IMAGES,
    MAX_VERSION,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    FileInfo,
    ImageTargets,
    Metadata,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from privml.statement.names import is_name
from privml.statement.untrusted import UntrustedError

MEMORY_FORMAT = "privml-trust-memory/v1"
MAX_MEMORY = 1 << 20
MAX_ROOTS = 256
"""Root versions that a client walks at a time."""
Body = TypeVar("Body", bound=Metadata)
_PUBLISHER = "the publisher must sign again with the keys of the root"


@dataclass(frozen=True)
class Memory:
    """The newest versions that were accepted under a root; zero and empty before the first time.

    ``online`` names the keys of timestamp and snapshot (hex SHA-256): when they are replaced, versions that only they
    had vouched for are forgotten, so that a stolen online key cannot block a repository by signing huge numbers.
    ``minimum`` is the lowest serial of each image, which no key makes forgotten.
    """

    root: int = 0
    online: str = ""
    timestamp: int = 0
    snapshot: int = 0
    roles: Mapping[str, int] = field(default_factory=dict)
    minimum: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode as canonical JSON."""
        return canonical(
            {
                "format": MEMORY_FORMAT,
                "root": self.root,
                "online": self.online,
                "timestamp": self.timestamp,
                "snapshot": self.snapshot,
                "roles": dict(self.roles),
                "minimum": dict(self.minimum),
            }
        )

    @classmethod
    def decode(cls, data: bytes, what: str) -> Memory:
        """Read a memory; ``EvidenceError`` if it is malformed."""
        fields = Fields(loads(data, what=what, limit=MAX_MEMORY), what)
        fields.text("format", one_of=(MEMORY_FORMAT,))
        made = cls(
            fields.integer("root", high=MAX_VERSION),
            fields.text("online", limit=64),
            fields.integer("timestamp", high=MAX_VERSION),
            fields.integer("snapshot", high=MAX_VERSION),
            _numbers(fields.fields("roles"), (TARGETS,)),
            _numbers(fields.fields("minimum"), ()),
        )
        fields.end()
        return made


def _numbers(fields: Fields, others: tuple[str, ...]) -> dict[str, int]:
    names = fields.names()
    if len(names) > MAX_IMAGES + 1 or not all(name in others or is_name(name) for name in names):
        raise EvidenceError(f"{fields.path}: expected the names of images")
    return {name: fields.integer(name) for name in names}


class Update:
    """One pass over a repository, from a trusted root to the index of an image.

    Call ``root`` for each version after the trusted one, then ``timestamp``, ``snapshot``, ``targets``, ``image`` and
    ``index`` in this order. ``EvidenceError`` for malformed metadata, ``UntrustedError`` for what the root does not
    vouch for. ``expiries`` has the end (Unix seconds) of each role's metadata so far, ``memory`` what to remember.
    """

    def __init__(self, root: bytes, memory: Memory) -> None:
        found = metadata.decode(Root, root, "trusted root")
        _enough(found.body.roles[ROOT], found, "trust-root", "the trusted root")
        self._root = found.body
        self._before = memory
        self.memory = memory
        self.expiries: dict[str, int] = {ROOT: self._root.expires}
        self._snapshot_info: FileInfo | None = None
        self._snapshot: Snapshot | None = None
        self._targets: Targets | None = None
        self._image: ImageTargets | None = None

    @property
    def next_root(self) -> int:
        """The version of root that may come next."""
        return self._root.version + 1

    @property
    def demonstration(self) -> bool:
        """True if the root says that one person made all keys."""
        return self._root.demonstration

    def root(self, data: bytes) -> None:
        """Take the next version of root: signed by enough keys of the last one and of its own."""
        found = metadata.decode(Root, data, f"{self.next_root}.root")
        if found.body.version != self.next_root:
            raise UntrustedError("trust-root", f"root version {found.body.version}", f"version {self.next_root}")
        if found.body.demonstration is not self._root.demonstration:
            # Whoever trusts a demonstration was told so once, and whoever trusts a project is never led into one.
            said = ("without the mark of a demonstration", "with it")
            got, wanted = said if self._root.demonstration else said[::-1]
            raise UntrustedError("trust-root", f"root version {found.body.version} {got}", f"a root {wanted}")
        _enough(self._root.roles[ROOT], found, "trust-root", f"{self.next_root}.root by the keys before it")
        _enough(found.body.roles[ROOT], found, "trust-root", f"{self.next_root}.root by its own keys")
        self._root = found.body
        self.expiries = {ROOT: self._root.expires}

    def timestamp(self, data: bytes) -> FileInfo:
        """Take the timestamp; returns what the snapshot must be."""
        _not_older(self._root.version, self._before.root, ROOT)
        online = _online(self._root)
        known = self._before if self._before.online in ("", online) else _forgetting(self._before)
        found = metadata.decode(Timestamp, data, TIMESTAMP)
        _enough(self._root.roles[TIMESTAMP], found, "index-signatures", TIMESTAMP)
        body = found.body
        _not_older(body.version, known.timestamp, TIMESTAMP)
        _not_older(body.snapshot.version, known.snapshot, SNAPSHOT)
        self.expiries[TIMESTAMP] = body.expires
        self.memory = replace(
            known, root=self._root.version, online=online, timestamp=body.version, snapshot=body.snapshot.version
        )
        self._snapshot_info = body.snapshot
        return body.snapshot

    def snapshot(self, data: bytes) -> FileInfo:
        """Take the snapshot; returns what the metadata of targets must be."""
        assert self._snapshot_info is not None
        body = self._named(Snapshot, data, SNAPSHOT, self._snapshot_info, self._root.roles[SNAPSHOT]).body
        for role, version in self.memory.roles.items():
            if role not in body.meta:
                raise UntrustedError("index-rollback", f"a snapshot without {role}", f"{role} of version {version}")
            _not_older(body.meta[role].version, version, role)
        self.memory = replace(self.memory, roles={role: info.version for role, info in body.meta.items()})
        self._snapshot = body
        return body.meta[TARGETS]

    def targets(self, data: bytes) -> None:
        """Take the metadata of the targets role, which has the publishers of each image."""
        assert self._snapshot is not None
        info = self._snapshot.meta[TARGETS]
        self._targets = self._named(Targets, data, TARGETS, info, self._root.roles[TARGETS]).body

    @property
    def images(self) -> tuple[str, ...]:
        """The images that have publishers."""
        assert self._targets is not None
        return tuple(self._targets.images)

    @property
    def published(self) -> tuple[str, ...]:
        """The images of which something is published."""
        assert self._snapshot is not None
        return tuple(name for name in self.images if name in self._snapshot.meta)

    def publishers(self, name: str) -> Role:
        """The keys that vouch for image ``name``; ``UntrustedError`` if the repository has none such."""
        assert self._targets is not None and self._snapshot is not None
        if name not in self._targets.images or name not in self._snapshot.meta:
            known = ", ".join(sorted(self._targets.images)) or "no image"
            raise UntrustedError("version-unknown", f"image {name}", f"one of those published: {known}")
        return self._targets.images[name]

    def image_info(self, name: str) -> FileInfo:
        """What the metadata of image ``name`` must be."""
        self.publishers(name)
        assert self._snapshot is not None
        return self._snapshot.meta[name]

    def image(self, name: str, data: bytes) -> ImageTargets:
        """Take the metadata of image ``name``; returns what its index must be."""
        body = self._named(ImageTargets, data, name, self.image_info(name), self.publishers(name)).body
        if body.name != name:
            raise UntrustedError("index-signatures", f"role {name} naming {body.name}", f"only {name}")
        self._image = body
        return body

    def index(self, data: bytes) -> Index:
        """Take the index of the image; its minimum serial may not sink."""
        wanted = self._image
        assert wanted is not None
        _same(data, wanted.length, wanted.sha256, f"index of {wanted.name}")
        index = indexes.decode(data, f"index of {wanted.name}")
        if index.name != wanted.name:
            raise UntrustedError("index-digest", f"the index of {index.name}", f"that of {wanted.name}")
        known = self.memory.minimum.get(index.name, 0)
        if index.minimum_serial < known:
            raise UntrustedError("index-rollback", f"minimum serial {index.minimum_serial}", f"at least {known}")
        self.memory = replace(self.memory, minimum={**self.memory.minimum, index.name: index.minimum_serial})
        return index

    def _named(self, kind: type[Body], data: bytes, role: str, info: FileInfo, keys: Role) -> Signed[Body]:
        _same(data, info.length, info.sha256, f"{role} {info.version}")
        found = metadata.decode(kind, data, role)
        _enough(keys, found, "index-signatures", role)
        if found.body.version != info.version:
            raise UntrustedError("index-digest", f"{role} of version {found.body.version}", f"version {info.version}")
        self.expiries[role] = found.body.expires
        return found


def _enough(role: Role, found: Signed[Body], code: str, what: str) -> None:
    signers = role.signed_by(found.signatures, found.data)
    if len(signers) < role.threshold:
        got = f"{what} signed by {len(signers)} of its {len(role.keys)} keys"
        raise UntrustedError(code, got, f"at least {role.threshold}", hint=_PUBLISHER)


def _not_older(found: int, known: int, role: str) -> None:
    if found < known:
        raise UntrustedError(
            "index-rollback",
            f"{role} of version {found}",
            f"at least version {known}, which was seen before",
            hint="ask for the repository's newest files; an old copy hides revocations",
        )


def _same(data: bytes, length: int, sha256: bytes, what: str) -> None:
    digest = hashlib.sha256(data).digest()
    if len(data) != length or digest != sha256:
        raise UntrustedError(
            "index-digest",
            f"{what} of {len(data)} bytes with sha256 {digest.hex()}",
            f"{length} bytes with {sha256.hex()}",
            hint="the repository may be in the middle of an update: try again",
        )


def _online(root: Root) -> str:
    ids = [sorted(root.roles[role].by_id) for role in (SNAPSHOT, TIMESTAMP)]
    return hashlib.sha256(canonical(ids)).hexdigest()


def _forgetting(memory: Memory) -> Memory:
    return Memory(root=memory.root, minimum=memory.minimum)
