"""Locks, which record every input: what a recipe's lock and the tools lock hold."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from privml.base import strictjson
from privml.base.errors import InputsError
from privml.events.configuration import Rtmr3
from privml.events.volumes import Slot, slots
from privml.lock.archiverecord import AddedArchive, Archive, Base
from privml.lock.modelrecord import Data, HubSource, LocalSource, Model, ModelFile, UrlSource, Volume, WheelSource
from privml.lock.record import Label, PackageName, Record, RelativePath, Sha256, Size, Text, Version
from privml.recipe import drivers, tees
from privml.recipe.drivers import DRIVERS
from privml.recipe.fabrics import Fabric

LOCAL = "local"
"""The archive of packages that are files next to the recipe."""


class Package(Record):
    """One .deb at ``path`` of its archive, as listed by the suite's component. It names no host."""

    name: PackageName
    version: Version
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


class VendorFile(Record):
    """A file of the driver's vendor, as the recipe names it: ``name`` is the folder that it unpacks to."""

    name: Text
    version: Text
    url: Annotated[str, StringConstraints(pattern=r"^https://[!-~]+$", max_length=2000)]
    sha256: Sha256
    size: Size


class Runfile(VendorFile):
    """The vendor's file with a driver."""

    def __str__(self) -> str:
        return f"{self.name}.run"


class VendorArchive(VendorFile):
    """One of the vendor's archives for the switches between GPUs."""

    def __str__(self) -> str:
        return f"{self.name}.tar.xz"


def _form(value: object) -> str:
    """The form of a driver's source: only a runfile has an address."""
    return "runfile" if isinstance(value, Runfile) or (isinstance(value, dict) and "url" in value) else "package"


class Driver(Record):
    """The driver of the GPUs: its version, and all that its files in the guest are made from.

    ``kernel`` is the release whose headers are in ``toolchain``, which compiles the modules of ``source``; ``parts``
    are the packages with the user space and the firmware, which are in ``source`` if that is the vendor's runfile.
    ``requested`` are the requests to apt for the toolchain. ``fabric`` are the vendor's archives for switches, which
    only GPUs in protected PCIe mode need.
    """

    vendor: Text
    version: Text
    kernel: Text
    archives: tuple[Archive, ...]
    requested: tuple[Text, ...]
    source: Annotated[Annotated[Package, Tag("package")] | Annotated[Runfile, Tag("runfile")], Discriminator(_form)]
    toolchain: Annotated[tuple[Package, ...], Field(min_length=1)]
    parts: tuple[Package, ...]
    # Left out of the file when there is nothing.
    fabric: tuple[VendorArchive, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Driver:
        if (self.vendor, self.version) not in DRIVERS:
            known = " or ".join(f"{vendor} {version}" for vendor, version in DRIVERS)
            raise ValueError(f"got {self.vendor} {self.version}, expected {known}")
        if isinstance(self.source, Runfile) != isinstance(self.record.source, drivers.Runfile):
            raise ValueError(f"source: got another form than that of the driver {self.vendor} {self.version}")
        if bool(self.parts) != isinstance(self.source, Package):
            raise ValueError("parts: expected packages if the source is one, else none")
        board = self.record.fabric
        wanted = [] if board is None else [(each.name, self.version) for each in board.archives.values()]
        if self.fabric and [(each.name, each.version) for each in self.fabric] != wanted:
            names = " and ".join(name for name, _ in wanted) or "nothing"
            raise ValueError(f"fabric: expected {names}, of version {self.version}")
        return self

    @property
    def record(self) -> drivers.Driver:
        """The record of the driver."""
        return drivers.driver(self.vendor, self.version)

    @property
    def board(self) -> Fabric | None:
        """The board of linked GPUs that the guest has; None for GPUs of their own."""
        return self.record.fabric if self.fabric else None

    @property
    def contents(self) -> tuple[Package | VendorFile, ...]:
        """The packages whose content is in the guest, source and parts, or the runfile; and the archives."""
        return (self.source, *self.parts, *self.fabric)

    @property
    def packages(self) -> tuple[Package, ...]:
        """Those of the contents that are packages."""
        return tuple(each for each in self.contents if isinstance(each, Package))

    @property
    def debs(self) -> tuple[Package, ...]:
        """Every .deb."""
        return (*self.toolchain, *self.packages)

    @property
    def files(self) -> tuple[Package | VendorFile, ...]:
        """All that is fetched."""
        return (*self.toolchain, *self.contents)


class Wheel(Record):
    """One wheel of the package index."""

    name: Text
    version: Text
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+-]+\.whl$")]
    sha256: Sha256
    size: Size

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Requirements(Record):
    """The wheels of a recipe's ``python``: what was asked for, and what was chosen for one version of Python."""

    python: Text
    requested: Annotated[tuple[Text, ...], Field(min_length=1)]
    before: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    wheels: Annotated[tuple[Wheel, ...], Field(min_length=1)]


