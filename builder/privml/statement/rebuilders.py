"""The rebuilders that a caller relies on, and which of them say that a version is what its recipe gives.

A list is the caller's own choice. Each rebuilder counts once, by name, with a key of its own that is no publisher's.
An endorsement is an envelope of `statement.rebuild`, signed by that key alone, at
``NAME/VERSION/endorsements/WHO.dsse.json``. Only `identical` counts, for exactly this statement and these artefacts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privml.base import dsse
from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import Fields, canonical, first_repeated, loads
from privml.statement import rebuild, signed
from privml.statement.follow import Fetch, Version
from privml.statement.keys import PublicKey, Role
from privml.statement.rebuild import Rebuild
from privml.statement.tufkeys import from_pem, pem
from privml.statement.untrusted import UntrustedError

FORMAT = "privml-rebuilders/v1"
FOLDER = "endorsements"
MAX_REBUILDERS = 256
MAX_LIST = 1 << 20
MAX_ENDORSEMENT = 1 << 20
_WHO = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def is_who(text: str) -> bool:
    """True for the name of a rebuilder."""
    return _WHO.fullmatch(text) is not None


@dataclass(frozen=True)
class Rebuilder:
    """Somebody who rebuilds images: a name and a key."""

    name: str
    key: PublicKey


def encode(rebuilders: Sequence[Rebuilder]) -> bytes:
    """A list as canonical JSON."""
    rows = [{"name": one.name, "key": pem(one.key)} for one in rebuilders]
    return canonical({"format": FORMAT, "rebuilders": rows})


def decode(data: bytes, what: str) -> tuple[Rebuilder, ...]:
    """Read a list; ``EvidenceError`` if it is malformed, or one name or key is in it twice."""
    fields = Fields(loads(data, what=what, limit=MAX_LIST), what)
    fields.text("format", one_of=(FORMAT,))
    found = []
    for number, item in enumerate(fields.array("rebuilders", limit=MAX_REBUILDERS)):
        row = Fields(item, f"{what}.rebuilders[{number}]")
        name = row.text("name", limit=63)
        if not is_who(name):
            raise EvidenceError(f"{row.path}.name: got `{printable(name)}`, expected a-z, 0-9 and dashes")
        found.append(Rebuilder(name, from_pem(row.text("key", limit=2048), f"{row.path}.key")))
        row.end()
    fields.end()
    for values in ([one.name for one in found], [one.key.keyid for one in found]):
        if twice := first_repeated(values):
            raise EvidenceError(f"{what}.rebuilders: {twice} is listed twice")
    return tuple(found)


@dataclass(frozen=True)
class Endorsements:
    """Who of the listed rebuilders got the same, and who says what else: why one does not count, by name."""

    identical: tuple[str, ...]
    others: Mapping[str, str]


def endorsed(fetch: Fetch, version: Version, publishers: Role, rebuilders: Sequence[Rebuilder]) -> Endorsements:
    """What the listed rebuilders say of a version. A bad endorsement counts for nothing and prevents nothing."""
    identical, others = [], {}
    for one in rebuilders:
        if one.key.keyid in publishers.by_id:
            others[one.name] = "has the key of a publisher"
            continue
        path = f"{version.folder}/{FOLDER}/{one.name}.dsse.json"
        data = fetch(path, MAX_ENDORSEMENT)
        if data is None:
            others[one.name] = "has no endorsement of this version"
            continue
        try:
            wrong = _objection(data, version, one, path)
        except (EvidenceError, UntrustedError) as error:
            wrong = error.message
        if wrong:
            others[one.name] = wrong
        else:
            identical.append(one.name)
    return Endorsements(tuple(identical), others)


def _objection(data: bytes, version: Version, by: Rebuilder, path: str) -> str:
    verified = signed.verify(dsse.decode(data, what=path), Role((by.key,), 1), what=path)
    return objection(rebuild.decode(verified.payload, path), version)


def objection(found: Rebuild, version: Version) -> str:
    """Why a rebuild does not endorse ``version``; empty if it does."""
    release = version.release
    if found.result != rebuild.IDENTICAL:
        return f"got {len(found.differences)} differences"
    named = (found.name, found.version, found.statement_sha256, found.recipe_sha256, found.lock_sha256)
    wanted = (release.name, release.version, release.statement_sha256, release.recipe_sha256, release.lock_sha256)
    if named != wanted or set(found.subjects) != set(version.statement.subjects):
        return "endorses something else"
    return ""
