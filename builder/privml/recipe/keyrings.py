"""The keyrings of a recipe's archives: local files with exactly the keys whose fingerprints the recipe lists."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from privml.recipe import openpgp
from privml.recipe.archives import ARMOURED, AddedArchive
from privml.recipe.document import Path, spelled
from privml.recipe.finding import Finding
from privml.recipe.loader import Recipe
from privml.recipe.openpgp import KeyringError
from privml.recipe.rules import RULES
from privml.recipe.validation import mark_of

_RULE = "archive-keyring"


@dataclass(frozen=True)
class Keyring:
    """The checked keyring of an archive: the digest of its file, its keys, and its packets for apt."""

    sha256: str
    fingerprints: tuple[str, ...]
    packets: bytes


def read(recipe: Recipe) -> tuple[dict[str, Keyring], list[Finding]]:
    """The keyring of each archive of ``recipe`` by its label, and the problems of those that cannot be used."""
    found: dict[str, Keyring] = {}
    findings = []
    for label, archive in recipe.content.archives.items():
        try:
            found[label] = _read(recipe, archive)
        except KeyringError as error:
            path: Path = ("archives", label, "keyring")
            mark = mark_of(path, recipe.source)
            text = f"{spelled(path)}: `{archive.keyring}`: {error}{recipe.source.counterpart(path)}"
            findings.append(Finding(text, _RULE, RULES[_RULE].severity, mark.file, mark.line))
    return found, findings


def _read(recipe: Recipe, archive: AddedArchive) -> Keyring:
    folder = recipe.path.parent
    place = folder / archive.keyring
    if not place.resolve().is_relative_to(folder.resolve()):
        raise KeyringError("it leads outside the recipe's folder")
    if not place.is_file():
        raise KeyringError(
            "it is not a file" if place.exists() else "it does not exist, seen from the recipe's folder"
        )
    try:
        with place.open("rb") as file:
            data = file.read(openpgp.MAX_BYTES + 1)
    except OSError as error:
        raise KeyringError(f"it cannot be read: {(error.strerror or '').lower()}") from error
    if len(data) > openpgp.MAX_BYTES:
        raise KeyringError(f"it has more than {openpgp.MAX_BYTES} bytes")
    packets = openpgp.unarmoured(data) if archive.keyring.endswith(ARMOURED) else data
    keys = openpgp.keys(packets)
    if wrong := [*_differences(keys, archive.fingerprints)]:
        raise KeyringError("; ".join(wrong))
    return Keyring(hashlib.sha256(data).hexdigest(), tuple(sorted(archive.fingerprints)), packets)


def _differences(keys: tuple[openpgp.Key, ...], listed: list[str]) -> Iterator[str]:
    primary = [key.fingerprint for key in keys]
    above = {subkey: key.fingerprint for key in keys for subkey in key.subkeys}
    for each in sorted(set(primary)):
        if primary.count(each) > 1:
            yield f"it has the key {each} twice"
        if each in above:
            yield f"it has the key {each} also as a subkey of {above[each]}"
        if each not in listed:
            yield f"got the key {each}, which is not among the `fingerprints`"
    for each in listed:
        if each in above:
            yield f"{each} is a subkey; expected the fingerprint of its primary key, {above[each]}"
        elif each not in primary:
            yield f"it lacks the key {each}, which is among the `fingerprints`"
