"""Write the TUF metadata of a repository: each edit gives new versions of what changed, signed by the given keys.

Nothing here reads a clock or writes a file: an edit is a table of paths and bytes, in the order in which they must be
written (the timestamp last, so that a reader never sees names of files that are not there yet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from privml.base.errors import EvidenceError, Refused
from privml.publish.signing import Signing
from privml.statement import metadata
from privml.statement.follow import Fetch, metadata_path
from privml.statement.index import INDEX_FILE, Index
from privml.statement.keys import Role
from privml.statement.metadata import (
    MAX_METADATA,
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
from privml.statement.release import File
from privml.statement.update import MAX_ROOTS

DAY = 86400
DAYS: Mapping[str, int] = {ROOT: 365, TARGETS: 180, SNAPSHOT: 30, TIMESTAMP: 30}
"""How long metadata is valid; an image's is as that of `TARGETS`."""
ROOT_FILE = "root.json"
"""The newest root, next to the images."""
Body = TypeVar("Body", bound=Metadata)


@dataclass(frozen=True)
class Written(Signed[Body]):
    """Metadata with the bytes of its file."""

    file: bytes = b""

    @property
    def info(self) -> FileInfo:
        """How other metadata names it."""
        made = File.of(self.file)
        return FileInfo(self.body.version, made.size, made.sha256)


@dataclass(frozen=True)
class Repository:
    """The newest metadata of a repository."""

    root: Written[Root]
    targets: Written[Targets]
    images: Mapping[str, Written[ImageTargets]]
    snapshot: Written[Snapshot]
    timestamp: Written[Timestamp]

    def publishers(self, name: str) -> Role:
        """Who publishes image ``name``; ``Refused`` if nobody may."""
        role = self.targets.body.images.get(name)
        if role is None:
            known = ", ".join(self.targets.body.images) or "none"
            raise Refused(
                f"nobody may publish {name} here: got {name}, expected one of {known}",
                hint="name its publishers in the file of roles, and run `privml-build publish root`",
            )
        return role


def read(fetch: Fetch) -> Repository | None:
    """The newest metadata; None if there is no root. ``EvidenceError`` if it is not complete. Nothing is verified."""
    last = None
    for version in range(1, MAX_ROOTS + 1):
        data = fetch(metadata_path(ROOT, version), MAX_METADATA)
        if data is None:
            break
        last = data
    if last is None:
        return None
    timestamp = _read(Timestamp, fetch, metadata_path(TIMESTAMP))
    snapshot = _read(Snapshot, fetch, metadata_path(SNAPSHOT, timestamp.body.snapshot.version))
    meta = snapshot.body.meta
    return Repository(
        root=_written(metadata.decode(Root, last, ROOT), last),
        targets=_read(Targets, fetch, metadata_path(TARGETS, meta[TARGETS].version)),
        images={
            name: _read(ImageTargets, fetch, metadata_path(name, info.version))
            for name, info in meta.items()
            if name != TARGETS
        },
        snapshot=snapshot,
        timestamp=timestamp,
    )


def _read(kind: type[Body], fetch: Fetch, path: str) -> Written[Body]:
    data = fetch(path, MAX_METADATA)
    if data is None:
        raise EvidenceError(f"{path}: no such file in the repository")
    return _written(metadata.decode(kind, data, path), data)


def _written(found: Signed[Body], file: bytes) -> Written[Body]:
    return Written(found.body, found.data, found.signatures, file)


