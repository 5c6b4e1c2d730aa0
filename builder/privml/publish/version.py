"""The files of one version: what was built, the release that names them, and both signed envelopes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from privml import __version__
from privml.base import dsse
from privml.base.dsse import IN_TOTO, Envelope, Signature
from privml.base.errors import MeasurementError, Refused
from privml.events.variants import PRODUCTION
from privml.output import manifest as manifests
from privml.output.prediction import statement_of
from privml.publish.signing import Signing
from privml.statement import intoto
from privml.statement.index import Entry, Index, State
from privml.statement.keys import Role
from privml.statement.launch import Accepted
from privml.statement.release import (
    MANIFEST_FILE,
    PROVENANCE_FILE,
    RELEASE_FILE,
    STATEMENT_FILE,
    File,
    Release,
)


@dataclass(frozen=True)
class Build:
    """What two equal builds gave: files by name (those of `release.FILES`, and perhaps more), and both payloads.

    ``commit`` is that of the sources.
    """

    files: Mapping[str, bytes]
    statement: bytes
    provenance: bytes
    commit: str


def check(build: Build) -> None:
    """``Refused`` for an image that must not be published: development, refreshed, or a register without a value."""
    manifest = manifests.decode(build.files[MANIFEST_FILE])
    predicate = intoto.decode(build.statement).predicate
    if intoto.decode(build.statement) != statement_of(manifest, predicate) or predicate.manifest_sha256 != (
        manifest.sha256
    ):
        raise MeasurementError(
            f"the prediction of {manifest.name} is not of its manifest", hint="measure the image again"
        )
    for got, expected, what in (
        (manifest.variant, PRODUCTION, "variant"),
        (predicate.variant, PRODUCTION, "variant of the prediction"),
        ("refreshed" if manifest.refreshed else "committed", "committed", "lock"),
    ):
        if got != expected:
            raise Refused(f"{manifest.name} cannot be published: {what} got {got}, expected {expected}")
    if not predicate.launches:
        raise Refused(f"{manifest.name} cannot be published: its prediction has no machine, expected at least one")
    for launch in predicate.launches:
        for register, value in launch.registers.items():
            if not isinstance(value, Accepted):
                raise Refused(
                    f"{manifest.name} cannot be published: {register.upper()} of {launch.label} has no value, "
                    "expected one for each register"
                )


def release_of(build: Build, version: str, serial: int) -> Release:
    """The release of ``build``."""
    manifest = manifests.decode(build.files[MANIFEST_FILE])
    return Release(
        name=manifest.name,
        version=version,
        serial=serial,
        files={name: File.of(data) for name, data in build.files.items()},
        statement_sha256=hashlib.sha256(build.statement).digest(),
        provenance_sha256=hashlib.sha256(build.provenance).digest(),
        recipe_sha256=bytes.fromhex(manifest.recipe_sha256),
        lock_sha256=bytes.fromhex(manifest.lock_sha256),
        commit=build.commit,
        tool=__version__,
    )


def files_of(build: Build, release: Release, role: Role, signing: Signing) -> dict[str, bytes]:
    """Every file of the version, by its path in the repository; its envelopes are signed as `sign`."""
    folder = f"{release.name}/{release.version}"
    made = {f"{folder}/{name}": data for name, data in {**build.files, RELEASE_FILE: release.encode()}.items()}
    for name, payload in ((STATEMENT_FILE, build.statement), (PROVENANCE_FILE, build.provenance)):
        path = f"{folder}/{name}"
        made[path] = sign(Envelope(IN_TOTO, payload, ()), role, signing, path).encode()
    return made


def sign(envelope: Envelope, role: Role, signing: Signing, path: str) -> Envelope:
    """``envelope`` with the signatures of ``role``: those that it has, those collected at ``path``, and new ones.

    ``Refused`` if they are too few, or if another payload was collected.
    """
    rows = list(envelope.signatures)
    if path in signing.collected:
        before = dsse.decode(signing.collected[path], what=path)
        signing.same(path, equal=before.signed == envelope.signed)
        rows += before.signatures
    found = {
        each.keyid: each
        for each in rows
        if each.keyid in role.by_id and role.by_id[each.keyid].verifies(each.sig, envelope.signed)
    }
    for signer in signing.signers:
        if signer.public.keyid in role.by_id:
            found[signer.public.keyid] = Signature(signer.sign(envelope.signed), signer.public.keyid)
    signing.enough(role, list(found), path)
    return replace(envelope, signatures=tuple(found[keyid] for keyid in sorted(found)))


def resigned(data: bytes, role: Role, signing: Signing, path: str) -> bytes:
    """An envelope's file with the signatures of ``role``, as `sign`."""
    return sign(dsse.decode(data, what=path), role, signing, path).encode()


def entry_of(release: Release, today: str) -> Entry:
    """The row of a new version in the index."""
    return Entry(release.version, release.serial, release.sha256, State.CURRENT, "", today, None)


def next_serial(index: Index | None) -> int:
    """The serial of the next version."""
    return 1 + max((entry.serial for entry in index.versions), default=0) if index is not None else 1
