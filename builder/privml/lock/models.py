"""Lock files, which record every input: strict decoding, stable encoding."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from privml.base import strictjson
from privml.base.errors import InputsError, PrivmlError
from privml.base.files import write_atomic
from privml.events.configuration import Rtmr3
from privml.recipe import distributions, tees
from privml.recipe.distributions import DISTRIBUTIONS

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


def _to_a_file(path: str) -> str:
    if PurePosixPath(path).name in ("", ".."):
        raise ValueError("expected the relative path of a file")
    return path


# Names of archives, suites and components.
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9./-]*$", max_length=100)]
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


class Archive(Record):
    """The signed state of a suite when it was locked; ``expired`` if its Valid-Until had passed by then."""

    label: Label
    suite: Label
    inrelease_sha256: Sha256
    date: Time
    valid_until: Time | None
    expired: bool


LOCAL = "local"
"""The archive of packages that are files next to the recipe."""


class Package(Record):
    """One .deb at ``path`` of its archive, as listed by the suite's component. It names no host."""

    name: Text
    version: Text
    architecture: Literal["amd64", "all"]
    sha256: Sha256
    size: Size
    archive: Label
    suite: Label
    component: Label
    path: Annotated[RelativePath, StringConstraints(pattern=r"^[^\s]+\.deb$")]

    @property
    def file(self) -> str:
        """The .deb's conventional name, with its colon percent-encoded as apt does."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Firmware(Record):
    """The packages with a TEE's firmware; ``requested`` is the request to apt."""

    requested: Text
    packages: Annotated[tuple[Package, ...], Field(min_length=1)]


class Wheel(Record):
    """One wheel of the package index."""

    name: Text
    version: Text
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+-]+\.whl$")]
    sha256: Sha256
    size: Size

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class ModelFile(Record):
    """One file of a model, with its path in the source."""

    path: RelativePath
    size: Size
    sha256: Sha256


class WheelSource(Record):
    """Files of a wheel listed in ``python``: the matches of ``pattern``."""

    wheel: Text
    pattern: Text


class LocalSource(Record):
    """A file next to the recipe; further files of the model are next to it."""

    local: Annotated[str, StringConstraints(pattern=r"^[^/].*$", max_length=2000), AfterValidator(_to_a_file)]

    def place(self, folder: Path, file: ModelFile) -> Path:
        """Where ``file`` is, for a recipe in ``folder``."""
        return folder / PurePosixPath(self.local).with_name(file.path)


class UrlSource(Record):
    """A file at a web address, or files below one that ends with a slash."""

    url: Annotated[str, StringConstraints(pattern=r"^https://[!-~]+$", max_length=2000)]


class HubSource(Record):
    """Files of a repository on a model hub at one commit. It names no host."""

    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$", max_length=200)]
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]


_SOURCES: dict[str, type[Record]] = {"wheel": WheelSource, "local": LocalSource, "url": UrlSource, "repo": HubSource}


def _kind_of_source(value: object) -> str | None:
    names = value if isinstance(value, dict) else vars(value) if isinstance(value, Record) else {}
    return next((f"[{name}]" for name in _SOURCES if name in names), None)


ModelSource = Annotated[
    Annotated[WheelSource, Tag("[wheel]")]
    | Annotated[LocalSource, Tag("[local]")]
    | Annotated[UrlSource, Tag("[url]")]
    | Annotated[HubSource, Tag("[repo]")],
    Discriminator(
        _kind_of_source,
        custom_error_type="source",
        custom_error_message=f"expected one of the fields {', '.join(_SOURCES)}",
    ),
]


class Model(Record):
    """A model: its name in the recipe, its files, and its licence by recipe or source (null: none).

    Files from a wheel are inside it. All others are objects of the store themselves.
    """

    name: Text
    source: ModelSource
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1)]
    licence: Text | None
    # Reserved for a later version and always empty until then, as is `blobs`.
    signature: None

    @property
    def objects(self) -> tuple[ModelFile, ...]:
        """The files that are objects of the store themselves."""
        return () if isinstance(self.source, WheelSource) else self.files


class TreeFile(Record):
    """One file of a source tree. Only the executable bit of the mode counts; a symlink's content is its target."""

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
        """Sort ``files`` by path and digest them."""
        ordered = sorted(files, key=lambda file: file.path)
        content = strictjson.canonical([file.model_dump(mode="json") for file in ordered])
        return Tree(sha256=hashlib.sha256(content).hexdigest(), files=tuple(ordered))


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


