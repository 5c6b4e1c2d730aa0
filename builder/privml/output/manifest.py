"""manifest.json v2, which describes an image. It is written last, so a directory with a manifest is complete.

The file is canonical JSON; predictions refer to it by its SHA-256. Contract: docs/ARCHITECTURE.md,
"Manifest v2".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from privml.base.errors import BuildError, EvidenceError, MeasurementError
from privml.base.strictjson import Fields, canonical, loads
from privml.events import agent, boots, network, volumes
from privml.events.agent import DATA, ENGINE, GPU_READY, KEYS, MODEL, AgentEvent
from privml.events.crypt import Crypt
from privml.events.registers import REGISTERS
from privml.events.stages import KEY_RELEASE
from privml.events.variants import VARIANTS
from privml.events.verity import Verity
from privml.events.volumes import Kind
from privml.machine.platform import Size
from privml.output.artefacts import DISK, FIRMWARE, ROOT, UKI, Artefact
from privml.output.signature import Signature, signature_from
from privml.statement.exceptions import MAX_EXCEPTIONS, DeclaredException, exceptions_from
from privml.statement.gpus import Gpus
from privml.statement.predicate import purposes_from

FILE = "manifest.json"
FORMAT = "privml-manifest/v2"
MARK = b'"privml-manifest/'
"""Text in a manifest of any version, which identifies an image directory."""
MAX_ARTEFACTS = 64
_WITHOUT_TEE = "tdx"


@dataclass(frozen=True)
class Firmware:
    """``file`` is an artefact, ``derived_from`` the hex SHA-256 of the original binary."""

    file: str
    derived_from: str


class _InVolume:
    """What models and data have in common."""

    crypt: Crypt | None

    @property
    def key(self) -> str:
        """In words, the key of an encrypted volume; empty for one that is not encrypted."""
        crypt = self.crypt
        return "" if crypt is None else f"`{crypt.resource}`, generation {crypt.generation}, of broker {crypt.broker}"


@dataclass(frozen=True)
class Model(_InVolume):
    """A model's name, its volume's file, its format (``gguf``), and the volume's dm-verity parameters.

    ``source`` is spelled as in the recipe; ``revision`` is a wheel's version or a hub's commit. The file has no
    ``signature`` for a model without one. ``crypt`` is None for a volume that is not encrypted.
    """

    name: str
    volume: str
    format: str
    verity: Verity
    source: str
    revision: str | None
    licence: str | None
    signature: Signature | None = None
    crypt: Crypt | None = None
    kind: ClassVar[Kind] = volumes.MODEL


@dataclass(frozen=True)
class Data(_InVolume):
    """Data of the services: its name, its volume's file, the volume's parameters, and its source in the recipe.

    ``crypt`` is None for a volume that is not encrypted.
    """

    name: str
    volume: str
    verity: Verity
    source: str
    crypt: Crypt | None = None
    kind: ClassVar[Kind] = volumes.DATA


@dataclass(frozen=True)
class Engine:
    """The engine that runs the models, and its package version."""

    name: str
    version: str


@dataclass(frozen=True)
class Package:
    """One package of the root; ``sha256`` (hex) is of its file."""

    name: str
    version: str
    architecture: str
    sha256: str


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
            late["data"] = [
                {
                    "name": data.name,
                    "volume": data.volume,
                    "source": data.source,
                    "verity": data.verity.to_dict(),
                    "crypt": None if data.crypt is None else data.crypt.to_dict(),
                }
                for data in self.data
            ]
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
                "models": [
                    {
                        "name": model.name,
                        "volume": model.volume,
                        "format": model.format,
                        "source": model.source,
                        "revision": model.revision,
                        "licence": model.licence,
                        "verity": model.verity.to_dict(),
                        "crypt": None if model.crypt is None else model.crypt.to_dict(),
                        **({} if model.signature is None else {"signature": model.signature.to_dict()}),
                    }
                    for model in self.models
                ],
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
        models=tuple(_model(item, n) for n, item in enumerate(top.array("models", limit=volumes.MODEL.most))),
        engine=_engine(top.fields_or_null("engine")),
        config_sha256=top.hexadecimal("config_sha256", 32).hex(),
        agent_events=events,
        purposes=purposes_from(top.fields("purposes"), len(events)),
        artefacts=_artefacts(top.fields("artefacts")),
        platforms=tuple(_text(item, "manifest.platforms") for item in top.array("platforms")),
        shapes=tuple(_shape(item, n) for n, item in enumerate(top.array("shapes"))),
        packages=tuple(_package(item, n) for n, item in enumerate(top.array("packages"))),
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


def _firmware(fields: Fields) -> dict[str, Firmware]:
    found = {}
    for tee in [tee for tee in REGISTERS if fields.has(tee)]:
        inner = fields.fields(tee)
        found[tee] = Firmware(inner.text("file", limit=128), inner.hexadecimal("derived_from", 32).hex())
        inner.end()
    fields.end()
    if not found:
        raise EvidenceError("manifest.firmware: empty, expected at least one TEE")
    return found


def _model(item: Any, number: int) -> Model:
    fields = Fields(item, f"manifest.models[{number}]")
    model = Model(
        fields.text("name"),
        fields.text("volume", limit=128),
        fields.text("format", limit=64),
        Verity.from_fields(fields.fields("verity")),
        fields.text("source"),
        fields.text_or_null("revision"),
        fields.text_or_null("licence"),
        signature_from(fields.fields("signature")) if fields.has("signature") else None,
        _crypt(fields.fields_or_null("crypt")),
    )
    fields.end()
    return model


def _data(top: Fields) -> tuple[Data, ...]:
    if not top.has("data"):
        return ()
    found = []
    for number, item in enumerate(top.array("data", limit=volumes.DATA.most)):
        fields = Fields(item, f"manifest.data[{number}]")
        found.append(
            Data(
                fields.text("name"),
                fields.text("volume", limit=128),
                Verity.from_fields(fields.fields("verity")),
                fields.text("source"),
                _crypt(fields.fields_or_null("crypt")),
            )
        )
        fields.end()
    return tuple(found)


def _crypt(fields: Fields | None) -> Crypt | None:
    return None if fields is None else Crypt.from_fields(fields)


def _engine(fields: Fields | None) -> Engine | None:
    if fields is None:
        return None
    engine = Engine(fields.text("name", limit=64), fields.text("version", limit=128))
    fields.end()
    return engine


def _artefacts(fields: Fields) -> dict[str, Artefact]:
    names = sorted(fields.names())
    if len(names) > MAX_ARTEFACTS:
        raise EvidenceError(f"{fields.path}: {len(names)} artefacts, expected at most {MAX_ARTEFACTS}")
    found = {}
    for name in names:
        if "/" in name or name in ("", ".", "..") or not name.isprintable():
            raise EvidenceError(f"{fields.path}: `{name[:80]}` is not a plain file name")
        inner = fields.fields(name)
        found[name] = Artefact(inner.hexadecimal("sha256", 32).hex(), inner.integer("size"))
        inner.end()
    return found


def _shape(item: Any, number: int) -> Size:
    fields = Fields(item, f"manifest.shapes[{number}]")
    shape = Size(fields.integer("vcpus", low=1), fields.integer("memory", low=1))
    fields.end()
    return shape


def _package(item: Any, number: int) -> Package:
    fields = Fields(item, f"manifest.packages[{number}]")
    package = Package(
        fields.text("name"),
        fields.text("version"),
        fields.text("architecture"),
        fields.hexadecimal("sha256", 32).hex(),
    )
    fields.end()
    return package


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


__all__ = [
    "DISK",
    "FILE",
    "FIRMWARE",
    "FORMAT",
    "ROOT",
    "UKI",
    "Artefact",
    "Data",
    "Engine",
    "Firmware",
    "Manifest",
    "Model",
    "Package",
    "Signature",
    "decode",
    "read",
]
