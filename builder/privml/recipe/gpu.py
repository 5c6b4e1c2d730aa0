"""Fields of a recipe: its GPUs and their driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, WithJsonSchema, field_validator

from privml.events.gpus import MAX_ALLOWED, MAX_GPUS
from privml.recipe import drivers, modelsource
from privml.recipe.document import Path
from privml.recipe.drivers import DRIVERS
from privml.recipe.fabrics import Fabric
from privml.recipe.finding import RuleBroken
from privml.recipe.inference import Digest
from privml.recipe.section import CONFIG, ROOT, Section, about, distinct, given, one_of

if TYPE_CHECKING:
    from privml.recipe.models import Content


_URL = "https://us.download.nvidia.com/XFree86/Linux-x86_64/595.71.05/NVIDIA-Linux-x86_64-595.71.05.run"
_SHA256 = "36203b8960b7e49c8a42f6ba1f5863cde34a05e93d2b24b798af06dd846f6b82"


def _archive(name: str) -> str:
    folder = "https://developer.download.nvidia.com/compute/nvidia-driver/redist"
    return f"{folder}/{name}/linux-x86_64/{name}-linux-x86_64-595.71.05-archive.tar.xz"


def _vendor(value: str) -> str:
    return one_of(value, drivers.VENDORS)


def _architecture(value: str) -> str:
    return one_of(value, drivers.architectures())


def _file(value: str) -> str:
    found = modelsource.parse(value)
    if not isinstance(found, modelsource.Address) or found.folder:
        raise ValueError(f"got `{value}`, expected the address of a file, which begins with `https://`")
    return value


FileAddress = Annotated[
    str,
    AfterValidator(_file),
    WithJsonSchema({"type": "string", "maxLength": modelsource.MAX_LENGTH, "pattern": "^https://.+"}),
]


class DriverRunfile(Section):
    """The vendor's file with the driver, for a version that is in no archive of the release."""

    url: Annotated[FileAddress, about("The address that `lock` fetches it from.", _URL)]
    sha256: Annotated[Digest, about("Its SHA-256; other bytes are refused.", _SHA256, ROOT)]


class FabricManager(Section):
    """The vendor's archive with Fabric Manager, of the driver's version."""

    url: Annotated[
        FileAddress, about("The address that `lock` fetches Fabric Manager from.", _archive("fabricmanager"))
    ]
    sha256: Annotated[Digest, about("The archive's SHA-256; another archive is refused.", _SHA256, ROOT)]


class Nscq(Section):
    """The vendor's archive with the library that reads switches, of the driver's version."""

    url: Annotated[
        FileAddress, about("The address that `lock` fetches the library from.", _archive("libnvidia_nscq"))
    ]
    sha256: Annotated[Digest, about("The SHA-256 of the library's archive.", _SHA256, ROOT)]


FabricArchive = FabricManager | Nscq


class DriverFabric(Section):
    """What the switches between GPUs in protected PCIe mode need, which is not in the driver."""

    manager: Annotated[FabricManager, about("Fabric Manager, which configures switches and links.", moves=ROOT)]
    nscq: Annotated[Nscq, about("The library that reads the switches' evidence (NSCQ).", moves=ROOT)]


class GpuDriver(Section):
    """The driver of the GPUs: its kernel modules, libraries and firmware, all of one version."""

    version: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9]+(\.[0-9]+){1,3}$", max_length=32),
        about(
            "The version of modules, libraries and firmware. Its modules are compiled for the locked kernel.",
            next(iter(DRIVERS.values())).version,
            ROOT,
        ),
        WithJsonSchema({"type": "string", "enum": sorted(version for _, version in DRIVERS)}),
    ]
    runfile: Annotated[
        DriverRunfile | None,
        given("`url` and `sha256`; leave it out for a version that is in the release's packages"),
        about(
            "The vendor's file that modules, libraries and firmware are taken from. A version that is in no archive "
            "of the release needs it, and no other may have it.",
            f"{{url: {_URL}, sha256: {_SHA256}}}",
            ROOT,
        ),
    ] = None
    fabric: Annotated[
        DriverFabric | None,
        given("`manager` and `nscq`, each with `url` and `sha256`; only with `gpu.ppcie`"),
        about(
            "The vendor's archives for the switches of a board, of the driver's version. `gpu.ppcie` needs them.",
            moves=ROOT,
        ),
    ] = None


class GpuFirmware(Section):
    """A firmware that a GPU may have."""

    driver: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9]+(\.[0-9]+){1,3}$", max_length=32),
        about("The driver's version, which is that of `gpu.driver`.", next(iter(DRIVERS.values())).version, CONFIG),
    ]
    vbios: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9A-F]{2}(\.[0-9A-F]{2}){4}$"),
        about("The VBIOS version, as the GPU signs it.", "96.00.A5.00.01", CONFIG),
    ]


