"""What a rebuilder signs: the release that was to be rebuilt, and what the rebuilder's own builds gave.

The publisher's artefacts are never read; digests are compared. The statement's own bytes are compared too, so the
prediction is endorsed with the image.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

from privml import __version__
from privml.base.dsse import IN_TOTO, Envelope, Signature
from privml.base.errors import InputsError, Refused
from privml.output import manifest as manifests
from privml.publish.signer import Signer
from privml.publish.version import Build
from privml.statement import intoto, rebuild
from privml.statement.follow import Version
from privml.statement.keys import Role
from privml.statement.rebuild import Rebuild
from privml.statement.rebuilders import FOLDER
from privml.statement.release import MANIFEST_FILE, Release


def check_sources(release: Release, recipe_sha256: str, lock_sha256: str) -> None:
    """``InputsError`` if this checkout would build something else than the release was built from."""
    for what, got, expected in (
        ("recipe", recipe_sha256, release.recipe_sha256.hex()),
        ("lock", lock_sha256, release.lock_sha256.hex()),
        ("privml-build", __version__, release.tool),
    ):
        if got != expected:
            raise InputsError(
                f"{release.name} {release.version} was built from another {what}: got {got}, expected {expected}",
                hint=f"check out the sources of that version: git checkout {release.commit}",
            )


def check_key(publishers: Role, signer: Signer) -> None:
    """``Refused`` for the key of a publisher: nobody endorses what they published."""
    if signer.public.keyid in publishers.by_id:
        raise Refused(
            f"key {signer.public.keyid[:16]} is a publisher's, expected a rebuilder's own", hint="make another key"
        )


def compared(version: Version, build: Build, finished: int) -> Rebuild:
    """What this build says of the version; ``finished`` is Unix seconds."""
    release, got = version.release, intoto.decode(build.statement)
    wanted = {subject.name: subject.sha256 for subject in version.statement.subjects}
    found = {subject.name: subject.sha256 for subject in got.subjects}
    names = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    manifest = manifests.decode(build.files[MANIFEST_FILE]).sha256
    if manifest != release.files[MANIFEST_FILE].sha256:
        names.append(MANIFEST_FILE)
    if not names and hashlib.sha256(build.statement).digest() != release.statement_sha256:
        names.append("prediction")
    return Rebuild(
        subjects=got.subjects,
        name=release.name,
        version=release.version,
        result=rebuild.DIFFERS if names else rebuild.IDENTICAL,
        statement_sha256=release.statement_sha256,
        recipe_sha256=release.recipe_sha256,
        lock_sha256=release.lock_sha256,
        tool=__version__,
        surroundings={
            "machine": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        finished=finished,
        differences=tuple(names),
    )


@dataclass(frozen=True)
class Endorsement:
    """A signed rebuild, and where it belongs below the folder of the measurements."""

    path: Path
    data: bytes

    @classmethod
    def of(cls, made: Rebuild, who: str, signer: Signer) -> Endorsement:
        """Sign ``made`` in the name of ``who``."""
        unsigned = Envelope(IN_TOTO, made.encode(), ())
        signature = Signature(signer.sign(unsigned.signed), signer.public.keyid)
        path = Path(made.name) / made.version / FOLDER / f"{who}.dsse.json"
        return cls(path, Envelope(unsigned.payload_type, unsigned.payload, (signature,)).encode())
