"""What all records of a lock share: strict types, paths inside a folder, times."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Size = Annotated[int, Field(ge=0)]
# A seconds-exact UTC time, as in an InRelease file's Date.
Time = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or path == ".":
        raise ValueError("expected a plain relative path")
    return path


# Names of archives, suites and components.
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9./-]*$", max_length=100)]
# Names and versions of packages (Debian Policy 5.6.1 and 5.6.12), which are parts of file names.
PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]*$", max_length=200)]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+:~-]*$", max_length=200)]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_inside)]


def format_time(moment: datetime) -> str:
    """``moment`` in the format of locks."""
    return moment.astimezone(UTC).strftime(_TIME)


def parse_time(text: str) -> datetime:
    """The inverse of ``format_time``."""
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


class Record(BaseModel):
    """Base of all parts of a lock: frozen, strict types, unknown fields refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_serialization_defaults_required=True
    )
