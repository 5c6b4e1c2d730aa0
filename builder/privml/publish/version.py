"""The files of one version: what was built, the release that names them, and both signed envelopes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from privml import __version__
from privml.base import dsse
from privml.base.dsse import Envelope, Signature
from privml.base.errors import MeasurementError, Refused
from privml.events.variants import PRODUCTION
from privml.output import manifest as manifests
from privml.output.prediction import statement_of
from privml.publish.repository import enough
from privml.publish.signer import Signer
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
from privml.statement.signed import STATEMENT_TYPE


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


def files_of(build: Build, release: Release, role: Role, signers: Sequence[Signer]) -> dict[str, bytes]:
    """Every file of the version's folder, by name; ``Refused`` if too few of the role's keys are given."""
    return {
        **build.files,
        RELEASE_FILE: release.encode(),
        STATEMENT_FILE: sign(Envelope(STATEMENT_TYPE, build.statement, ()), role, signers).encode(),
        PROVENANCE_FILE: sign(Envelope(STATEMENT_TYPE, build.provenance, ()), role, signers).encode(),
    }


def sign(envelope: Envelope, role: Role, signers: Sequence[Signer]) -> Envelope:
    """``envelope`` with the signatures of ``role``: those that it has and new ones; ``Refused`` if too few."""
    found = {
        each.keyid: each
        for each in envelope.signatures
        if each.keyid in role.by_id and role.by_id[each.keyid].verifies(each.sig, envelope.signed)
    }
    for signer in signers:
        if signer.public.keyid in role.by_id:
            found[signer.public.keyid] = Signature(signer.sign(envelope.signed), signer.public.keyid)
    enough(role, list(found), "the statement")
    return replace(envelope, signatures=tuple(found[keyid] for keyid in sorted(found)))


def resigned(data: bytes, role: Role, signers: Sequence[Signer]) -> bytes:
    """An envelope's file with the signatures of ``role``, as `sign`."""
    return sign(dsse.decode(data), role, signers).encode()


def entry_of(release: Release, today: str) -> Entry:
    """The row of a new version in the index."""
    return Entry(release.version, release.serial, release.sha256, State.CURRENT, "", today, None)


def next_serial(index: Index | None) -> int:
    """The serial of the next version."""
    return 1 + max((entry.serial for entry in index.versions), default=0) if index is not None else 1
