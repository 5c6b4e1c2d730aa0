"""manifest.json v1: what an image is, in one file; written last, so a directory with one is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.errors import BuildError, EvidenceError
from privml.base.files import sha256_file
from privml.events.agent import ENGINE, MODEL, AgentEvent
from privml.events.variants import VARIANTS
from privml.image.volume import BLOCK, Verity
from privml.machine.platform import Shape

FILE = "manifest.json"
FORMAT = "privml-manifest/v1"
MODEL_FILE = "model.raw"
ARTEFACTS = ("uki.efi", "root.raw", MODEL_FILE, "firmware.fd")
VOLUMES = ("root.raw", MODEL_FILE)


@dataclass(frozen=True)
class Artefact:
    """Digest (hex SHA-256) and size of one artefact."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Model:
    """The model's name and its volume."""

    name: str
    verity: Verity


@dataclass(frozen=True)
class Manifest:
    """docs/ARCHITECTURE.md, "Manifest v1". ``packages`` are (name, version, architecture, sha256).

    Without ``model`` there is no model.raw, and the agent starts no engine.
    """

    name: str
    variant: str
    recipe_sha256: str
    lock_sha256: str
    refreshed: bool
    source_date_epoch: int
    listen: int
    cmdline: str
    kernel: str
    root: Verity
    model: Model | None
    config_sha256: str
    agent_events: tuple[AgentEvent, ...]
    artefacts: dict[str, Artefact]
    platforms: tuple[str, ...]
    shapes: tuple[Shape, ...]
    packages: tuple[tuple[str, str, str, str], ...]
    origins: dict[str, str]

    def encode(self) -> bytes:
        """The file's bytes."""
        return strictjson.pretty(
            {
                "format": FORMAT,
                "name": self.name,
                "variant": self.variant,
                "recipe_sha256": self.recipe_sha256,
                "lock_sha256": self.lock_sha256,
                "refreshed": self.refreshed,
                "source_date_epoch": self.source_date_epoch,
                "listen": self.listen,
                "cmdline": self.cmdline,
                "kernel": self.kernel,
                "root": self.root.to_dict(),
                "model": self.model and {"name": self.model.name, "verity": self.model.verity.to_dict()},
                "config_sha256": self.config_sha256,
                "agent_events": [{"name": e.name, "payload": strictjson.b64(e.payload)} for e in self.agent_events],
                "artefacts": {name: {"sha256": a.sha256, "size": a.size} for name, a in self.artefacts.items()},
                "platforms": list(self.platforms),
                "shapes": [{"vcpus": shape.vcpus, "memory": shape.memory} for shape in self.shapes],
                "packages": [
                    dict(zip(("name", "version", "architecture", "sha256"), package, strict=True))
                    for package in self.packages
                ],
                "origins": self.origins,
            }
        )


def artefacts_of(*, model: bool) -> tuple[str, ...]:
    """The files that an image is made of, with a model or without."""
    return tuple(name for name in ARTEFACTS if model or name != MODEL_FILE)


def decode(data: bytes) -> Manifest:
    """Parse manifest v1; ``EvidenceError`` for anything else."""
    top = strictjson.Fields(strictjson.loads(data, what="manifest.json"), "manifest")
    top.text("format", one_of=(FORMAT,))
    model = _model(top.fields_or_null("model"))
    artefacts = top.fields("artefacts")
    manifest = Manifest(
        name=top.text("name"),
        variant=top.text("variant", one_of=VARIANTS),
        recipe_sha256=top.hexadecimal("recipe_sha256", 32).hex(),
        lock_sha256=top.hexadecimal("lock_sha256", 32).hex(),
        refreshed=top.boolean("refreshed"),
        source_date_epoch=top.integer("source_date_epoch"),
        listen=top.integer("listen", low=1, high=65535),
        cmdline=top.text("cmdline"),
        kernel=top.text("kernel"),
        root=_verity(top.fields("root")),
        model=model,
        config_sha256=top.hexadecimal("config_sha256", 32).hex(),
        agent_events=tuple(_event(item, n) for n, item in enumerate(top.array("agent_events"))),
        artefacts={name: _artefact(artefacts.fields(name)) for name in artefacts_of(model=model is not None)},
        platforms=tuple(_text(item, "manifest.platforms") for item in top.array("platforms")),
        shapes=tuple(_shape(item, n) for n, item in enumerate(top.array("shapes"))),
        packages=tuple(_package(item, n) for n, item in enumerate(top.array("packages"))),
        origins={key: _text(value, "manifest.origins") for key, value in top.fields("origins").rest().items()},
    )
    artefacts.end()
    top.end()
    extended = {event.name for event in manifest.agent_events} & {MODEL, ENGINE}
    if model is None and extended:
        raise EvidenceError(f"manifest.agent_events: `{min(extended)}`, but manifest.model is null")
    return manifest