class LockFile(Record):
    """Fields common to recipe locks and the tools lock."""

    base: Base
    source_date_epoch: Size
    archives: tuple[Archive, ...]
    packages_requested: tuple[Text, ...]
    packages: tuple[Package, ...]

    @property
    def digest(self) -> str:
        """The hex SHA-256 of the canonical form. Other files refer to this lock by it."""
        return hashlib.sha256(strictjson.canonical(written(self))).hexdigest()


class Lock(LockFile):
    """``recipes/NAME.lock.json``: every input of one recipe's image."""

    format: Literal["privml-lock/v2"] = "privml-lock/v2"
    recipe_sha256: Sha256
    firmware: Annotated[dict[Annotated[str, AfterValidator(tees.built)], Firmware], Field(min_length=1)]
    models: tuple[Model, ...]
    python: tuple[Wheel, ...]
    blobs: tuple[()]
    agent: Tree
    guest: Tree
    tools_sha256: Sha256
    # What the recipe adds; each is left out of the file when there is nothing.
    files: Tree | None = None
    kernel_options: tuple[Text, ...] = ()
    programs: tuple[Text, ...] = ()

    @property
    def debs(self) -> tuple[Package, ...]:
        """Every .deb of guest and firmware."""
        return (*self.packages, *self.firmware_debs)

    @property
    def local(self) -> tuple[Package, ...]:
        """The packages that are files next to the recipe."""
        return tuple(package for package in self.packages if package.archive == LOCAL)

    @property
    def firmware_debs(self) -> tuple[Package, ...]:
        """The .debs with firmware."""
        return tuple(package for _, each in sorted(self.firmware.items()) for package in each.packages)

    @property
    def model_objects(self) -> tuple[ModelFile, ...]:
        """Every model file that is an object of the store itself, and not in a wheel."""
        return tuple(file for model in self.models for file in model.objects)

    def wheel_of(self, model: Model) -> Wheel | None:
        """The wheel that has the files of ``model``; None if they have another source."""
        named = model.source.wheel if isinstance(model.source, WheelSource) else None
        return next((wheel for wheel in self.python if wheel.name == named), None)

    def source_of(self, model: Model) -> str:
        """The source of ``model`` as recipes spell it."""
        match model.source:
            case WheelSource(wheel=name):
                wheel = self.wheel_of(model)
                return f"pypi:{name}=={wheel.version if wheel else ''}"
            case LocalSource(local=path):
                return f"file:{path}"
            case UrlSource(url=url):
                return url
            case HubSource(repo=repo, commit=commit):
                return f"hub:{repo}@{commit}"

    def revision_of(self, model: Model) -> str | None:
        """The wheel's version or the hub's commit; None for files that only their digest identifies."""
        wheel = self.wheel_of(model)
        return wheel.version if wheel else model.source.commit if isinstance(model.source, HubSource) else None

    @property
    def rtmr3(self) -> Rtmr3:
        """Whether a guest with the locked kernel extends RTMR3."""
        kernel = self.base.record.distribution.kernel
        return kernel.rtmr3((package.name, package.version) for package in self.packages)

    def package(self, name: str) -> Package:
        """The locked package called ``name``; ``InputsError`` if there is none."""
        for package in self.debs:
            if package.name == name:
                return package
        raise InputsError(f"the lock has no package `{name}`", hint="renew it with `privml-build lock NAME`")


class ToolsLock(LockFile):
    """``recipes/tools.lock.json``: the packages of the tools tree."""

    format: Literal["privml-tools-lock/v2"] = "privml-tools-lock/v2"


AnyLock = TypeVar("AnyLock", Lock, ToolsLock)


def read_lock(path: Path) -> Lock:
    """Read a recipe's lock; ``InputsError`` if it is missing or malformed."""
    return parse(_bytes(path, f"lock {path.name.removesuffix('.lock.json')}"), Lock, str(path))


def read_tools_lock(path: Path) -> ToolsLock:
    """Read the tools lock; ``InputsError`` if it is missing or malformed."""
    return parse(_bytes(path, "lock --tools"), ToolsLock, str(path))


def read_any_lock(path: Path) -> Lock | ToolsLock:
    """Read a recipe's lock or a tools lock, depending on the file."""
    data = _bytes(path, "lock")
    if FORMATS.get(format_of(data)) is ToolsLock:
        return parse(data, ToolsLock, str(path))
    return parse(data, Lock, str(path))


