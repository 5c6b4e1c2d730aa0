"""What changed between the recipes of two images: their effective fields, as far as the outputs have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from privml.base.errors import BuildError, EvidenceError
from privml.base.strictjson import canonical
from privml.events.boots import DIRECT
from privml.image import inputs, madeby
from privml.lock.archiverecord import AddedArchive
from privml.lock.models import Lock
from privml.output import manifest as manifests
from privml.output.manifest import Manifest
from privml.recipe import tees
from privml.recipe.document import MAX_BYTES
from privml.recipe.effective import NONE, digest_of, fields_of
from privml.recipe.fields import PLATFORM, fact_named, facts, leaves
from privml.recipe.loader import EXTENDS
from privml.repro.change import FIELD, NAME, TEXT, Change, limited, lower

_MAX_RECORD = 16 << 20
_MAX_RECIPE = 4 * MAX_BYTES


@dataclass(frozen=True)
class Side:
    """An image's directory as far as it tells what the image was built from.

    ``recipe`` is the effective recipe of the input record if it is the one that the manifest names; ``notes`` say
    what is missing.
    """

    directory: Path
    manifest: Manifest
    lock: Lock | None
    recipe: Mapping[str, Any] | None
    notes: tuple[str, ...] = ()


def side_of(directory: Path) -> Side:
    """Read what ``directory`` has: a manifest always, locks and input record if they belong to it."""
    manifest = manifests.read(directory)
    notes = []
    try:
        made = madeby.read(directory, manifest)
    except BuildError as error:
        made = None
        notes.append(error.message)
    recipe = None
    record = directory / inputs.FILE
    if record.is_file():
        try:
            kept = inputs.decode(_bytes(record)).recipe
            size = len(canonical(dict(kept)))
            if kept and digest_of(kept) == manifest.recipe_sha256 and size <= _MAX_RECIPE and _has_content(kept):
                recipe = kept
            elif kept:
                notes.append(f"{record} has another recipe than the one that manifest.json names")
        except (EvidenceError, OSError, ValueError) as error:
            notes.append(f"{record} cannot be read: {error}")
    return Side(directory, manifest, None if made is None else made.lock, recipe, tuple(notes))


def _bytes(record: Path) -> bytes:
    with record.open("rb") as file:
        data = file.read(_MAX_RECORD + 1)
    if len(data) > _MAX_RECORD:
        raise EvidenceError(f"more than {_MAX_RECORD} bytes")
    return data


def _has_content(effective: Mapping[str, Any]) -> bool:
    return isinstance(effective.get("content"), dict)


def recipe_changes(a: Side, b: Side) -> tuple[tuple[Change, ...], tuple[str, ...], tuple[str, ...]]:
    """The changes of name and effective fields; notes on what is missing; the fields that cannot be told."""
    found = []
    notes = [*a.notes, *b.notes]
    if a.manifest.name != b.manifest.name:
        found.append(Change(NAME, "of the recipe", a.manifest.name, b.manifest.name))
    if a.manifest.recipe_sha256 == b.manifest.recipe_sha256:
        return tuple(found), tuple(notes), ()
    whole = a.recipe is not None and b.recipe is not None
    if a.recipe is not None and b.recipe is not None:
        tables = [_fields(a.recipe["content"]), _fields(b.recipe["content"])]
    else:
        tables = [told(a), told(b)]
    differing = limited(_differing(*tables), {*a.manifest.firmware, *b.manifest.firmware})
    fields = tuple(_as_locked(change, a.lock, b.lock) for change in differing)
    found += fields
    if whole and not fields:
        found.append(Change(TEXT, "of the recipe", "the same fields", "with other comments or lines"))
    missing = () if whole else tuple(untold(*tables))
    if missing:
        names = " and ".join(str(side.directory) for side in (a, b) if side.recipe is None)
        notes.append(
            f"{names} {'do' if a.recipe is b.recipe else 'does'} not contain the recipe, so these fields cannot be "
            f"compared: {', '.join(missing)}"
        )
    return tuple(found), tuple(notes), missing


def _fields(content: Mapping[str, Any]) -> dict[str, str]:
    """The fields of an effective recipe, which leaves a direct boot out."""
    return {"boot": DIRECT, **fields_of(content)}


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> list[Change]:
    found = []
    for name in _in_order({*a, *b}):
        before, after = a.get(name, NONE), b.get(name, NONE)
        if before != after:
            fact = fact_named(name)
            found.append(Change(FIELD, name, before, after, lower(fact.moves) if fact else ()))
    return found


def _as_locked(change: Change, *locks: Lock | None) -> Change:
    """The change, which moves nothing if it is of an archive from which both locks have the same packages.

    An archive's fields only decide which packages `lock` chooses.
    """
    section, *inner = change.name.split(".")
    known = [lock for lock in locks if lock is not None]
    if section != "archives" or not inner or len(known) != len(locks):
        return change
    names = {package.name for lock in known for package in lock.packages if package.archive == inner[0]}
    one, two = ({each.name: each.sha256 for each in lock.packages if each.name in names} for lock in known)
    return replace(change, registers=()) if one == two else change


def _in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of the recipe's sections; a record has them sorted."""
    order = _section_order()

    def place(name: str) -> tuple[int, str]:
        fact = fact_named(name)
        return order[fact.path] if fact else len(order), name

    return sorted(names, key=place)


