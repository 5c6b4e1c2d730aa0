"""Fields of a recipe: the boot agent's server, and who may use it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints, WithJsonSchema, model_validator

from privml.events import configuration
from privml.recipe.finding import RuleBroken
from privml.recipe.section import CONFIG, Section, about, given

FIRST_PORT = 1024


def _port(value: int) -> int:
    if value < FIRST_PORT:
        raise RuleBroken("privileged-port", f"got `{value}`, expected a port from {FIRST_PORT} to 65535")
    return value


class Agent(Section):
    """The boot agent's server."""

    listen: Annotated[
        int,
        AfterValidator(_port),
        about("The guest's TCP port, from 1024.", 8443, CONFIG, le=65535),
        WithJsonSchema({"type": "integer", "minimum": FIRST_PORT, "maximum": 65535}),
    ]
    max_concurrency: Annotated[
        int, about("Maximum number of concurrent answers; further callers get status 429.", 64, CONFIG, ge=1, le=1024)
    ]
    per_address: Annotated[
        int,
        about(
            "How many handshakes, and how many attestation documents, one network address (IPv6: a /64) may have in "
            "progress; 0 for no limit, for a guest that sees only the address of a balancer or terminator.",
            64,
            CONFIG,
            ge=0,
            le=configuration.MAX_PER_ADDRESS,
        ),
    ] = configuration.PER_ADDRESS
    metrics: Annotated[
        bool,
        about(
            "Whether anyone may read counts of connections and requests at /metrics, as of the last whole minute.",
            True,
            CONFIG,
        ),
    ] = False
    callers: Annotated[
        configuration.Callers,
        about(
            "Who may use engine and services: `open`, whoever connects; `outer`, whoever the TLS terminator in front "
            "lets in, by sealed requests only; `tokens`, whoever has a token of the issuer.",
            configuration.TOKENS,
            CONFIG,
        ),
    ] = configuration.OPEN
    issuer: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None,
        given("a public key; leave it out unless `callers` is `tokens`"),
        about(
            "The Ed25519 public key that signs callers' tokens.",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            CONFIG,
        ),
    ] = None

    @model_validator(mode="after")
    def _with_an_issuer(self) -> Agent:
        if (self.callers == configuration.TOKENS) != (self.issuer is not None):
            raise ValueError(f"expected `issuer` with `callers: {configuration.TOKENS}`, and only then")
        return self

    @classmethod
    def late(cls) -> dict[str, object]:
        """The defaults of the fields that were added to schema 2 later."""
        return {name: field.default for name, field in cls.model_fields.items() if not field.is_required()}
