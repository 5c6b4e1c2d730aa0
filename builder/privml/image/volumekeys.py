"""Where the encrypted volumes of an image come from: a key each, or an image whose ciphertext is taken as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from privml.base.errors import InputsError, UsageError
from privml.base.files import sha256_file
from privml.events.crypt import Crypt
from privml.lock.models import Lock
from privml.output import manifest as manifests
from privml.output import volumekey
from privml.output.contents import Data, Model
from privml.output.volumekey import VolumeKey
from privml.recipe.loader import Recipe
from privml.recipe.volumes import Volume, volumes_of


@dataclass(frozen=True)
class Given:
    """An encrypted volume of another image: its file there, and what that image's manifest says of it."""

    path: Path
    entry: Model | Data

    @property
    def crypt(self) -> Crypt:
        """Its encryption."""
        assert self.entry.crypt is not None
        return self.entry.crypt

    def text(self) -> str:
        """One line for a report."""
        return f"{self.entry.volume}: given, not made: the ciphertext of {self.path}, for `{self.crypt.resource}`"

    def to_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "volume": self.entry.volume,
            "from": str(self.path),
            "resource": self.crypt.resource,
            "generation": self.crypt.generation,
        }


@dataclass(frozen=True)
class Encryption:
    """How one volume is encrypted, and what it is made from: a key, or given bytes; nothing if it is only kept."""

    crypt: Crypt
    key: VolumeKey | None = None
    given: Given | None = None


@dataclass(frozen=True)
class VolumeKeys:
    """What `image` was given for encrypted volumes: keys by resource, and the directory of another image."""

    keys: Mapping[str, VolumeKey] = field(default_factory=dict)
    directory: Path | None = None

    @classmethod
    def of(cls, keys: Sequence[VolumeKey], directory: Path | None = None) -> VolumeKeys:
        """Of the given keys; ``UsageError`` if two are of one resource."""
        found: dict[str, VolumeKey] = {}
        for key in keys:
            if key.resource in found:
                raise UsageError(f"two keys of the resource `{key.resource}` are given, expected one")
            found[key.resource] = key
        return cls(found, directory)

    @classmethod
    def read(cls, files: Sequence[Path], directory: Path | None) -> VolumeKeys:
        """Of the files and the directory that `--key` and `--volumes` name."""
        if directory is not None and not directory.is_dir():
            raise UsageError(f"--volumes: {directory} is not a directory", hint="name the directory of an image")
        return cls.of([volumekey.read(path) for path in files], directory)

    def __bool__(self) -> bool:
        return bool(self.keys) or self.directory is not None

    def of_volumes(
        self, recipe: Recipe, earlier: Mapping[str, Crypt | None] = MappingProxyType({})
    ) -> tuple[Encryption | None, ...]:
        """How each volume of models and data is encrypted; None for one that is not.

        A volume of the ``earlier`` image (by its file) for which nothing is given can only be kept. Its broker is
        always the recipe's, because the ciphertext does not depend on it. ``UsageError`` for a volume with nothing to
        take it from, and for what no volume needs.
        """
        asked = volumes_of(recipe.content)
        wanted = {volume.encrypt.resource for volume in asked if volume.encrypt is not None}
        if unknown := sorted(set(self.keys) - wanted):
            expected = f"one of {', '.join(sorted(wanted))}" if wanted else "none: no volume is encrypted"
            raise UsageError(f"--key: {recipe.name} has no resource `{unknown[0]}`, expected {expected}")
        if self.directory is not None and not wanted - set(self.keys):
            raise UsageError(f"--volumes: {recipe.name} has no encrypted volume without a key: nothing to take")
        return tuple(self._of_volume(recipe, volume, earlier.get(volume.slot.file)) for volume in asked)

    def _of_volume(self, recipe: Recipe, volume: Volume, before: Crypt | None) -> Encryption | None:
        wanted = volume.encrypt
        if wanted is None:
            return None
        if (key := self.keys.get(wanted.resource)) is not None:
            return Encryption(key.crypt(wanted.broker), key=key)
        if self.directory is not None:
            given = self._given(self.directory, volume, wanted.resource)
            return Encryption(replace(given.crypt, broker=wanted.broker), given=given)
        if before is not None and before.resource == wanted.resource:
            return Encryption(replace(before, broker=wanted.broker))
        raise missing(recipe, volume)

    def _given(self, directory: Path, volume: Volume, resource: str) -> Given:
        made = manifests.read(directory)
        found = [each for each in made.filled if each.crypt is not None and each.crypt.resource == resource]
        if not found:
            has = ", ".join(each.crypt.resource for each in made.encrypted if each.crypt is not None)
            raise InputsError(
                f"--volumes: {directory} has no volume for the resource `{resource}`, only {has or 'plain volumes'}"
            )
        (entry,) = found
        if (entry.name, entry.volume) != (volume.name, volume.slot.file):
            raise InputsError(
                f"--volumes: the resource `{resource}` is of {entry.volume}, {entry.kind.name} `{entry.name}`, in "
                f"{directory}; expected {volume.slot.file}, {volume.title}",
            )
        path = directory / entry.volume
        if not path.is_file():
            raise InputsError(f"--volumes: {path} is missing", hint="name the directory of a whole image")
        return Given(path, entry)

    def given_of(self, recipe: Recipe) -> tuple[Given, ...]:
        """The volumes that are taken from another image; errors as in `of_volumes`."""
        return tuple(one.given for one in self.of_volumes(recipe) if one is not None and one.given is not None)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the directory that a build reads."""
        if self.directory is None:
            return ()
        entries = manifests.read(self.directory).filled
        return tuple(self.directory / name for name in (manifests.FILE, *(each.volume for each in entries)))

    @property
    def identity(self) -> dict[str, object]:
        """What tells one set from another, without any key: check values, and the digest of the other manifest."""
        of_directory = None if self.directory is None else sha256_file(self.directory / manifests.FILE)
        return {"checks": sorted(key.check.hex() for key in self.keys.values()), "volumes": of_directory}


def without_given(lock: Lock, encrypted: Sequence[Encryption | None]) -> Lock:
    """``lock`` without the models and data whose volumes are given, so that their plaintext is not needed."""
    needed = [one is None or one.key is not None for one in encrypted]
    of_models, of_data = needed[: len(lock.models)], needed[len(lock.models) :]
    models = tuple(model for model, used in zip(lock.models, of_models, strict=True) if used)
    data = tuple(each for each, used in zip(lock.data, of_data, strict=True) if used)
    return lock.model_copy(update={"models": models, "data": data})


def missing(recipe: Recipe, volume: Volume) -> UsageError:
    """The error for a volume that must be made, and whose key is not given."""
    assert volume.encrypt is not None
    where = recipe.origin(volume.field("encrypt.resource"))
    return UsageError(
        f"{volume.slot.file} is encrypted, and the key of `{volume.encrypt.resource}` is not given ({where})",
        hint="--key FILE gives it; without the key, --volumes DIR takes the encrypted volume of an image",
    )