class Gpu(Section):
    """The GPUs of the machine."""

    vendor: Annotated[
        str,
        AfterValidator(_vendor),
        about("The vendor.", drivers.NVIDIA, CONFIG),
        WithJsonSchema({"type": "string", "enum": list(drivers.VENDORS)}),
    ]
    architecture: Annotated[
        str,
        AfterValidator(_architecture),
        about("The architecture of all its GPUs, which decides their firmware.", "hopper", CONFIG),
        WithJsonSchema({"type": "string", "enum": drivers.architectures()}),
    ]
    count: Annotated[
        int,
        about("The number of GPUs; a guest that finds another number serves nothing.", 1, CONFIG, ge=1, le=MAX_GPUS),
    ]
    driver: Annotated[GpuDriver, about("The driver.", moves=ROOT)]
    allowed: Annotated[
        list[GpuFirmware],
        about(
            "The firmwares of a GPU that the guest uses. Empty: any VBIOS, and the caller's policy decides.",
            moves=CONFIG,
            max_length=MAX_ALLOWED,
        ),
    ] = Field(default_factory=list)
    ppcie: Annotated[
        bool,
        about(
            "Whether the GPUs are a whole board with its switches, in protected PCIe mode. Traffic between them is "
            "in clear then, and the switches must prove what they are. No such board has run it yet.",
            True,
            CONFIG,
            validate_default=True,
        ),
    ] = False

    @field_validator("allowed")
    @classmethod
    def _is_of_the_driver(cls, value: list[GpuFirmware], info: ValidationInfo) -> list[GpuFirmware]:
        distinct("firmware", [(each.driver, each.vbios) for each in value])
        driver = info.data.get("driver")
        for each in value:
            if driver is not None and each.driver != driver.version:
                text = (
                    f"got `{each.driver}`, expected {driver.version}, as in `driver`: no GPU of the guest has another"
                )
                raise RuleBroken("driver-version", text)
        return value

    @field_validator("driver")
    @classmethod
    def _has_a_record(cls, value: GpuDriver, info: ValidationInfo) -> GpuDriver:
        vendor = info.data.get("vendor", "")
        known = [version for name, version in DRIVERS if name == vendor]
        if not known or value.version in known:
            return value
        against = "; ".join(drivers.known_of(vendor, value.version))
        raise RuleBroken(
            "driver-version",
            f"got `{value.version}`, expected {' or '.join(known)}{f': {against}' if against else ''}",
        )

    @field_validator("driver")
    @classmethod
    def _has_firmware(cls, value: GpuDriver, info: ValidationInfo) -> GpuDriver:
        record = DRIVERS.get((info.data.get("vendor", ""), value.version))
        architecture = info.data.get("architecture")
        if record is not None and architecture is not None and architecture not in record.firmware:
            text = f"got `{value.version}`, which has no firmware for {architecture}"
            raise RuleBroken("driver-version", text)
        return value

    @field_validator("driver")
    @classmethod
    def _has_its_runfile(cls, value: GpuDriver, info: ValidationInfo) -> GpuDriver:
        record = DRIVERS.get((info.data.get("vendor", ""), value.version))
        if record is None:
            return value
        if isinstance(record.source, drivers.Runfile) and value.runfile is None:
            text = f"`{value.version}` is in no archive of the release: expected `runfile` with the `url` and "
            raise RuleBroken("driver-runfile", f"{text}`sha256` of {record.source.name}.run")
        if isinstance(record.source, drivers.Source) and value.runfile is not None:
            text = f"`{value.version}` is in the release's packages: leave `runfile` out"
            raise RuleBroken("driver-runfile", text)
        return value

    @field_validator("ppcie")
    @classmethod
    def _is_a_board(cls, value: bool, info: ValidationInfo) -> bool:
        vendor, driver = info.data.get("vendor"), info.data.get("driver")
        if driver is None:
            return value
        if not value:
            if driver.fabric is not None:
                raise RuleBroken("gpu-ppcie", "got `driver.fabric` without `ppcie: true`: nothing would use it")
            return value
        record = DRIVERS.get((str(vendor), driver.version))
        if record is None or record.fabric is None:
            known = " or ".join(each.version for each in DRIVERS.values() if each.fabric is not None)
            text = f"the driver {driver.version} has no record of its archives for switches: expected {known}"
            raise RuleBroken("gpu-ppcie", text)
        board, found = record.fabric, (info.data.get("architecture"), info.data.get("count"))
        if found != (board.architecture, board.gpus):
            text = (
                f"got {found[1]} GPUs of {found[0]}, expected {board.gpus} of {board.architecture}: "
                f"the guest has a whole board, with its {board.switches} switches"
            )
            raise RuleBroken("gpu-ppcie", text)
        if driver.fabric is None:
            names = " and ".join(f"{each.name}.tar.xz" for each in board.archives.values())
            raise RuleBroken("gpu-ppcie", f"expected `driver.fabric` with the `url` and `sha256` of {names}")
        return value

    @property
    def record(self) -> drivers.Driver:
        """The record of the driver."""
        return drivers.driver(self.vendor, self.driver.version)

    @property
    def board(self) -> Fabric | None:
        """The board of linked GPUs that the guest has; None for GPUs of their own."""
        return self.record.fabric if self.ppcie else None

    @property
    def switches(self) -> int:
        """The number of switches that the guest has."""
        return 0 if self.board is None else self.board.switches


def problems(content: Content) -> Iterator[tuple[Path, str, str]]:
    """Fields that do not fit the driver: path, rule and text."""
    if content.gpu is None:
        return
    record = content.gpu.record
    name = f"{record.vendor} {record.version}"
    if (content.base.distribution, content.base.release) != (record.distribution, record.release):
        text = f"got `{content.base.release}`, expected {record.release}, whose archive has the driver {name}"
        yield ("base", "release"), "driver-kernel", text
    if content.kernel.package != record.image:
        text = f"got `{content.kernel.package}`, expected {record.image}, which the driver {name} was compiled for"
        yield ("kernel", "package"), "driver-kernel", text
