"""One case: the input of a verifier and what it must answer; and the shapes that most cases have."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tests.negative import forge
from tests.negative.forge import NONCE, NOW, SPKI, Guest
from tests.negative.pki import Platform

ACCEPTED = "accepted"
SIMULATED = "accepted-simulated"
REFUSED = "refused"
MALFORMED = "malformed"

HONEST = Guest()
PLATFORM = Platform()


@dataclass(frozen=True)
class Case:
    """The input of a verifier and what it must answer.

    A refusal must have all of ``codes``, and may also have those of ``also``. ``allowed`` says that the
    simulated root is accepted, ``devices_allowed`` that those of simulated devices are. ``device_collateral`` has
    NVIDIA's answers and reference values, or is None: then the document's own count.
    """

    about: str
    document: bytes
    outcome: str
    codes: tuple[str, ...] = ()
    statement: dict[str, Any] = field(default_factory=forge.statement)
    purpose: str = "serve"
    policy: dict[str, Any] = field(default_factory=dict)
    nonce: bytes | None = NONCE
    spki: bytes | None = SPKI
    time: int = NOW
    allowed: bool = True
    collateral: dict[str, str] | None = field(default_factory=PLATFORM.collateral)
    also: tuple[str, ...] = ()
    device_collateral: dict[str, list[str]] | None = None
    devices_allowed: bool = False


def guest(about: str, *codes: str, expect: dict[str, Any] | None = None, **changes: Any) -> Case:
    """A refused guest that really signed what it sends."""
    more = {} if expect is None else expect
    return Case(about, HONEST.with_(**changes).document(), REFUSED, codes, **more)


def sent(about: str, *codes: str, **fields: Any) -> Case:
    """The honest document with other fields on the way."""
    return Case(about, HONEST.document(**fields), REFUSED, codes)


def malformed(about: str, document: bytes) -> Case:
    return Case(about, document, MALFORMED)


def with_(about: str, *codes: str, outcome: str = REFUSED, **changes: Any) -> Case:
    """The honest document, asked for or expected in another way."""
    return replace(Case(about, HONEST.document(), outcome, codes), **changes)
