"""Fields of a recipe: which volumes are encrypted, and the key brokers that release their keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints, WithJsonSchema

from privml.base.resource import MAX_RESOURCE, RESOURCE_LIKE, is_resource
from privml.events.crypt import MAX_BROKERS
from privml.recipe.section import CONFIG, Section, about

BrokerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$", max_length=MAX_RESOURCE)]
_PUBLIC_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
_RESOURCE_PATTERN = r"^[a-z0-9]+(?:[.-][a-z0-9]+)*(?:/[a-z0-9]+(?:[.-][a-z0-9]+)*)*$"


def _resource(value: str) -> str:
    if not is_resource(value):
        raise ValueError(f"got `{value}`, expected {RESOURCE_LIKE}, of at most {MAX_RESOURCE} characters")
    return value


class Encrypt(Section):
    """The encryption of a volume. `image --key` gives the key, which no image contains."""

    broker: Annotated[
        BrokerName, about("Who releases the key to accepted guests: one of `keys.brokers`.", "owner", CONFIG)
    ]
    resource: Annotated[
        str,
        AfterValidator(_resource),
        about("The key's name at the broker; each volume has its own.", "model/smollm2", CONFIG),
        WithJsonSchema({"type": "string", "maxLength": MAX_RESOURCE, "pattern": _RESOURCE_PATTERN}),
    ]


class KeyBroker(Section):
    """A key broker."""

    ed25519: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")],
        about("The public key that signs its releases.", _PUBLIC_KEY, CONFIG),
    ]


class Keys(Section):
    """The keys of encrypted volumes."""

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
