"""The volumes that a recipe asks for besides the root: one record for models and data, and rules about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privml.events import volumes
from privml.events.volumes import Slot
from privml.recipe.data import Data
from privml.recipe.document import Path, spelled
from privml.recipe.encryption import Encrypt
from privml.recipe.inference import Model

if TYPE_CHECKING:
    from privml.recipe.models import Content


@dataclass(frozen=True)
class Volume:
    """A volume: its place in the image, its name in the recipe, its encryption, and its path in the recipe."""

    slot: Slot
    name: str
    encrypt: Encrypt | None
    path: Path

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"{self.slot.kind.name} `{self.name}`"

    def field(self, name: str) -> str:
        """The name of one of its fields in the recipe, such as ``inference.models[0].source``."""
        return spelled((*self.path, *name.split(".")))


def volumes_of(content: Content) -> tuple[Volume, ...]:
    """The volumes of a recipe, in their order in the image."""
    models = [] if content.inference is None else content.inference.models
    fields: tuple[tuple[Path, Sequence[Model | Data]], ...] = (
        (("inference", "models"), models), (("data",), content.data),
    )  # fmt: skip
    return tuple(
        Volume(volumes.Slot(kind, number), entry.name, entry.encrypt, (*path, number))
        for kind, (path, entries) in zip(volumes.KINDS, fields, strict=True)
        for number, entry in enumerate(entries)
    )


def problems(content: Content) -> Iterator[tuple[Path, str, str]]:
    """What is wrong with volumes and brokers: the field, the broken rule, and the text."""
    if content.data and not content.services:
        text = "the recipe has no service that could read it; neither engine nor agent does"
        yield ("data",), "data-unused", text
    encrypted = [(volume, volume.encrypt) for volume in volumes_of(content) if volume.encrypt is not None]
    brokers = {} if content.keys is None else content.keys.brokers
    resources: dict[str, str] = {}
    for volume, encrypt in encrypted:
        path: Path = (*volume.path, "encrypt")
        if encrypt.broker not in brokers:
            known = f"one of {', '.join(brokers)}" if brokers else "it in `keys.brokers`, which has none"
            yield (*path, "broker"), "key-broker", f"got `{encrypt.broker}`, expected {known}"
        if (other := resources.setdefault(encrypt.resource, volume.title)) != volume.title:
            text = f"got `{encrypt.resource}`, the key of {other} too: expected a key for each volume"
            yield (*path, "resource"), "key-resource", text
    used = {encrypt.broker for _, encrypt in encrypted}
    keys: dict[str, str] = {}
    for name, broker in brokers.items():
        place: Path = ("keys", "brokers", name)
        if name not in used:
            yield place, "key-broker", f"no volume is encrypted for `{name}`: the guest would wait for nothing of it"
        if (other := keys.setdefault(broker.ed25519, name)) != name:
            yield (*place, "ed25519"), "key-broker", f"the same key as `{other}`, expected a key for each broker"
