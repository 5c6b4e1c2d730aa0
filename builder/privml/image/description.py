"""Describe an image that was built: its manifest, which names every part by digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privml.engines.registry import engine_named
from privml.events import configuration, stages
from privml.events.gpus import Gpu
from privml.events.verity import Verity
from privml.events.volumes import DATA, MODEL
from privml.image import uki
from privml.image.config import origins
from privml.image.filling import MadeVolume
from privml.lock.models import Lock
from privml.lock.models import Package as LockedPackage
from privml.lock.requirements import engine_version
from privml.lock.wanted import in_order
from privml.machine.platform import Size
from privml.output.artefacts import Artefact
from privml.output.contents import Data, Engine, Firmware, Model, Package
from privml.output.manifest import Manifest
from privml.output.signature import Signature
from privml.recipe.loader import Recipe
from privml.statement.exceptions import DeclaredException
from privml.statement.gpus import Gpus


@dataclass(frozen=True)
class Parts:
    """What was built: the volumes of models and data, measured configuration, the root's verity parameters, the
    kernel's release, the firmware of each TEE, and the artefacts by name.
    """

    volumes: Sequence[MadeVolume]
    config: configuration.Config
    root: Verity
    release: str
    firmware: Mapping[str, Firmware]
    artefacts: Mapping[str, Artefact]


def manifest_of(recipe: Recipe, lock: Lock, made: Parts, *, refreshed: bool) -> Manifest:
    """The manifest of an image that was built from a recipe and lock; ``refreshed``: not from the committed lock."""
    content = recipe.content
    measured = configuration.decode(configuration.encode(made.config))
    engine = engine_named(measured.engine.name) if measured.engine else None
    return Manifest(
        name=recipe.name,
        variant=content.variant,
        recipe_sha256=recipe.digest,
        lock_sha256=lock.digest,
        refreshed=refreshed,
        source_date_epoch=lock.source_date_epoch,
        listen=content.agent.listen,
        boot=content.boot,
        cmdline=command_line(made.root, lock),
        kernel=made.release,
        root=made.root,
        firmware=made.firmware,
        models=tuple(
            Model(
                model.name,
                MODEL.file(number),
                engine.model_format if engine else "",
                model.verity,
                lock.source_of(locked),
                lock.revision_of(locked),
                locked.licence,
                None if locked.signature is None else Signature(**locked.signature.model_dump()),
                model.crypt,
            )
            for number, (model, locked) in enumerate(zip(made.volumes[: len(lock.models)], lock.models, strict=True))
        ),
        engine=Engine(engine.name, engine_version(engine, lock)) if engine else None,
        config_sha256=measured.sha256,
        agent_events=stages.sequence(measured),
        purposes=stages.purposes(measured),
        artefacts=dict(made.artefacts),
        platforms=tuple(content.platforms),
        shapes=tuple(Size(shape.vcpus, shape.memory) for shape in content.shapes),
        packages=tuple(Package(p.name, p.version, p.architecture, p.sha256) for p in _packages(lock)),
        origins=origins(recipe),
        exceptions=tuple(DeclaredException(each.kind, each.subject, each.reason) for each in content.exceptions),
        network=measured.network,
        gpus=None if measured.gpu is None else _gpus(measured.gpu),
        data=tuple(
            Data(each.name, DATA.file(number), each.verity, lock.source_of(locked), each.crypt)
            for number, (each, locked) in enumerate(zip(made.volumes[len(lock.models) :], lock.data, strict=True))
        ),
    )


def _gpus(gpu: Gpu) -> Gpus:
    return Gpus(gpu.architecture, gpu.count, gpu.switches)


def command_line(root: Verity, lock: Lock) -> str:
    """The kernel's command line."""
    driver = lock.driver
    return uki.command_line(
        root,
        lock.kernel_options,
        driver=None if driver is None else driver.record,
        fabric=None if driver is None else driver.board,
    )


def _packages(lock: Lock) -> Sequence[LockedPackage]:
    """The packages with content in the root, by name: those installed, and those of the driver."""
    if lock.driver is None:
        return lock.packages
    return in_order((*lock.packages, *lock.driver.packages))
