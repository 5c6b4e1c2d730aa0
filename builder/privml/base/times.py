"""Times in one form, ``2026-11-29T04:00:00Z``, and as Unix seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime

MAX_TIME = 253_402_300_799
"""The last second of the year 9999, after which there is no such text."""
_FORM = "%Y-%m-%dT%H:%M:%SZ"
_SHAPE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def time_text(seconds: int) -> str:
    """Unix seconds, at most `MAX_TIME`, as ``2026-11-29T04:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_FORM)


def seconds_of(text: str) -> int:
    """Unix seconds of ``2026-11-29T04:00:00Z``; ``ValueError`` for another form, and a day that does not exist."""
    wrong = f"got `{text[:40]}`, expected a time like 2026-11-29T04:00:00Z"
    if not _SHAPE.fullmatch(text):
        raise ValueError(wrong)
    try:
        return int(datetime.strptime(text, _FORM).replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise ValueError(wrong) from error
