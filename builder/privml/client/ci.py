"""`--ci`: which workflow must have attested a published version, and what the bundle next to the version shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start
from privml.base.keyless import MAX_ROOT, Workflows
from privml.statement import attestation
from privml.statement.follow import Fetch, Version
from privml.statement.release import CI_FILE
from privml.verify.anchor import Attested

_REPOSITORY = re.compile(r"[A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100}")
_REF = re.compile(r"refs/[!-~]{1,250}")


@dataclass(frozen=True)
class Workflow:
    """A workflow of GitHub's ``repository`` (OWNER/NAME) that ran for ``ref``; None: for the tag NAME/VERSION.

    ``workflows`` checks its signature.
    """

    repository: str
    ref: str | None
    workflows: Workflows

    def shown(self, fetch: Fetch, version: Version) -> Attested:
        """What the bundle next to a version shows. A bad one shows nothing."""
        folder = version.folder
        ref, path = self.ref or f"refs/tags/{folder}", f"{folder}/{CI_FILE}"
        data = fetch(path, attestation.MAX_BUNDLE)
        if data is None:
            return Attested(self.repository, ref, objection=f"no {path}")
        try:
            read = attestation.payload_of(data, path)
            payload, by = self.workflows.payload(data, self.repository, ref, path)
            attestation.check(payload, version.statement, path)
        except EvidenceError as error:
            return Attested(self.repository, ref, objection=error.message)
        if payload != read:
            return Attested(self.repository, ref, objection=f"{path}: two readers disagree about what is signed")
        return Attested(self.repository, ref, by)


def workflow_of(text: str, root: Path) -> Workflow:
    """Read the caller's words: ``OWNER/NAME[@REF]``, and the file with Sigstore's trusted root.

    ``UsageError`` for what cannot be, ``EvidenceError`` if the root is malformed, ``HostError`` without the extra.
    """
    repository, at, ref = text.partition("@")
    if not _REPOSITORY.fullmatch(repository) or (at and not _REF.fullmatch(ref)):
        raise UsageError(
            f"--ci: got `{text[:80]}`, expected OWNER/NAME or OWNER/NAME@REF",
            hint="REF is written whole, like refs/tags/demo-cpu/2026.11.1",
        )
    try:
        data = read_start(root, MAX_ROOT)
    except OSError as error:
        raise UsageError(f"--ci-root: {root} cannot be read: {error.strerror or error}") from error
    return Workflow(repository, ref or None, Workflows(data, f"--ci-root {root}"))
