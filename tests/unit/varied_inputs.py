"""Inputs of the varied images that come from outside the base: added archives, and models with what belongs to them.

The files next to a recipe (keyrings, signatures, keys) are made as the recipe asks, and our own code reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import model_signer as signer
from tests.signing import Key, armoured

from privml.lock.archiverecord import AddedArchive
from privml.lock.chattemplate import with_template
from privml.lock.modelrecord import Model, ModelFile, UrlSource
from privml.lock.modelsignature import signed
from privml.lock.wanted import WantedArchive
from privml.recipe.loader import Recipe
from privml.recipe.models import Content
from privml.recipe.packages import models_in
from privml.store.objects import Store

# What each package of an added archive depends on in the same archive.
NEEDS = {"acme-tool": ("acme-lib",)}
# Version of the packages of each suite of an added archive.
SUITES = {"stable": "2.0", "testing": "3.0"}
# The keys that may sign archives, by fingerprint.
KEYS = {key.fingerprint: key for key in map(Key, ("acme", "spare"))}


def write_keyrings(folder: Path, content: Content) -> None:
    """Write the keyring of each archive, with the keys that the recipe lists."""
    for archive in content.archives.values():
        packets = b"".join(KEYS[each].public for each in archive.fingerprints)
        place = folder / archive.keyring
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(armoured(packets) if place.suffix == ".asc" else packets)


def chosen_from(one: WantedArchive, content: Content) -> Iterator[tuple[str, str]]:
    """Name and version of each package that comes from an archive."""
    asked = [name for name, label in content.archive_packages if label == one.label]
    for name in [*asked, *(other for each in asked for other in NEEDS[each])]:
        yield name, one.pins.get(name, SUITES[one.suite.name])


def state_of(one: WantedArchive) -> AddedArchive:
    """The state of an archive; each suite has one, or the one that the recipe asks for."""
    own = hashlib.sha256(f"{one.label}/{one.suite.name}".encode()).hexdigest()
    return AddedArchive(
        label=one.label,
        suite=one.suite.name,
        inrelease_sha256=one.inrelease_sha256 or own,
        date="2025-06-14T00:00:00Z",
        valid_until=None if one.inrelease_sha256 else "2025-06-21T00:00:00Z",
        expired=False,
        components=one.suite.components,
        keyring_sha256=one.keyring.sha256,
        fingerprints=one.keyring.fingerprints,
    )


def model_of(recipe: Recipe, number: int, store: Store, signatures: dict[str, bytes]) -> Model:
    """The locked model number ``number`` of ``recipe``, whose files are made of their names and digests.

    The same files have the same signature under the same name: ``signatures`` keeps them.
    """
    asked = models_in(recipe)[number]
    parts = [(part.name, part.sha256) for part in asked.files or ()] or [
        (asked.source.rpartition("/")[2], asked.sha256 or "")
    ]
    files = tuple(
        ModelFile(path=name, size=64, sha256=store.add_bytes((name + sha256).encode().ljust(64)))
        for name, sha256 in parts
    )
    model = Model(
        name=asked.name, source=UrlSource(url=asked.source), files=files, licence=asked.licence, signature=None
    )
    if asked.signature is not None:
        payload = signer.statement({file.path: file.sha256 for file in files})
        key = f"{asked.signature.file} {payload} {asked.signature.key is None}"
        if key not in signatures:
            signatures[key] = signer.bundle(payload) if asked.signature.key else signer.keyless(payload)
        for field, name in asked.signature.files.items():
            data = {"file": signatures[key], "key": signer.PEM}.get(field[0], b"{}")
            (recipe.path.parent / name).parent.mkdir(exist_ok=True)
            (recipe.path.parent / name).write_bytes(data)
    return with_template(recipe, number, signed(recipe, number, model), store)