def read(directory: Path) -> Manifest:
    """The manifest of an output directory."""
    path = directory / FILE
    if not path.is_file():
        raise BuildError(f"{directory} holds no manifest.json", hint="build it with `privml-build image NAME`")
    return decode(path.read_bytes())


def check_artefacts(directory: Path, manifest: Manifest) -> None:
    """``BuildError`` when an artefact is missing or is not the one that the manifest names; every byte is read."""
    for name, expected in manifest.artefacts.items():
        check_artefact(directory / name, expected)


def check_artefact(path: Path, expected: Artefact, sha256: Callable[[Path], str] = sha256_file) -> None:
    """``BuildError`` when ``path`` is missing or is not ``expected``; ``sha256`` gives a file's digest."""
    hint = "build it again with `privml-build image NAME`"
    if not path.is_file():
        raise BuildError(f"{path} is missing", hint=hint)
    size = path.stat().st_size
    if size != expected.size or sha256(path) != expected.sha256:
        raise BuildError(
            f"{path} is not what manifest.json says: got {size} bytes, expected {expected.size} bytes "
            f"with sha256 {expected.sha256}",
            hint=hint,
        )


def artefact(path: Path) -> Artefact:
    """Digest and size of a file."""
    return Artefact(sha256_file(path), path.stat().st_size)


def _verity(fields: strictjson.Fields) -> Verity:
    verity = Verity(
        fields.hexadecimal("root_hash", 32).hex(),
        fields.hexadecimal("salt", 32).hex(),
        fields.integer("data_blocks", low=1),
        fields.integer("hash_start"),
    )
    fields.integer("block_size", low=BLOCK, high=BLOCK)
    fields.end()
    return verity


def _model(fields: strictjson.Fields | None) -> Model | None:
    if fields is None:
        return None
    model = Model(fields.text("name"), _verity(fields.fields("verity")))
    fields.end()
    return model


def _artefact(fields: strictjson.Fields) -> Artefact:
    found = Artefact(fields.hexadecimal("sha256", 32).hex(), fields.integer("size"))
    fields.end()
    return found


def _event(item: Any, number: int) -> AgentEvent:
    fields = strictjson.Fields(item, f"manifest.agent_events[{number}]")
    event = AgentEvent(fields.text("name"), fields.base64("payload"))
    fields.end()
    return event


def _shape(item: Any, number: int) -> Shape:
    fields = strictjson.Fields(item, f"manifest.shapes[{number}]")
    shape = Shape(fields.integer("vcpus", low=1), fields.integer("memory", low=1))
    fields.end()
    return shape


def _package(item: Any, number: int) -> tuple[str, str, str, str]:
    fields = strictjson.Fields(item, f"manifest.packages[{number}]")
    package = (
        fields.text("name"),
        fields.text("version"),
        fields.text("architecture"),
        fields.hexadecimal("sha256", 32).hex(),
    )
    fields.end()
    return package


def _text(item: Any, path: str) -> str:
    if not isinstance(item, str):
        raise EvidenceError(f"{path}: expected a string")
    return item
