"""Fields of a recipe: which models are encrypted, and the key brokers that release their keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, StringConstraints, WithJsonSchema

from privml.events.crypt import MAX_BROKERS, MAX_RESOURCE, RESOURCE_LIKE, is_resource
from privml.recipe.document import Path
from privml.recipe.section import CONFIG, Section, about

if TYPE_CHECKING:
    from privml.recipe.models import Content

BrokerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$", max_length=MAX_RESOURCE)]
_PUBLIC_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
_RESOURCE_PATTERN = r"^[a-z0-9]+(?:[.-][a-z0-9]+)*(?:/[a-z0-9]+(?:[.-][a-z0-9]+)*)*$"


def _resource(value: str) -> str:
    if not is_resource(value):
        raise ValueError(f"got `{value}`, expected {RESOURCE_LIKE}, of at most {MAX_RESOURCE} characters")
    return value


class Encrypt(Section):
    """The encryption of a model's volume. `image --key` gives the key, which no image contains."""

    broker: Annotated[
        BrokerName, about("Who releases the key to accepted guests: one of `keys.brokers`.", "owner", CONFIG)
    ]
    resource: Annotated[
        str,
        AfterValidator(_resource),
        about("The key's name at the broker; each model has its own.", "model/smollm2", CONFIG),
        WithJsonSchema({"type": "string", "maxLength": MAX_RESOURCE, "pattern": _RESOURCE_PATTERN}),
    ]


class KeyBroker(Section):
    """A key broker."""

    ed25519: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")],
        about("The public key that signs its releases.", _PUBLIC_KEY, CONFIG),
    ]


class Keys(Section):
    """The keys of encrypted models."""

    brokers: Annotated[
        dict[BrokerName, KeyBroker],
        about(
            "The key brokers that the guest accepts a key from, by name.",
            f"{{owner: {{ed25519: {_PUBLIC_KEY}}}}}",
            CONFIG,
            key="BROKER",
            min_length=1,
            max_length=MAX_BROKERS,
        ),
    ]


def problems(content: Content) -> Iterator[tuple[Path, str, str]]:
    """What is wrong between models and brokers: the field, the broken rule, and the text."""
    models = content.inference.models if content.inference is not None else []
    encrypted = [(index, model.encrypt) for index, model in enumerate(models) if model.encrypt is not None]
    brokers = {} if content.keys is None else content.keys.brokers
    resources: dict[str, str] = {}
    for index, encrypt in encrypted:
        path: Path = ("inference", "models", index, "encrypt")
        if encrypt.broker not in brokers:
            known = f"one of {', '.join(brokers)}" if brokers else "it in `keys.brokers`, which has none"
            yield (*path, "broker"), "key-broker", f"got `{encrypt.broker}`, expected {known}"
        if (other := resources.setdefault(encrypt.resource, models[index].name)) != models[index].name:
            text = f"got `{encrypt.resource}`, the key of `{other}` too: expected a key for each model"
            yield (*path, "resource"), "key-resource", text
    used = {encrypt.broker for _, encrypt in encrypted}
    keys: dict[str, str] = {}
    for name, broker in brokers.items():
        place: Path = ("keys", "brokers", name)
        if name not in used:
            yield place, "key-broker", f"no model is encrypted for `{name}`: the guest would wait for nothing of it"
        if (other := keys.setdefault(broker.ed25519, name)) != name:
            yield (*place, "ed25519"), "key-broker", f"the same key as `{other}`, expected a key for each broker"
