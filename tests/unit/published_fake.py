"""A repository of published measurements in memory, written by the product's own writer with keys from fixed seeds.

It is a table of files and a function that fetches them, so a test can change, hide or age any of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from tests.unit import attestation_samples as samples
from tests.unit.test_image_manifest import sample

from privml.output import manifest as manifests
from privml.output.prediction import statement_of
from privml.publish import repository, version
from privml.publish.repository import Edit, Repository
from privml.publish.signer import KeySigner
from privml.publish.signing import Signing
from privml.statement import follow, intoto, metadata
from privml.statement import index as indexes
from privml.statement.index import Index, State
from privml.statement.keys import Role
from privml.statement.metadata import Metadata, Root, Signed
from privml.statement.predicate import Predicate

NAME = "demo-cpu"
NOW = samples.NOW
DAY = 86400
COMMIT = "ab" * 20


@cache
def signer(name: str) -> KeySigner:
    """An Ed25519 key, or an ECDSA one if the name begins with ``p256`` or ``p384``."""
    seed = hashlib.sha256(name.encode()).digest()
    curve = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}.get(name[:4])
    if curve is None:
        return KeySigner.of(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    return KeySigner.of(ec.derive_private_key(int.from_bytes(seed) >> 8, curve))


def role(threshold: int, *names: str) -> Role:
    return Role(tuple(signer(name).public for name in names), threshold)


ROOTS = ("root-1", "root-2", "p384-root-3")
PUBLISHERS = ("alice", "bob", "p256-carol")
ROOT_ROLES = {
    "root": role(2, *ROOTS),
    "targets": role(2, *ROOTS),
    "snapshot": role(1, "online"),
    "timestamp": role(1, "online"),
}
IMAGES = {NAME: role(2, *PUBLISHERS)}
EVERYBODY = (*ROOTS, *PUBLISHERS, "online")


def build(predicate: Predicate = samples.PREDICATE, lock: str = "lock") -> version.Build:
    """What two legs would have given, for a prediction."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = sample(Path(folder) / "image")
    manifest = dataclasses.replace(manifest, name=predicate.name, variant=predicate.variant)
    made = dataclasses.replace(predicate, manifest_sha256=manifest.sha256)
    files = {
        name: f"{name} {lock}".encode() for name in ("lock.json", "recipe.yaml", "sbom.cdx.json", "tools.lock.json")
    }
    statement = intoto.encode(statement_of(manifest, made))
    return version.Build({**files, "manifest.json": manifest.encode()}, statement, b'{"provenance":1}', COMMIT)


class Fake:
    """A repository; ``files`` by path below it. ``fetched`` lists what was asked for."""

    def __init__(
        self,
        roles: dict[str, Role] | None = None,
        images: dict[str, Role] | None = None,
        signers: Sequence[str] = EVERYBODY,
        demonstration_until: int | None = None,
    ) -> None:
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.roles = ROOT_ROLES if roles is None else roles
        edit = self.edit(signers)
        edit.root(self.roles, demonstration_until)
        edit.targets(IMAGES if images is None else images)
        self.files |= edit.finish()
        self.trusted = self.files["tuf/1.root.json"]

    def fetch(self, path: str, limit: int) -> bytes | None:
        self.fetched.append(path)
        data = self.files.get(path)
        return None if data is None else data[: limit + 1]

    @property
    def repository(self) -> Repository | None:
        return repository.read(lambda path, _: self.files.get(path))

    def write(self, folder: Path) -> None:
        """Write every file, and the newest root."""
        for path, data in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)

    def edit(self, signers: Sequence[str] = EVERYBODY, now: int = NOW) -> Edit:
        return Edit(self.repository if self.files else None, Signing([signer(name) for name in signers]), now)

    def index(self, name: str = NAME) -> Index | None:
        data = self.files.get(f"{name}/index.json")
        return None if data is None else indexes.decode(data)

    def publish(self, number: str, made: version.Build | None = None, signers: Sequence[str] = EVERYBODY) -> None:
        """Publish a version."""
        made = build() if made is None else made
        name = manifests.decode(made.files["manifest.json"]).name
        index = self.index(name)
        release = version.release_of(made, number, version.next_serial(index))
        entry = version.entry_of(release, "2026-11-18")
        keys = Signing([signer(name) for name in signers])
        self.files |= version.files_of(made, release, self._publishers(name), keys)
        versions = () if index is None else index.versions
        self.put(Index(name, 1 if index is None else index.minimum_serial, (*versions, entry)), signers)

    def put(self, index: Index, signers: Sequence[str] = EVERYBODY, now: int = NOW) -> None:
        """Put an index in place of the old one."""
        edit = self.edit(signers, now)
        edit.image(index.name, index)
        self.files |= edit.finish()

    def set_state(
        self, number: str, state: State, reason: str = "", replaced_by: str | None = None, name: str = NAME
    ) -> None:
        index = self.index(name)
        assert index is not None
        changed = tuple(
            dataclasses.replace(each, state=state, reason=reason, replaced_by=replaced_by)
            if each.version == number
            else each
            for each in index.versions
        )
        self.put(dataclasses.replace(index, versions=changed))

    def refresh(self, now: int = NOW, signers: Sequence[str] = EVERYBODY) -> None:
        """A new snapshot and timestamp of the same content."""
        self.files |= self.edit(signers, now).finish()

    def _publishers(self, name: str) -> Role:
        found = self.repository
        assert found is not None
        return found.publishers(name)

    def walk(self, memory: follow.Memory | None = None, name: str = NAME) -> tuple[follow.Update, Index]:
        """What a client does, in its order."""
        update = follow.follow(self.fetch, self.trusted, memory or follow.Memory())
        return update, follow.index_of(update, self.fetch, name)

    def resign(self, path: str, kind: type[Metadata], change: Callable[[Metadata], Metadata], *names: str) -> None:
        """Change metadata and sign it with these keys, whatever its role asks for."""
        old = metadata.decode(kind, self.files[path], path)
        made = Signed.of(change(old.body))
        for name in names:
            made = made.with_signature(signer(name).public.keyid, signer(name).sign(made.data))
        self.files[path] = made.encode()


def published(demonstration_until: int | None = None) -> Fake:
    """Two versions, both current."""
    made = Fake(demonstration_until=demonstration_until)
    made.publish("1.0")
    made.publish("1.1", build(lock="other"))
    return made


def new_root(fake: Fake, roles: dict[str, Role], signers: Sequence[str] = EVERYBODY) -> None:
    """The next root version, and everything below it signed again."""
    edit = fake.edit(signers)
    edit.root(roles)
    found = fake.repository
    assert found is not None
    edit.targets(found.targets.body.images)
    fake.files |= edit.finish()


__all__ = ["DAY", "EVERYBODY", "NAME", "NOW", "Fake", "Root", "build", "new_root", "published", "role", "signer"]