@dataclass
class Edit:
    """New metadata after ``before`` (None for a new repository), at ``now`` (Unix seconds).

    Every role that changes must be signed by enough keys (`Signing.enough`). ``files`` has what to write, by path.
    """

    before: Repository | None
    signing: Signing
    now: int
    files: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        before = self.before
        self._root = None if before is None else before.root
        self._targets = None if before is None else before.targets
        self._images = {} if before is None else dict(before.images)

    def root(self, roles: Mapping[str, Role], demonstration_until: int | None = None) -> None:
        """A new root with the keys of the four top-level roles, signed as the old and the new one ask.

        With ``demonstration_until`` (Unix seconds) it is marked as a demonstration, and everything that is signed
        under it is valid until then.
        """
        old = None if self._root is None else self._root.body
        number = 1 if old is None else old.version + 1
        end = self.now + DAYS[ROOT] * DAY if demonstration_until is None else demonstration_until
        body = Root(number, end, dict(roles), demonstration=demonstration_until is not None)
        askers = [body.roles[ROOT]] if old is None else [old.roles[ROOT], body.roles[ROOT]]
        self._root = self._signed(body, askers, ROOT, metadata_path(ROOT, body.version))
        self.files[metadata_path(ROOT, body.version)] = self._root.file
        self.files[ROOT_FILE] = self._root.file

    def targets(self, images: Mapping[str, Role]) -> None:
        """New metadata of the targets role: who publishes each image."""
        version = 1 if self._targets is None else self._targets.body.version + 1
        body = Targets(version, self._expiry(TARGETS), dict(images))
        self._targets = self._signed(body, [self._role(TARGETS)], TARGETS, metadata_path(TARGETS, version))
        self.files[metadata_path(TARGETS, version)] = self._targets.file

    def image(self, name: str, index: Index) -> None:
        """A new index of image ``name``, with its metadata."""
        assert self._targets is not None
        data = index.encode()
        self.files[f"{name}/{INDEX_FILE}"] = data
        self._image(name, File.of(data))

    def renew_image(self, name: str) -> None:
        """The same index for longer."""
        body = self._images[name].body
        self._image(name, File(body.sha256, body.length))

    def _image(self, name: str, index: File) -> None:
        assert self._targets is not None
        old = self._images.get(name)
        version = 1 if old is None else old.body.version + 1
        role = self._targets.body.images[name]
        body = ImageTargets(version, self._expiry(TARGETS), name, index.size, index.sha256)
        self._images[name] = self._signed(body, [role], name, metadata_path(name, version))
        self.files[metadata_path(name, version)] = self._images[name].file

    def finish(self) -> dict[str, bytes]:
        """A new snapshot and timestamp; returns the files to write, in order.

        They name the bytes of all other metadata, so a partial change has neither until the rest is signed.
        """
        assert self._targets is not None
        keyids = [signer.public.keyid for signer in self.signing.signers]
        for role in (SNAPSHOT, TIMESTAMP):
            self.signing.enough(self._role(role), keyids, role)
        if self.signing.missing:
            return self.files
        before = self.before
        meta = {TARGETS: self._targets.info, **{name: each.info for name, each in self._images.items()}}
        version = 1 if before is None else before.snapshot.body.version + 1
        snapshot = self._signed(Snapshot(version, self._expiry(SNAPSHOT), meta), [self._role(SNAPSHOT)], SNAPSHOT, "")
        version = 1 if before is None else before.timestamp.body.version + 1
        body = Timestamp(version, self._expiry(TIMESTAMP), snapshot.info)
        self.files[metadata_path(SNAPSHOT, snapshot.body.version)] = snapshot.file
        self.files[metadata_path(TIMESTAMP)] = self._signed(body, [self._role(TIMESTAMP)], TIMESTAMP, "").file
        return self.files

    def _role(self, name: str) -> Role:
        assert self._root is not None
        return self._root.body.roles[name]

    def _expiry(self, role: str) -> int:
        assert self._root is not None
        root = self._root.body
        # Nobody renews a demonstration: its keys are thrown away.
        return root.expires if root.demonstration else self.now + DAYS[role] * DAY

    def _signed(self, body: Body, roles: Sequence[Role], what: str, path: str) -> Written[Body]:
        made = Signed.of(body)
        keys = {keyid: key for role in roles for keyid, key in role.by_id.items()}
        if path in self.signing.collected:
            before = metadata.decode(type(body), self.signing.collected[path], path)
            self.signing.same(path, equal=before.data == made.data)
            for keyid, signature in before.signatures:
                if keyid in keys and keys[keyid].verifies(signature, made.data):
                    made = made.with_signature(keyid, signature)
        for signer in self.signing.signers:
            if signer.public.keyid in keys:
                made = made.with_signature(signer.public.keyid, signer.sign(made.data))
        for role in roles:
            self.signing.enough(role, [keyid for keyid, _ in made.signatures], what)
        return _written(made, made.encode())
