"""What archives besides the base's offer: their lists, checked with a keyring of their own, as packages for apt.

Each archive is read in an apt state of its own. Of its lists only names, versions and relations go on to the state
that resolves packages, written again from what was read here. So no archive can pass for the base's: its packages
have names that the base lacks (unless the recipe asks for one from this archive), provide none that the base has, and
are never essential.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from privml.base.errors import InputsError
from privml.lock.aptstate import Kept
from privml.lock.apttools import AptTools
from privml.lock.archiverecord import AddedArchive, Archive
from privml.lock.debian import dependency_names, fields_of, not_essential
from privml.lock.lists import Accept, Lists
from privml.lock.models import LOCAL
from privml.lock.wanted import Wanted, WantedArchive
from privml.recipe.distributions import Suite
from privml.store.mirrors import Mirrors

MAX_PACKAGES = 100_000
_RELATIONS = ("Pre-Depends", "Depends", "Conflicts", "Breaks", "Replaces")
_SHOWN = 5


@dataclass(frozen=True)
class Offer:
    """The packages that apt may choose from the archive ``label``; ``state`` is its signed state.

    ``inrelease`` is empty if the archive was not asked. Files next to the recipe have no state.
    """

    label: str
    packages: tuple[Kept, ...]
    state: AddedArchive | None = None
    inrelease: bytes = b""


def offer_of(
    tools: AptTools, mirrors: Mirrors, one: WantedArchive, wanted: Wanted, taken: frozenset[str], state: Accept
) -> Offer:
    """Read an archive and check its signed state with ``state`` and the recipe; ``taken`` are the base's names."""
    kept = tuple(_passed(each, taken) for each in wanted.kept_of(one.label))
    if one.stays is not None:
        return Offer(one.label, kept, one.stays)
    asked = {name for name, label in wanted.from_archives.items() if label == one.label}
    with Lists.with_keyring(tools, mirrors, (one.suite,), one.keyring.packets, _frozen(one, state)) as lists:
        (found,), (inrelease,) = lists.archives, lists.inreleases
        listed = [(index, fields) for index in lists.indexes() for fields in index.stanzas()]
    if len(listed) > MAX_PACKAGES:
        raise InputsError(f"{one.label}: its lists have {len(listed)} packages, expected at most {MAX_PACKAGES}")
    is_kernel = wanted.base.distribution.kernel.is_kernel
    coming = [(index, fields) for index, fields in listed if _may_come(fields, asked, taken, is_kernel)]
    for _, fields in coming:
        if (name := fields.get("Package")) in asked:
            not_essential(fields, f"`{name}/{one.label}`")
    records = [Kept(index.record(fields), _stanza(fields, taken)) for index, fields in coming]
    packages = (*kept, *_pinned(one, records, kept))
    there = {each.package.name for each in packages}
    if missing := sorted(asked - there):
        raise InputsError(
            f"the archive `{one.label}` has no package {', '.join(f'`{name}`' for name in missing)}",
            hint=f"its packages, without those that the base has: {', '.join(sorted(there)[:_SHOWN]) or 'none'}"
            + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""),
        )
    added = AddedArchive(
        **found.model_dump(),
        components=one.suite.components,
        keyring_sha256=one.keyring.sha256,
        fingerprints=one.keyring.fingerprints,
    )
    return Offer(one.label, packages, added, inrelease)


def local_offer(wanted: Wanted, taken: frozenset[str]) -> Iterator[Offer]:
    """The files next to the recipe, if there are any."""
    if kept := wanted.kept_of(LOCAL):
        yield Offer(LOCAL, tuple(_passed(each, taken) for each in kept))


def _frozen(one: WantedArchive, state: Accept) -> Accept:
    """``state``, and whether the recipe names the signed state of an archive that says no Valid-Until."""
    field = f"archives.{one.label}.inrelease_sha256"

    def accept(suite: Suite, inrelease: bytes) -> Archive:
        found = state(suite, inrelease)
        digest = hashlib.sha256(inrelease).hexdigest()
        if found.valid_until is not None and one.inrelease_sha256 is not None:
            raise InputsError(
                f"{field}: the signed state is valid until {found.valid_until}, so expected no digest of it",
                hint="leave the field out: the lock names the state, and a later one may be as good",
            )
        if found.valid_until is None and one.inrelease_sha256 is None:
            raise InputsError(
                f"{field}: the signed state has no Valid-Until, expected the SHA-256 of its InRelease file: nothing "
                "else shows that a state is an old one",
                hint=f"if the state of {found.date} is the one that you want: `inrelease_sha256: {digest}`",
            )
        if found.valid_until is None and one.inrelease_sha256 != digest:
            raise InputsError(
                f"{field}: got a signed state of {found.date} with the SHA-256 {digest}, "
                f"expected {one.inrelease_sha256}",
                hint="the archive has changed, or a mirror serves another state: write the one that you want",
            )
        return found

    return accept


def _may_come(
    fields: Mapping[str, str], asked: Iterable[str], taken: frozenset[str], is_kernel: Callable[[str], bool]
) -> bool:
    name = fields.get("Package", "")
    here = fields.get("Architecture") in ("amd64", "all")
    return here and (name in asked or not (name in taken or is_kernel(name)))


def _pinned(one: WantedArchive, records: list[Kept], kept: Iterable[Kept]) -> Iterator[Kept]:
    """The packages in the versions that the recipe pins; ``InputsError`` if one is not there."""
    held = {(each.package.name, each.package.version) for each in kept}
    for name, version in one.pins.items():
        versions = [each.package.version for each in records if each.package.name == name]
        if version not in versions and (name, version) not in held:
            got = ", ".join(versions) or "no such package"
            raise InputsError(
                f"archives.{one.label}.pins.{name}: got {got}, expected {version}",
                hint="name a version that the archive has, or leave the pin out",
            )
    for each in records:
        if one.pins.get(each.package.name, each.package.version) == each.package.version:
            yield each


def _passed(each: Kept, taken: frozenset[str]) -> Kept:
    return Kept(each.package, _stanza(fields_of(each.control), taken))


def _stanza(fields: Mapping[str, str], taken: frozenset[str]) -> str:
    """What apt may know of a package, one line a field."""
    lines = {name: fields[name] for name in ("Package", "Version", "Architecture", "Multi-Arch") if name in fields}
    lines |= {name: fields[name] for name in _RELATIONS if name in fields}
    provided = [each.strip() for each in fields.get("Provides", "").split(",")]
    own = [each for each in provided if each and not set(dependency_names(each)) & taken]
    if own:
        lines["Provides"] = ", ".join(own)
    return "\n".join(f"{name}: {' '.join(value.split())}" for name, value in lines.items())
