"""manifest.json v2, which describes an image. It is written last, so a directory with a manifest is complete.

The file is canonical JSON; predictions refer to it by its SHA-256. Contract: docs/ARCHITECTURE.md,
"Manifest v2".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.base.errors import BuildError, EvidenceError, MeasurementError
from privml.base.strictjson import Fields, canonical, loads
from privml.events import agent, boots, network, volumes
from privml.events.agent import DATA, ENGINE, GPU_READY, KEYS, MODEL, AgentEvent
from privml.events.registers import REGISTERS
from privml.events.stages import KEY_RELEASE
from privml.events.variants import VARIANTS
from privml.events.verity import Verity
from privml.machine.platform import Size
from privml.output.artefacts import DISK, ROOT, UKI, Artefact, artefacts_from
from privml.output.contents import Data, Engine, Firmware, Model, Package
from privml.statement.exceptions import MAX_EXCEPTIONS, DeclaredException, exceptions_from
from privml.statement.gpus import Gpus
from privml.statement.predicate import purposes_from

FILE = "manifest.json"
FORMAT = "privml-manifest/v2"
MARK = b'"privml-manifest/'
"""Text in a manifest of any version, which identifies an image directory."""
_WITHOUT_TEE = "tdx"


@dataclass(frozen=True)
class Manifest:
    """docs/ARCHITECTURE.md, "Manifest v2". Digests are hex SHA-256.

    ``models`` and ``engine`` are both present or both absent; without them the agent only attests. ``purposes`` is
    the number of ``agent_events`` before a quote for each purpose. ``network`` is empty, and left out of the file,
    for a guest with one card and DHCP. ``gpus`` are those that the guest must have checked before it serves.
    ``data`` is left out of the file where there is none.
    """

    name: str
    variant: str
    recipe_sha256: str
    lock_sha256: str
    refreshed: bool
    source_date_epoch: int
    listen: int
    boot: str
    cmdline: str
    kernel: str
    root: Verity
    firmware: Mapping[str, Firmware]
    models: tuple[Model, ...]
    engine: Engine | None
    config_sha256: str
    agent_events: tuple[AgentEvent, ...]
    purposes: Mapping[str, int]
    artefacts: Mapping[str, Artefact]
    platforms: tuple[str, ...]
    shapes: tuple[Size, ...]
    packages: tuple[Package, ...]
    origins: Mapping[str, str]
    exceptions: tuple[DeclaredException, ...] = ()
    network: tuple[network.Card, ...] = ()
    gpus: Gpus | None = None
    data: tuple[Data, ...] = ()

    @property
    def filled(self) -> tuple[Model | Data, ...]:
        """What is in the volumes besides the root: the models, then the data, in order."""
        return (*self.models, *self.data)

    @property
    def volumes(self) -> tuple[str, ...]:
        """The files of the image's volumes: the root, then models and data in order."""
        return (ROOT, *(each.volume for each in self.filled))

    @property
    def encrypted(self) -> tuple[Model | Data, ...]:
        """The models and data whose volumes are encrypted."""
        return tuple(each for each in self.filled if each.crypt is not None)

    @property
    def boot_disk(self) -> str | None:
        """The file of the disk that firmware boots from; None for a direct boot."""
        return DISK if self.boot == boots.DISK else None

    @property
    def disks(self) -> tuple[str, ...]:
        """The files of the machine's disks: the one it boots from, or its volumes."""
        return self.volumes if self.boot_disk is None else (self.boot_disk,)

    def firmware_for(self, tee: str | None) -> Firmware:
        """The firmware that starts a guest of ``tee``; a machine without a TEE (None) takes that for TDX.

        ``MeasurementError`` if the image has none: firmware for SNP guests starts nothing outside of one.
        """
        wanted = _WITHOUT_TEE if tee is None else tee
        if wanted not in self.firmware:
            known = ", ".join(self.firmware)
            of = "for tdx, which starts a machine without a TEE" if tee is None else f"for {tee}"
            raise MeasurementError(
                f"the image has no firmware {of}, expected one of {known}",
                hint=f"add `firmware.{wanted}` to its recipe, and build it again",
            )
        return self.firmware[wanted]

    @property
    def sha256(self) -> bytes:
        """SHA-256 (32 bytes) of the file; predictions refer to this image by it."""
        return hashlib.sha256(self.encode()).digest()

    def encode(self) -> bytes:
        """Encode as canonical JSON."""
        late: dict[str, object] = {"network": [card.to_dict() for card in self.network]} if self.network else {}
        if self.data:
            late["data"] = [data.to_dict() for data in self.data]
        return canonical(
            {
                "format": FORMAT,
                "name": self.name,
                "variant": self.variant,
                "recipe_sha256": self.recipe_sha256,
                "lock_sha256": self.lock_sha256,
                "refreshed": self.refreshed,
                "source_date_epoch": self.source_date_epoch,
                "listen": self.listen,
                "boot": self.boot,
                "cmdline": self.cmdline,
                "kernel": self.kernel,
                "root": self.root.to_dict(),
                "firmware": {tee: vars(firmware) for tee, firmware in self.firmware.items()},
                "models": [model.to_dict() for model in self.models],
                "engine": self.engine and vars(self.engine),
                "gpus": None if self.gpus is None else self.gpus.to_dict(),
                "exceptions": [each.to_dict() for each in self.exceptions],
                "config_sha256": self.config_sha256,
                "agent_events": [event.to_dict() for event in self.agent_events],
                "purposes": dict(self.purposes),
                "artefacts": {name: vars(artefact) for name, artefact in self.artefacts.items()},
                "platforms": list(self.platforms),
                "shapes": [{"vcpus": shape.vcpus, "memory": shape.memory} for shape in self.shapes],
                "packages": [vars(package) for package in self.packages],
                "origins": dict(self.origins),
                **late,
            }
        )


