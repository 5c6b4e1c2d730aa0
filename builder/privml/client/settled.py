"""A receipt that a proxy checked, as its page lists it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settled:
    """The receipt ``name`` of an answer of the guest at ``where`` to a request for ``target``, checked at ``at``.

    ``at`` is in Unix seconds. ``problems`` says why it was refused or is missing; it is empty if it was accepted.
    """

    name: str
    where: str
    target: str
    at: int
    problems: tuple[str, ...] = ()