def parse(data: bytes, model: type[AnyLock], what: str) -> AnyLock:
    """Decode a lock from bytes."""
    hint = "locks are written only by `privml-build lock`: restore the committed one, or remove it and lock again"
    try:
        document = strictjson.loads(data, what=what)
    except PrivmlError as error:
        raise InputsError(error.message) from error
    if not isinstance(document, dict) or "format" not in document:
        raise InputsError(f"{what}: not a lock: it has no format field")
    current, older = _formats(model)
    if document["format"] == older:
        command = "lock --tools" if model is ToolsLock else "lock NAME"
        raise InputsError(
            f"{what}: format: got {older}, expected {current}",
            hint=f"renew it with `privml-build {command}`, which needs no network and keeps all packages",
        )
    try:
        lock = model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parts = [str(part) for part in first["loc"] if not str(part).startswith("[")]
        where = re.sub(r"\.(\d+)", r"[\1]", ".".join(parts))
        said = first["msg"].removeprefix("Value error, ")
        raise InputsError(f"{what}: {where}: {said[:1].lower()}{said[1:]}", hint=hint) from error
    if wrong := _inconsistent(lock):
        raise InputsError(f"{what}: {wrong}", hint=hint)
    return lock


def _formats(model: type[LockFile]) -> tuple[str, str]:
    """The format of a model, and the previous one, which `lock` converts (``lock.earlier``)."""
    current: str = model.model_fields["format"].default
    return current, current.replace("/v2", "/v1")


FORMATS: dict[str, type[LockFile]] = {name: model for model in (Lock, ToolsLock) for name in _formats(model)}
"""Lock kind of each format, including previous ones."""


def format_of(data: bytes) -> str:
    """The format named in a file; empty if there is none."""
    try:
        document = strictjson.loads(data, what="lock")
    except PrivmlError:
        return ""
    return str(document.get("format", "")) if isinstance(document, dict) else ""


def _inconsistent(lock: Lock | ToolsLock) -> str:
    """The first inconsistency in a lock; empty if there is none."""
    groups = {"packages": lock.packages}
    if isinstance(lock, Lock):
        groups |= {f"firmware.{tee}.packages": each.packages for tee, each in lock.firmware.items()}
    for field, packages in groups.items():
        names = [(package.name, package.architecture) for package in packages]
        if names != sorted(set(names)):
            return f"{field}: expected each package once, sorted by name"
    if not isinstance(lock, Lock):
        return ""
    wheels = [wheel.name for wheel in lock.python]
    if wheels != sorted(set(wheels)):
        return "python: expected each wheel once, sorted by name"
    for number, model in enumerate(lock.models):
        if isinstance(model.source, WheelSource) and model.source.wheel not in wheels:
            return f"models[{number}].source.wheel: `{model.source.wheel}` is not listed in python"
        files = [file.path.rpartition("/")[2] for file in model.files]
        if isinstance(model.source, LocalSource) and files != [file.path for file in model.files]:
            return f"models[{number}].files: expected names without directories"
        if len(files) != len(set(files)):
            return f"models[{number}].files: expected each file name once"
    for field, tree in (("agent", lock.agent), ("guest", lock.guest), ("files", lock.files or Tree.of([]))):
        if Tree.of(list(tree.files)) != tree:
            return f"{field}: the digest does not match its sorted files"
    return ""


def own_tools_lock(lock_file: Path) -> Path:
    """Path of the tools lock of ``NAME.lock.json`` alone: ``NAME.tools.lock.json`` next to it."""
    return lock_file.with_name(f"{lock_file.name.removesuffix('.lock.json')}.tools.lock.json")


LATE = ("files", "kernel_options", "programs")
"""Fields of locks that came after v2 and are left out when empty, so that locks without them stay as they are."""


def written(lock: LockFile) -> dict[str, Any]:
    """The JSON object of a lock."""
    return {key: value for key, value in lock.model_dump(mode="json").items() if value or key not in LATE}


def serialise(lock: Lock | ToolsLock) -> bytes:
    """Encode a lock file."""
    return strictjson.pretty(written(lock))


def write_lock(path: Path, lock: Lock | ToolsLock) -> bool:
    """Write a lock file if its bytes change; returns whether they did."""
    data = serialise(lock)
    if path.is_file() and path.read_bytes() == data:
        return False
    write_atomic(path, data)
    return True


def _bytes(path: Path, command: str) -> bytes:
    if not path.is_file():
        raise InputsError(f"{path} does not exist", hint=f"create it with `privml-build {command}`")
    return path.read_bytes()
