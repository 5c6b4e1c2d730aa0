"""The archives of a lock: the release that is its base, and the archives' signed states."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, WithJsonSchema, model_validator

from privml.lock.record import Label, Record, Sha256, Text, Time
from privml.recipe import distributions
from privml.recipe.distributions import DISTRIBUTIONS


class Base(Record):
    """The distribution and release that packages were resolved from."""

    distribution: Annotated[Text, WithJsonSchema({"enum": list(DISTRIBUTIONS)})]
    release: Annotated[
        Text, WithJsonSchema({"enum": sorted({n for each in DISTRIBUTIONS.values() for n in each.releases})})
    ]

    @model_validator(mode="after")
    def _known(self) -> Base:
        known = DISTRIBUTIONS.get(self.distribution)
        if known is None or self.release not in known.releases:
            names = [f"{each.name} {release}" for each in DISTRIBUTIONS.values() for release in each.releases]
            raise ValueError(f"got {self.distribution} {self.release}, expected {' or '.join(names)}")
        return self

    @property
    def record(self) -> distributions.Base:
        """The records of distribution and release."""
        return distributions.base(self.distribution, self.release)

    @staticmethod
    def of(base: distributions.Base) -> Base:
        """The names of ``base``."""
        return Base(distribution=base.distribution.name, release=base.release.codename)


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