class ChangedFile(Record):
    """A file of a wheel that the build changes: its path there, and its SHA-256 before and after."""

    path: RelativePath
    before: Sha256
    after: Sha256


class Compiled(Record):
    """A wheel that compiles C when it runs, and what the build compiles beforehand instead.

    ``requested`` are the requests to apt for ``toolchain``, which compiles ``modules`` for the guest's Python.
    """

    wheel: Text
    version: Text
    changed: ChangedFile
    modules: Annotated[tuple[Text, ...], Field(min_length=1)]
    archives: tuple[Archive, ...]
    requested: tuple[Text, ...]
    toolchain: Annotated[tuple[Package, ...], Field(min_length=1)]


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
    # Reserved for a later version and always empty until then.
    blobs: tuple[()]
    agent: Tree
    guest: Tree
    tools_sha256: Sha256
    # What the recipe adds; each is left out of the file when there is nothing.
    files: Tree | None = None
    kernel_options: tuple[Text, ...] = ()
    programs: tuple[Text, ...] = ()
    added_archives: tuple[AddedArchive, ...] = ()
    driver: Driver | None = None
    requirements: Requirements | None = None
    compiled: Compiled | None = None
    data: tuple[Data, ...] = ()

    @property
    def states(self) -> tuple[Archive, ...]:
        """The signed states of all archives, the base's first."""
        return (*self.archives, *self.added_archives)

    @property
    def debs(self) -> tuple[Package, ...]:
        """Every .deb of guest and firmware."""
        return (*self.packages, *self.firmware_debs)

    @property
    def local(self) -> tuple[Package, ...]:
        """The packages that are files next to the recipe."""
        return tuple(package for package in self.packages if package.archive == LOCAL)

    @property
    def outside(self) -> tuple[Package, ...]:
        """The packages of no archive of the base: those of added archives, and the files next to the recipe."""
        labels = {archive.label for archive in self.archives}
        return tuple(package for package in self.packages if package.archive not in labels)

    @property
    def firmware_debs(self) -> tuple[Package, ...]:
        """The .debs with firmware."""
        return tuple(package for _, each in sorted(self.firmware.items()) for package in each.packages)

    @property
    def driver_files(self) -> tuple[Package | VendorFile, ...]:
        """What the GPUs' driver is made from: the .debs of its toolchain, and its own or the vendor's files."""
        return () if self.driver is None else self.driver.files

    @property
    def compiler_debs(self) -> tuple[Package, ...]:
        """The .debs that compile modules for the Python wheels."""
        return () if self.compiled is None else self.compiled.toolchain

    @property
    def imported(self) -> tuple[Wheel, ...]:
        """The wheels that services import."""
        return () if self.requirements is None else self.requirements.wheels

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """Every wheel: those with models, and those that services import."""
        return tuple({wheel.sha256: wheel for wheel in (*self.python, *self.imported)}.values())

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """What is in the volumes besides the root, in their order: models, then data."""
        return (*self.models, *self.data)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The places of `volumes` in the image."""
        return slots(len(self.models), len(self.data))

    def volume_in(self, slot: Slot) -> Volume:
        """What is in the volume at ``slot``."""
        return self.volumes[self.slots.index(slot)]

    @property
    def volume_objects(self) -> tuple[ModelFile, ...]:
        """Every file of a volume that is an object of the store itself, and not in a wheel."""
        return tuple(file for volume in self.volumes for file in volume.objects)

    def wheel_of(self, model: Model) -> Wheel | None:
        """The wheel that has the files of ``model``; None if they have another source."""
        named = model.source.wheel if isinstance(model.source, WheelSource) else None
        return next((wheel for wheel in self.python if wheel.name == named), None)

    def source_of(self, volume: Volume) -> str:
        """The source of a model or data as recipes spell it."""
        match volume.source:
            case WheelSource(wheel=name):
                wheel = next((each for each in self.python if each.name == name), None)
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


LATE = ("files", "kernel_options", "programs", "added_archives", "driver", "requirements", "compiled", "data")
LATE_OF_MODELS = ("chat_template",)
LATE_OF_DRIVERS = ("fabric",)
"""Fields of locks that came after v2 and are left out when empty, so that locks without them stay as they are."""


def written(lock: LockFile) -> dict[str, Any]:
    """The JSON object of a lock."""
    made = {key: value for key, value in lock.model_dump(mode="json").items() if value or key not in LATE}
    for model in made.get("models", ()):
        for key in [key for key in LATE_OF_MODELS if not model[key]]:
            del model[key]
    if driver := made.get("driver"):
        for key in [key for key in LATE_OF_DRIVERS if not driver[key]]:
            del driver[key]
    return made
