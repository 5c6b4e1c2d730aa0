"""What a repository shows of each version: its files, what changed since the version before, who rebuilt it.

Everything is read from the repository alone, so that what is made of it is a function of its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base import dsse
from privml.base.errors import EvidenceError, InputsError
from privml.events.registers import REGISTERS
from privml.lock.lockfile import parse
from privml.lock.models import Lock
from privml.output import manifest as manifests
from privml.output.manifest import Manifest
from privml.output.repository import fetch_from
from privml.publish.check import Checked
from privml.repro.change import Change
from privml.repro.explainer import Explainer
from privml.repro.images import input_changes
from privml.repro.recipechanges import Side, recipe_changes
from privml.statement import follow, rebuild, rebuilders
from privml.statement.follow import Version
from privml.statement.image import Image
from privml.statement.index import Entry
from privml.statement.predicate import Predicate
from privml.statement.rebuild import Rebuild
from privml.statement.release import MANIFEST_FILE
from privml.statement.untrusted import UntrustedError

LOCK_FILE = "lock.json"
_SUFFIX = ".dsse.json"


@dataclass(frozen=True)
class Endorsed:
    """What an endorsement in the repository says, in the name of ``who``, with a signature in the name of ``keyid``.

    The repository does not have the keys of rebuilders, so the signature is not checked: whoever relies on a
    rebuilder has the key (`verify --rebuilders`). ``objection`` says why it does not count; empty if it does.
    """

    who: str
    keyid: str
    said: Rebuild
    objection: str


@dataclass(frozen=True)
class Since:
    """What changed since the version ``before``: recipe and inputs, and each register with what it follows from.

    ``registers`` is None if no machine is predicted for both. ``untold`` are the fields of recipes that the published
    files do not tell.
    """

    before: str
    changes: tuple[Change, ...]
    registers: Mapping[str, tuple[str, ...]] | None
    untold: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """A version with its statement, manifest and lock, and what is said of it."""

    version: Version
    manifest: Manifest
    lock: Lock
    endorsements: tuple[Endorsed, ...]
    since: Since | None

    @property
    def predicate(self) -> Predicate:
        """The prediction."""
        return self.version.statement.predicate

    @property
    def identical(self) -> tuple[Endorsed, ...]:
        """The endorsements of exactly this version."""
        return tuple(each for each in self.endorsements if not each.objection)


@dataclass(frozen=True)
class Row:
    """A version in the index; ``published`` is None, and ``missing`` says why, for one that cannot be shown."""

    entry: Entry
    counts: bool
    published: Published | None
    missing: str = ""


@dataclass(frozen=True)
class Listed:
    """An image and its versions, the newest first."""

    image: Image
    rows: tuple[Row, ...]


def catalogue(folder: Path, checked: Checked) -> tuple[Listed, ...]:
    """All images of the repository in ``folder``, which was read as ``checked``."""
    return tuple(Listed(image, _rows(folder, image, checked)) for image in checked.held.images)


def _rows(folder: Path, image: Image, checked: Checked) -> tuple[Row, ...]:
    rows: list[Row] = []
    before: Published | None = None
    for entry in image.index.versions:
        counts = image.index.counts(entry)
        version = image.versions.get(entry.version)
        if version is None:
            rows.append(Row(entry, counts, None, image.unread[entry.version]))
            continue
        try:
            known = checked.inputs.get((image.name, entry.version))
            manifest, lock = _inputs(folder, version) if known is None else known
        except (EvidenceError, InputsError, UntrustedError) as error:
            # It counts no more: the others were checked.
            rows.append(Row(entry, counts, None, error.message))
            continue
        since = None if before is None else _since(before, version, manifest, lock)
        said = _endorsements(folder / image.name / entry.version, image, version)
        published = Published(version, manifest, lock, said, since)
        rows.append(Row(entry, counts, published))
        before = published
    return tuple(reversed(rows))


def _inputs(folder: Path, version: Version) -> tuple[Manifest, Lock]:
    fetch, name = fetch_from(folder), version.folder
    manifest = manifests.decode(follow.file_of(fetch, version, MANIFEST_FILE))
    return manifest, parse(follow.file_of(fetch, version, LOCK_FILE), Lock, f"{name}/{LOCK_FILE}")


def _since(before: Published, version: Version, manifest: Manifest, lock: Lock) -> Since:
    sides = (
        Side(Path(before.version.entry.version), before.manifest, before.lock, None),
        Side(Path(version.entry.version), manifest, lock, None),
    )
    fields, _, untold = recipe_changes(*sides)
    changes = (*fields, *input_changes(*sides))
    explainer = Explainer(changes, sides, untold)
    moved = registers_moved(before.predicate, version.statement.predicate)
    registers = None if moved is None else {name: explainer.of_register(name) for name in moved}
    return Since(before.version.entry.version, changes, registers, untold)


def registers_moved(a: Predicate, b: Predicate) -> tuple[str, ...] | None:
    """The registers whose values differ on a machine that both predict; None if there is no such machine."""
    before = {launch.label: launch for launch in a.launches}
    pairs = [(before[launch.label], launch) for launch in b.launches if launch.label in before]
    if not pairs:
        return None
    found = {name for one, two in pairs for name in two.registers if one.accepted(name) != two.accepted(name)}
    return tuple(name for registers in REGISTERS.values() for name in registers if name in found)


def _endorsements(folder: Path, image: Image, version: Version) -> tuple[Endorsed, ...]:
    """One for each key, the first by name; none by a publisher. A malformed one says nothing."""
    found: dict[str, Endorsed] = {}
    paths = {path.name.removesuffix(_SUFFIX): path for path in (folder / rebuilders.FOLDER).glob(f"*{_SUFFIX}")}
    for who, path in sorted(paths.items()):
        what = f"{image.name}/{version.entry.version}/{rebuilders.FOLDER}/{path.name}"
        data = fetch_from(path.parent)(path.name, rebuilders.MAX_ENDORSEMENT)
        if data is None:
            continue
        try:
            envelope = dsse.decode(data, what=what)
            said = rebuild.decode(envelope.payload, what)
        except EvidenceError:
            continue
        keyid = envelope.signatures[0].keyid
        if keyid and keyid not in image.publishers.by_id:
            found.setdefault(keyid, Endorsed(who, keyid, said, rebuilders.objection(said, version)))
    return tuple(found.values())