def decode(data: bytes) -> Manifest:
    """Parse manifest v2; ``EvidenceError`` for anything else, including non-canonical JSON."""
    value = loads(data, what=FILE)
    top = Fields(value, "manifest")
    top.text("format", one_of=(FORMAT,))
    events = agent.events_from(top.array("agent_events", limit=agent.MAX_EVENTS), "manifest.agent_events")
    manifest = Manifest(
        name=top.text("name"),
        variant=top.text("variant", one_of=VARIANTS),
        recipe_sha256=top.hexadecimal("recipe_sha256", 32).hex(),
        lock_sha256=top.hexadecimal("lock_sha256", 32).hex(),
        refreshed=top.boolean("refreshed"),
        source_date_epoch=top.integer("source_date_epoch"),
        listen=top.integer("listen", low=1, high=65535),
        boot=top.text("boot", one_of=boots.BOOTS),
        cmdline=top.text("cmdline"),
        kernel=top.text("kernel"),
        root=Verity.from_fields(top.fields("root")),
        firmware=_firmware(top.fields("firmware")),
        models=tuple(map(Model.from_fields, _objects("models", top.array("models", limit=volumes.MODEL.most)))),
        engine=_engine(top.fields_or_null("engine")),
        config_sha256=top.hexadecimal("config_sha256", 32).hex(),
        agent_events=events,
        purposes=purposes_from(top.fields("purposes"), len(events)),
        artefacts=artefacts_from(top.fields("artefacts")),
        platforms=tuple(_text(item, "manifest.platforms") for item in top.array("platforms")),
        shapes=tuple(map(_shape, _objects("shapes", top.array("shapes")))),
        packages=tuple(map(Package.from_fields, _objects("packages", top.array("packages")))),
        origins={key: _text(value, "manifest.origins") for key, value in top.fields("origins").rest().items()},
        exceptions=exceptions_from(top.array("exceptions", limit=MAX_EXCEPTIONS), "manifest.exceptions"),
        network=_network(top),
        gpus=_gpus(top.fields_or_null("gpus")),
        data=_data(top),
    )
    top.end()
    _check(manifest)
    if manifest.encode() != data:
        raise EvidenceError("manifest: not canonical JSON (RFC 8785)")
    return manifest


