"""The recipe as a whole. With the sections that it joins, it is the reference for all fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from privml.events import network as cards_of
from privml.events import services as own
from privml.events import volumes
from privml.events.boots import DIRECT, DISK, Boot
from privml.events.variants import PRODUCTION, Variant
from privml.recipe import tees
from privml.recipe.added import AddedFile, DeclaredException
from privml.recipe.agent import Agent
from privml.recipe.archives import MAX_ARCHIVES, AddedArchive, ArchiveLabel
from privml.recipe.compression import DEFAULT, Root
from privml.recipe.data import Data
from privml.recipe.encryption import Keys
from privml.recipe.foundation import Base, FirmwareOf, Kernel
from privml.recipe.gpu import Gpu
from privml.recipe.hardware import DEVICE_SCHEMA, Device, Shape, kind_and_count
from privml.recipe.inference import Inference
from privml.recipe.network import NetworkCard, cards
from privml.recipe.python import Python
from privml.recipe.section import (
    ALL,
    BOOT,
    CONFIG,
    FIRMWARE,
    MACHINE,
    RECORDED,
    ROOT,
    Section,
    Slug,
    about,
    distinct,
    given,
)
from privml.recipe.service import Service, ServiceName


def _some_firmware(value: dict[str, FirmwareOf]) -> dict[str, FirmwareOf]:
    if not value:
        raise ValueError(f"got nothing, expected the firmware of a TEE: {' or '.join(tees.BUILT)}")
    return value


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
    boot: Annotated[
        Boot,
        about(
            "How firmware gets the UKI: direct, from QEMU's -kernel; or disk, from a disk with all volumes.",
            DISK,
            BOOT,
        ),
    ] = DIRECT
    root: Annotated[
        Root | None,
        given("fields; leave it out for a root that is compressed as small ones are"),
        about("The root volume.", "{compression: zstd}", moves=ROOT),
    ] = None
    inference: Annotated[
        Inference | None,
        given("fields; leave it out for an image that only attests"),
        about("The inference service; an image without it only attests.", moves=CONFIG),
    ] = None
    keys: Annotated[
        Keys | None,
        given("`brokers`; leave it out if no volume is encrypted"),
        about(
            "The keys of encrypted volumes.",
            "{brokers: {owner: {ed25519: d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a}}}",
            moves=CONFIG,
        ),
    ] = None
    gpu: Annotated[
        Gpu | None,
        given("fields; leave it out for a machine without GPUs"),
        about(
            "The GPUs of the machine. The guest checks the evidence of each before it uses them.",
            "{vendor: nvidia, architecture: hopper, count: 1, driver: {version: 550.163.01}}",
            moves=CONFIG,
        ),
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
    data: Annotated[
        list[Data],
        about(
            "Data that the services read, such as a corpus for retrieval. Each is a volume of its own, so it can "
            "have another owner than the model. The engine cannot read it.",
            "[{name: corpus, source: file:data/corpus/, encrypt: {broker: partner, resource: data/corpus}}]",
            CONFIG,
            max_length=volumes.DATA.most,
        ),
    ] = Field(default_factory=list)
    python: Annotated[
        Python | None,
        given("fields; leave it out for services that import no wheels"),
        about(
            "Python wheels that the services can import. Their environment names the folder, which moves RTMR3 once.",
            "{requirements: [numpy==2.4.4], before: 2026-04-01, imports: [numpy]}",
            moves=CONFIG,
        ),
    ] = None
    packages: Annotated[
        list[
            Annotated[
                str,
                StringConstraints(
                    pattern=r"^(file:[A-Za-z0-9_][^\s:]*\.deb|[a-z0-9][a-z0-9+.-]+(/[a-z0-9][a-z0-9-]*)?)$",
                    max_length=200,
                ),
            ]
        ],
        about(
            "Further packages: of the base's archives by name, of `archives` as NAME/LABEL, or a .deb next to the "
            "recipe as file:PATH; `programs` says what stays of them.",
            "[jq]",
            ROOT,
        ),
        Field(max_length=64),
    ] = Field(default_factory=list)
    archives: Annotated[
        dict[ArchiveLabel, AddedArchive],
        about(
            "Archives that packages come from besides the base's own, by a label. The addresses are in mirrors.yaml.",
            "{acme: {suite: stable, keyring: keys/acme.gpg, "
            'fingerprints: ["0123456789ABCDEF0123456789ABCDEF01234567"]}}',
            ROOT,
            key="LABEL",
            max_length=MAX_ARCHIVES,
        ),
    ] = Field(default_factory=dict)
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
        list[Annotated[Device, BeforeValidator(kind_and_count), WithJsonSchema(DEVICE_SCHEMA)]],
        about(
            "The devices of the guest, one KIND: COUNT each; by default those of its platforms. The first disk is "
            "for the root, and one more for each model and data (`boot: disk`: one for all); others are never read.",
            "virtio-blk: 2",
            CONFIG,
            min_length=1,
        ),
    ] = Field(default_factory=list)
    network: Annotated[
        list[NetworkCard],
        about(
            "What each network card does, in the order of their slots; without it the one card has DHCP.",
            "[{addresses: [10.0.2.15/24], gateways: [10.0.2.2]}]",
            CONFIG,
            max_length=cards_of.MAX_CARDS,
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
    def compression(self) -> str:
        """How the root is compressed, by the name of its record."""
        return DEFAULT if self.root is None else self.root.compression

    @property
    def cards(self) -> tuple[cards_of.Card, ...]:
        """The network cards; empty for one card with DHCP."""
        return cards(self.network)

    @property
    def named_packages(self) -> tuple[str, ...]:
        """The further packages of the base's archives."""
        return tuple(each for each in self.packages if not each.startswith("file:") and "/" not in each)

    @property
    def archive_packages(self) -> tuple[tuple[str, str], ...]:
        """The further packages of `archives`: name and label."""
        found = (each.partition("/") for each in self.packages if not each.startswith("file:"))
        return tuple((name, label) for name, _, label in found if label)

    @property
    def local_packages(self) -> tuple[str, ...]:
        """The paths of further packages next to the recipe."""
        return tuple(each.removeprefix("file:") for each in self.packages if each.startswith("file:"))

    @model_validator(mode="after")
    def _consistent(self) -> Content:
        distinct("device kind", [device.kind for device in self.devices])
        distinct("platform", self.platforms)
        distinct("shape", self.shapes)
        distinct("package", self.packages)
        distinct("package", [*self.named_packages, *(name for name, _ in self.archive_packages)])
        distinct("program", self.programs)
        distinct("kernel module", self.kernel.modules)
        distinct("kernel option", [word.partition("=")[0] for word in self.kernel.options])
        distinct("exception", [(each.kind, each.subject) for each in self.exceptions])
        distinct("data", [data.name for data in self.data])
        if self.inference is not None:
            distinct("model", [model.name for model in self.inference.models])
        return self
