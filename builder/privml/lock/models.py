"""Lock files: the record of every input byte, strict to read and stable to write."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from privml.base import strictjson
from privml.base.errors import InputsError, PrivmlError
from privml.base.files import write_atomic
from privml.recipe.distributions import Base, Rtmr3, base

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


RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_inside)]


def format_time(moment: datetime) -> str:
    """``moment`` as locks spell it."""
    return moment.astimezone(UTC).strftime(_TIME)


def parse_time(text: str) -> datetime:
    """The inverse of ``format_time``."""
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


class Record(BaseModel):
    """What all parts of a lock share: unknown fields refused, no conversions, not to be changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_serialization_defaults_required=True
    )


class Archive(Record):
    """One signed suite as it was when it was locked; ``expired`` says that its Valid-Until had passed by then."""

    label: Text
    suite: Text
    inrelease_sha256: Sha256
    date: Time
    valid_until: Time | None
    expired: bool


class Package(Record):
    """One .deb. ``origin`` is ``LABEL/SUITE/COMPONENT/pool/...``, without a host."""

    name: Text
    version: Text
    architecture: Literal["amd64", "all"]
    sha256: Sha256
    size: Size
    origin: Annotated[str, StringConstraints(pattern=r"^[a-z-]+/[a-z-]+/[a-z-]+/pool/[^\s]+\.deb$")]

    @property
    def file(self) -> str:
        """The .deb's conventional name, with its colon percent-encoded as apt does."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Wheel(Record):
    """One wheel, taken whole (the model's container)."""

    name: Text
    version: Text
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+-]+\.whl$")]
    sha256: Sha256
    size: Size
    origin: Annotated[str, StringConstraints(pattern=r"^pypi:[A-Za-z0-9_.-]+/[A-Za-z0-9_.+-]+$")]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class TreeFile(Record):
    """One file of a source tree. Of modes only the executable bit counts; a symlink's bytes are its target."""

    path: RelativePath
    kind: Literal["file", "executable", "symlink"]
    sha256: Sha256
    size: Size


class Tree(Record):
    """A sorted list of files and the digest of that list."""

    sha256: Sha256
    files: tuple[TreeFile, ...]

    @staticmethod
    def of(files: list[TreeFile]) -> Tree:
        """Sort ``files`` by path and take their digest."""
        ordered = sorted(files, key=lambda file: file.path)
        content = strictjson.canonical([file.model_dump(mode="json") for file in ordered])
        return Tree(sha256=hashlib.sha256(content).hexdigest(), files=tuple(ordered))


class Lock(Record):
    """``recipes/NAME.lock.json``: every input of one recipe's image."""

    format: Literal["privml-lock/v1"] = "privml-lock/v1"
    recipe_sha256: Sha256
    source_date_epoch: Size
    archives: tuple[Archive, ...]
    packages_requested: tuple[Text, ...]
    packages: tuple[Package, ...]
    firmware_requested: tuple[Text, ...]
    firmware: tuple[Package, ...]
    wheels: tuple[Wheel, ...]
    agent: Tree
    guest: Tree
    tools_sha256: Sha256

    @property
    def base(self) -> Base:
        """What the packages were chosen from."""
        return base("debian", "forky")

    @property
    def rtmr3(self) -> Rtmr3:
        """Whether a guest with the locked kernel extends RTMR3."""
        return self.base.distribution.kernel.rtmr3((package.name, package.version) for package in self.packages)

    def package(self, name: str) -> Package:
        """The locked package called ``name``; ``InputsError`` when there is none."""
        for package in (*self.packages, *self.firmware):
            if package.name == name:
                return package
        raise InputsError(f"the lock has no package `{name}`", hint="renew it with `privml-build lock NAME`")


class ToolsLock(Record):
    """``recipes/tools.lock.json``: the tree of tools that makes images."""

    format: Literal["privml-tools-lock/v1"] = "privml-tools-lock/v1"
    source_date_epoch: Size
    archives: tuple[Archive, ...]
    packages_requested: tuple[Text, ...]
    packages: tuple[Package, ...]


AnyLock = TypeVar("AnyLock", Lock, ToolsLock)


def read_lock(path: Path) -> Lock:
    """Read a recipe's lock; ``InputsError`` when it is absent or not exactly this format."""
    return parse(_bytes(path, f"lock {path.name.removesuffix('.lock.json')}"), Lock, str(path))


def read_tools_lock(path: Path) -> ToolsLock:
    """Read the tools lock; ``InputsError`` when it is absent or not exactly this format."""
    return parse(_bytes(path, "lock --tools"), ToolsLock, str(path))


def read_any_lock(path: Path) -> Lock | ToolsLock:
    """Read a recipe's lock or a tools lock, whichever the file is."""
    data = _bytes(path, "lock")
    is_tools = b'"format": "privml-tools-lock/v1"' in data
    return parse(data, ToolsLock, str(path)) if is_tools else parse(data, Lock, str(path))


def parse(data: bytes, model: type[AnyLock], what: str) -> AnyLock:
    """Decode a lock from bytes."""
    hint = "only `privml-build lock` writes locks: take the committed one back, or remove it and lock anew"
    try:
        lock = model.model_validate_json(_checked(data, what))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = re.sub(r"\.(\d+)", r"[\1]", ".".join(str(part) for part in first["loc"]))
        raise InputsError(f"{what}: {where}: {first['msg'].lower()}", hint=hint) from error
    names = [(package.name, package.architecture) for package in lock.packages]
    if names != sorted(set(names)):
        raise InputsError(f"{what}: packages: expected each package once, sorted by name", hint=hint)
    if isinstance(lock, Lock):
        for field, tree in (("agent", lock.agent), ("guest", lock.guest)):
            if Tree.of(list(tree.files)) != tree:
                raise InputsError(f"{what}: {field}: the digest is not the one of its sorted files", hint=hint)
    return lock


def own_tools_lock(lock_file: Path) -> Path:
    """Where the tools lock is that belongs to ``NAME.lock.json`` alone: ``NAME.tools.lock.json`` beside it."""
    return lock_file.with_name(f"{lock_file.name.removesuffix('.lock.json')}.tools.lock.json")


def serialise(lock: Lock | ToolsLock) -> bytes:
    """The bytes of a lock file."""
    return strictjson.pretty(lock.model_dump(mode="json"))


def write_lock(path: Path, lock: Lock | ToolsLock) -> bool:
    """Write a lock file when its bytes change; whether they did."""
    data = serialise(lock)
    if path.is_file() and path.read_bytes() == data:
        return False
    write_atomic(path, data)
    return True


def _checked(data: bytes, what: str) -> bytes:
    # pydantic would silently take the last of two equal keys.
    try:
        document = strictjson.loads(data, what=what)
    except PrivmlError as error:
        raise InputsError(error.message) from error
    if not isinstance(document, dict) or "format" not in document:
        raise InputsError(f"{what}: no lock: it says no format")
    return data


def _bytes(path: Path, command: str) -> bytes:
    if not path.is_file():
        raise InputsError(f"{path} is not there", hint=f"make it with `privml-build {command}`")
    return path.read_bytes()
