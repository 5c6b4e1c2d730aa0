"""Compare two image directories with the file system tools of the tools tree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from privml.base.errors import BuildError
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.lock.models import Lock
from privml.output import manifest as manifests
from privml.repro.changes import Change, changes, moved
from privml.repro.compare import Surroundings, compare
from privml.repro.disk import extracted
from privml.repro.external import Look
from privml.repro.layers import Report
from privml.repro.owners import Owners
from privml.store.objects import Store


@dataclass(frozen=True)
class ImageDiff:
    """The changes between two images; ``registers`` is None if no machine is predicted for both."""

    report: Report
    changes: tuple[Change, ...]
    registers: tuple[str, ...] | None

    @property
    def details(self) -> dict[str, str]:
        """Output of the external program for differing files, by place."""
        return {finding.place: finding.detail for finding in self.report.findings if finding.detail}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "equal": self.report.equal,
            "registers_moved": None if self.registers is None else list(self.registers),
            "changes": [change.to_dict() for change in self.changes],
            "details": self.details,
        }


def diff(a: Path, b: Path, place: Workplace, look: Look | None = None) -> ImageDiff:
    """Compare two built images; the package of a file is looked up in the packages of the first."""
    one, two = manifests.read(a), manifests.read(b)
    owners = Owners(((row.name, row.sha256) for row in one.packages), place.store)
    report = compared(a, b, place.tools(), owners, look=look)
    return ImageDiff(report, changes(one, two, report), moved(report))


def owners_of(lock: Lock, store: Store) -> Owners:
    """The package of each file, from the locked packages in the store."""
    return Owners(((package.name, package.sha256) for package in lock.packages), store)


def compared(
    a: Path,
    b: Path,
    tools: ToolsTree,
    owners: Owners,
    known: Surroundings | None = None,
    look: Look | None = None,
) -> Report:
    """Compare two image directories; ``BuildError`` if one cannot be read."""
    try:
        return compare(a, b, opener=partial(extracted, tools), owners=owners, surroundings=known, look=look)
    except OSError as error:
        raise BuildError(f"cannot compare: {error.strerror or error}: {error.filename or ''}") from error
