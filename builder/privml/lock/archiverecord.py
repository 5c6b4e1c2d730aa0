"""Signed states of archives, as they are in a lock."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from privml.lock.record import Label, Record, Sha256, Time


class Archive(Record):
    """The signed state of a suite when it was locked; ``expired`` if its Valid-Until had passed by then."""

    label: Label
    suite: Label
    inrelease_sha256: Sha256
    date: Time
    valid_until: Time | None
    expired: bool


class AddedArchive(Archive):
    """The signed state of an archive that the recipe adds, and the keyring that it was checked with.

    ``keyring_sha256`` is of the recipe's file, ``fingerprints`` are those of its primary keys, sorted.
    """

    components: Annotated[tuple[Label, ...], Field(min_length=1)]
    keyring_sha256: Sha256
    fingerprints: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^([0-9A-F]{40}|[0-9A-F]{64})$")], ...], Field(min_length=1)
    ]
