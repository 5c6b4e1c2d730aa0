"""The archives that a recipe adds: what is asked of them, and whether a lock is of the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from privml.lock.archiverecord import AddedArchive
from privml.lock.models import Lock, Package
from privml.lock.wanted import WantedArchive
from privml.recipe import keyrings
from privml.recipe.finding import RecipeProblems
from privml.recipe.loader import Recipe
from privml.recipe.packages import Request
from privml.store.objects import Store


def archives_of(recipe: Recipe) -> tuple[WantedArchive, ...]:
    """The archives of ``recipe``, sorted by label; ``RecipeProblems`` if the keyring of one cannot be used."""
    rings, findings = keyrings.read(recipe)
    if findings:
        raise RecipeProblems(findings, hint=f"why: `privml-build lint --explain {findings[0].rule}`")
    return tuple(
        WantedArchive(each.suite_of(label), rings[label], each.pins, each.inrelease_sha256)
        for label, each in sorted(recipe.content.archives.items())
    )


def differences(archives: Sequence[WantedArchive], lock: Lock) -> Iterator[str]:
    """One line for each archive whose record in the lock is of another."""
    records = {record.label: record for record in lock.added_archives}
    for one in archives:
        record = records.pop(one.label, None)
        if record is None:
            yield f"archive {one.label}: is new"
        elif wrong := [*_other(one, record, lock.packages)]:
            yield f"archive {one.label}: changed: {', '.join(wrong)}"
    for label in records:
        yield f"archive {label}: no longer used"


def staying(
    archives: Iterable[WantedArchive],
    previous: Lock,
    requests: Sequence[Request],
    pins: Mapping[str, str],
    store: Store,
) -> tuple[WantedArchive, ...]:
    """The archives, those with their previous states of which the same is asked and all packages are kept."""
    records = {record.label: record for record in previous.added_archives}
    before = [Request.parse(text) for text in previous.packages_requested]

    def stays(one: WantedArchive) -> bool:
        mine = [package for package in previous.packages if package.archive == one.label]
        return (
            one.label in records
            and not [*_other(one, records[one.label], previous.packages)]
            and _asked(one, before) == _asked(one, requests)
            and all(pins.get(each.name) == each.version and store.has(each.sha256) for each in mine)
        )

    return tuple(replace(one, stays=records[one.label]) if stays(one) else one for one in archives)


def recipe_pins(archives: Iterable[WantedArchive]) -> dict[str, str]:
    """The versions that the recipe asks for."""
    return {name: version for one in archives for name, version in one.pins.items()}


def _asked(one: WantedArchive, requests: Iterable[Request]) -> set[str]:
    return {request.name for request in requests if request.suite == one.label}


def _other(one: WantedArchive, record: AddedArchive, packages: Iterable[Package]) -> Iterator[str]:
    """What is not as in the lock."""
    if record.suite != one.suite.name:
        yield f"suite {record.suite} -> {one.suite.name}"
    if record.components != one.suite.components:
        yield f"components {' '.join(record.components)} -> {' '.join(one.suite.components)}"
    if record.keyring_sha256 != one.keyring.sha256:
        yield "keyring"
    if record.fingerprints != one.keyring.fingerprints:
        yield "fingerprints"
    if one.inrelease_sha256 != (None if record.valid_until else record.inrelease_sha256):
        yield "inrelease_sha256"
    locked = {package.name: package.version for package in packages if package.archive == one.label}
    yield from (f"pin of {name}" for name, version in one.pins.items() if locked.get(name) != version)
