"""Find which published versions have a value: a register, or the digest of an artefact or of a signed document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from privml.base.errors import UsageError
from privml.events.registers import DIGEST_SIZE, shown
from privml.statement.follow import Version
from privml.statement.image import Image
from privml.statement.index import Entry

MIN_DIGITS = 8
MAX_DIGITS = 2 * DIGEST_SIZE
_DIGITS = re.compile(r"(?:sha(?:256|384):|0x)?([0-9a-f]+)")


@dataclass(frozen=True)
class Found:
    """A value and where it stands: ``what`` is a register (``rtmr1``) or names a digest (``artefact uki.efi``).

    ``shapes`` are the machines on which a register has it; empty for a digest. ``counts`` is False for a version
    that is refused now.
    """

    value: str
    name: str
    entry: Entry
    counts: bool
    what: str
    shapes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What it is, as people read it: a register in capitals."""
        return shown(self.what)[0] if self.shapes else self.what

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "value": self.value,
            "name": self.name,
            "version": self.entry.version,
            "serial": self.entry.serial,
            "state": self.entry.state.value,
            "reason": self.entry.reason,
            "replaced_by": self.entry.replaced_by,
            "counts": self.counts,
            "what": self.what,
            "shapes": list(self.shapes),
        }


def digits_of(text: str) -> str:
    """The hex digits that a person typed, in lower case; ``UsageError`` if they are none, too few or too many."""
    match = _DIGITS.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"got `{text[:80]}`, expected hex digits", hint="a register as a quote or a log has it")
    digits = match[1]
    if not MIN_DIGITS <= len(digits) <= MAX_DIGITS:
        raise UsageError(
            f"got {len(digits)} hex digits, expected {MIN_DIGITS} to {MAX_DIGITS}",
            hint="a register has 96 digits and a SHA-256 has 64; its first eight or more will do",
        )
    return digits


def lookup(images: Iterable[Image], digits: str) -> tuple[Found, ...]:
    """Every place whose value begins with ``digits``: by image, the newest version first."""
    return tuple(found for image in images for found in values_of(image) if found.value.startswith(digits))


def values_of(image: Image) -> Iterator[Found]:
    """Every value of an image, the newest version first; a register once for all shapes that have it."""
    for entry in reversed(image.index.versions):
        counts = image.index.counts(entry)
        version = image.versions.get(entry.version)
        rows = {("release", entry.release_sha256.hex()): ()} if version is None else _rows(version)
        for (what, value), shapes in rows.items():
            yield Found(value, image.name, entry, counts, what, shapes)


def _rows(version: Version) -> dict[tuple[str, str], tuple[str, ...]]:
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    for launch in version.statement.predicate.launches:
        for register in launch.registers:
            for value in launch.accepted(register):
                key = (register, value.hex())
                rows[key] = (*rows.get(key, ()), launch.label)
    release = version.release
    digests = {
        **{f"artefact {subject.name}": subject.sha256 for subject in version.statement.subjects},
        **{f"file {path}": file.sha256 for path, file in release.files.items()},
        "release": version.entry.release_sha256,
        "statement": release.statement_sha256,
        "provenance": release.provenance_sha256,
        "recipe": release.recipe_sha256,
        "lock": release.lock_sha256,
    }
    return rows | {(what, value.hex()): () for what, value in digests.items()}