def _check(manifest: Manifest) -> None:
    """Check consistency: every named file is an artefact, models and data have events, and models an engine."""
    for where, name in (
        *(("firmware", firmware.file) for firmware in manifest.firmware.values()),
        *(("models", model.volume) for model in manifest.models),
        *(("data", data.volume) for data in manifest.data),
        ("artefacts", UKI),
        ("artefacts", ROOT),
        *(("boot", name) for name in manifest.disks),
    ):
        if name not in manifest.artefacts:
            raise EvidenceError(f"manifest.{where}: `{name[:80]}` is not listed in the artefacts")
    if (DISK in manifest.artefacts) != (manifest.boot_disk is not None):
        raise EvidenceError(f"manifest.artefacts: `{DISK}` is given if, and only if, boot is `{boots.DISK}`")
    for field, kind, entries in (
        ("models", volumes.MODEL, manifest.models), ("data", volumes.DATA, manifest.data),
    ):  # fmt: skip
        wanted = [kind.file(number) for number in range(len(entries))]
        if [each.volume for each in entries] != wanted:
            raise EvidenceError(f"manifest.{field}: expected the volumes {', '.join(wanted)}, in this order")
    if bool(manifest.models) != (manifest.engine is not None):
        raise EvidenceError("manifest: models without an engine, or an engine without models")
    names = [event.name for event in manifest.agent_events]
    if (GPU_READY in names) != (manifest.gpus is not None):
        raise EvidenceError(f"manifest.gpus: given if, and only if, agent_events has `{GPU_READY}`")
    if names.count(MODEL) != len(manifest.models) or names.count(ENGINE) != (manifest.engine is not None):
        raise EvidenceError("manifest.agent_events: expected one `model` event per model and one `engine` event")
    if names.count(DATA) != len(manifest.data):
        raise EvidenceError("manifest.agent_events: expected one `data` event for each data volume")
    encrypted = manifest.encrypted
    if names.count(KEYS) != bool(encrypted) or (KEY_RELEASE in manifest.purposes) != bool(encrypted):
        raise EvidenceError(
            f"manifest: one `{KEYS}` event and the purpose `{KEY_RELEASE}` are given if, and only if, a volume is "
            "encrypted"
        )
    if len({each.crypt and each.crypt.resource for each in encrypted}) != len(encrypted):
        raise EvidenceError("manifest: one resource is the key of two volumes")


def read(directory: Path) -> Manifest:
    """The manifest of an output directory; ``BuildError`` if there is none, or it has a different version.

    ``EvidenceError`` if it is malformed.
    """
    path = directory / FILE
    if not path.is_file():
        raise BuildError(f"{directory} has no manifest.json", hint="build it with `privml-build image NAME`")
    data = path.read_bytes()
    if MARK in data and FORMAT.encode() not in data:
        raise BuildError(
            f"{path} is from a different version of privml-build, expected {FORMAT}",
            hint="build it again with `privml-build image NAME`",
        )
    try:
        return decode(data)
    except EvidenceError as error:
        raise EvidenceError(
            f"{path} is malformed: {error.message}", hint="build the image again with `privml-build image NAME`"
        ) from error


def _objects(name: str, items: list[Any]) -> Iterator[Fields]:
    """The objects of the array ``name``."""
    for number, item in enumerate(items):
        yield Fields(item, f"manifest.{name}[{number}]")


def _firmware(fields: Fields) -> dict[str, Firmware]:
    found = {tee: Firmware.from_fields(fields.fields(tee)) for tee in REGISTERS if fields.has(tee)}
    fields.end()
    if not found:
        raise EvidenceError("manifest.firmware: empty, expected at least one TEE")
    return found


def _data(top: Fields) -> tuple[Data, ...]:
    if not top.has("data"):
        return ()
    return tuple(map(Data.from_fields, _objects("data", top.array("data", limit=volumes.DATA.most))))


def _engine(fields: Fields | None) -> Engine | None:
    return None if fields is None else Engine.from_fields(fields)


def _shape(fields: Fields) -> Size:
    shape = Size(fields.integer("vcpus", low=1), fields.integer("memory", low=1))
    fields.end()
    return shape


def _gpus(fields: Fields | None) -> Gpus | None:
    return None if fields is None else Gpus.from_fields(fields)


def _network(top: Fields) -> tuple[network.Card, ...]:
    if not top.has("network"):
        return ()
    return network.cards_from(top.array("network", limit=network.MAX_CARDS), "manifest.network")


def _text(item: Any, path: str) -> str:
    if not isinstance(item, str):
        raise EvidenceError(f"{path}: expected a string")
    return item
