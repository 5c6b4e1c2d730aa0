"""Check signed states of archives for freshness, after apt has checked their signatures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from privml.base.errors import InputsError
from privml.lock.archiverecord import Archive
from privml.lock.debian import Release
from privml.lock.record import format_time, parse_time
from privml.recipe.distributions import Suite

_AHEAD = timedelta(days=1)  # tolerated lag of this machine's clock


def judge(
    suite: Suite,
    release: Release,
    digest: str,
    before: Sequence[Archive],
    allow_expired: bool,
    now: datetime,
    origin: str,
) -> Archive:
    """Refuse a signed state of the wrong archive or suite, a rollback, and an expired state (unless accepted).

    An empty ``origin`` accepts any: then only the keyring says whose state it is.
    """
    name = f"{suite.archive}/{suite.name}"
    if (origin and release.origin != origin) or suite.name not in (release.codename, release.suite):
        raise InputsError(
            f"{name}: the signed state is for {release.origin} {release.codename} ({release.suite}), "
            f"expected {origin} {suite.name}".replace("expected  ", "expected ")
        )
    for old in before:
        if (old.label, old.suite) == (suite.archive, suite.name) and release.date < parse_time(old.date):
            raise InputsError(
                f"{name}: rollback: the mirror's state is of {format_time(release.date)}, the lock's of {old.date}",
                hint="use another mirror; an old state could bring back packages with known vulnerabilities",
            )
    if release.date > now + _AHEAD:
        raise InputsError(
            f"{name}: the mirror's state is of {format_time(release.date)}, but this machine's clock says "
            f"{format_time(now)}",
            hint="set the clock: expiry cannot be checked with a wrong one",
        )
    expired = release.valid_until is not None and release.valid_until < now
    # This expired state was already accepted and is recorded in the lock.
    known = any(old.expired and old.inrelease_sha256 == digest for old in before)
    if expired and not known and release.valid_until is not None and not allow_expired:
        raise InputsError(
            f"{name}: the mirror's state expired at {format_time(release.valid_until)}, and this machine's clock "
            f"says {format_time(now)}",
            hint="use a mirror that is up to date, or accept and record it with --allow-expired",
        )
    return Archive(
        label=suite.archive,
        suite=suite.name,
        inrelease_sha256=digest,
        date=format_time(release.date),
        valid_until=format_time(release.valid_until) if release.valid_until else None,
        expired=expired,
    )