@cache
def _section_order() -> Mapping[str, int]:
    order: dict[str, int] = {}
    for number, path in enumerate(facts()):
        order[path] = order.get(path.rpartition(".")[0], number)
    return order


def told(side: Side) -> dict[str, str]:
    """The fields that manifest and lock tell, for an output without its recipe."""
    manifest, lock = side.manifest, side.lock
    content: dict[str, Any] = {
        "variant": manifest.variant,
        "boot": manifest.boot,
        "agent": {"listen": manifest.listen},
        "exceptions": [each.to_dict() for each in manifest.exceptions],
        "platforms": list(manifest.platforms),
        "shapes": [{"vcpus": shape.vcpus, "memory": shape.memory} for shape in manifest.shapes],
        "network": [card.to_dict() for card in manifest.network],
    }
    found = fields_of(content)
    if manifest.engine is not None:
        found["inference.engine.name"] = manifest.engine.name
    found |= fields_of(
        {"inference": {"models": [{"name": one.name, "source": one.source} for one in manifest.models]}}
        if manifest.models
        else {}
    )
    data = [{"name": one.name, "source": one.source} for one in manifest.data]
    found |= fields_of({"data": data} if data else {})
    if lock is None:
        return found
    asked = lock.packages_requested
    is_image = lock.base.record.distribution.kernel.is_image
    kernel = next((name for name in asked if is_image(name.partition("/")[0])), None)
    none: dict[str, Any] = dict.fromkeys(tees.BUILT)  # without firmware, that is told of all its fields
    firmware = none | {tee: _package(each.requested) for tee, each in lock.firmware.items()}
    templates = [{"chat_template": one.chat_template and one.chat_template.path} for one in lock.models]
    return found | fields_of(
        {
            **({"inference": {"models": templates}} if templates else {}),
            # Without an archive, that is told of all their fields.
            "archives": {one.label: _archive(one) for one in lock.added_archives} or None,
            "base": lock.base.model_dump(),
            "kernel": {**({} if kernel is None else _package(kernel)), "options": list(lock.kernel_options)},
            "firmware": firmware,
            "programs": list(lock.programs),
        }
    )


def _archive(locked: AddedArchive) -> dict[str, Any]:
    return {
        "suite": locked.suite,
        "components": list(locked.components),
        "fingerprints": list(locked.fingerprints),
        "inrelease_sha256": None if locked.valid_until else locked.inrelease_sha256,
    }


def _package(request: str) -> dict[str, str | None]:
    name, _, suite = request.partition("/")
    return {"package": name, "suite": suite or None}


def untold(*tables: Mapping[str, str]) -> list[str]:
    """The fields of recipes that no table has, by the names of `lint --explain`."""
    known = {fact.path for table in tables for name in table if (fact := fact_named(name))}
    return [
        path
        for path in leaves()
        if not path.startswith(f"{PLATFORM}.")
        and path not in (EXTENDS, "schema")
        and not any(path == one or path.startswith(f"{one}.") for one in known)  # told, or told to be empty
    ]
