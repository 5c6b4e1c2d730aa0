"""The measured configuration of an image, and which recipe line each measured part comes from."""

from __future__ import annotations

from collections.abc import Sequence

from privml.engines.engine import ServedModel
from privml.engines.registry import engine_named
from privml.events import boots, configuration, volumes
from privml.events.crypt import Broker
from privml.events.gpus import Gpu, GpuFirmware, gpu_device, switch_device
from privml.image.filling import MadeVolume
from privml.lock.modelrecord import CHAT_TEMPLATE
from privml.lock.models import Lock
from privml.lock.requirements import engine_version
from privml.output.artefacts import DISK, FIRMWARE
from privml.recipe.loader import Recipe
from privml.recipe.python import DIRECTORY, VARIABLE


def measured_config(recipe: Recipe, lock: Lock, made: Sequence[MadeVolume]) -> configuration.Config:
    """The measured configuration of ``recipe`` with the volumes just made: those of the models, then the data."""
    content = recipe.content
    models, data = made[: len(lock.models)], made[len(lock.models) :]
    return configuration.Config(
        sha256="",
        name=recipe.name,
        variant=content.variant,
        listen=content.agent.listen,
        max_concurrency=content.agent.max_concurrency,
        engine=_engine(recipe, lock, models),
        models=tuple(
            configuration.Model(model.name, _entry(recipe) or model.file, model.verity, model.crypt)
            for model in models
        ),
        devices=_devices(recipe),
        rtmr3=lock.rtmr3,
        services=tuple(
            configuration.Service(
                name,
                tuple(service.run),
                dict(sorted({**service.environment, **_search_path(recipe)}.items())),
                service.memory,
                service.required,
                service.scratch,
            )
            for name, service in sorted(content.services.items())
        ),
        network=content.cards,
        gpu=_gpu(recipe),
        per_address=content.agent.per_address,
        metrics=content.agent.metrics,
        callers=content.agent.callers,
        issuer=None if content.agent.issuer is None else bytes.fromhex(content.agent.issuer),
        brokers=tuple(
            Broker(name, bytes.fromhex(broker.ed25519))
            for name, broker in sorted(content.keys.brokers.items() if content.keys else ())
        ),
        data=tuple(configuration.Data(each.name, each.verity, each.crypt) for each in data),
    )


def _entry(recipe: Recipe) -> str | None:
    """The file that must be in each model that is a directory; None if the engine's models are files."""
    inference = recipe.content.inference
    return None if inference is None else engine_named(inference.engine.name).model_entry


def _search_path(recipe: Recipe) -> dict[str, str]:
    """What a service's environment has for the wheels; nothing else in the guest has it."""
    return {} if recipe.content.python is None else {VARIABLE: f"/{DIRECTORY}"}


def _devices(recipe: Recipe) -> tuple[str, ...]:
    content = recipe.content
    declared = (device.kind for device in content.devices for _ in range(device.count))
    gpu = content.gpu
    if gpu is None:
        return tuple(declared)
    gpus = (gpu_device(gpu.vendor),) * gpu.count
    return (*declared, *gpus, *(switch_device(gpu.vendor),) * gpu.switches)


def _gpu(recipe: Recipe) -> Gpu | None:
    gpu = recipe.content.gpu
    if gpu is None:
        return None
    allowed = sorted(GpuFirmware(each.driver, each.vbios) for each in gpu.allowed)
    return Gpu(gpu.vendor, gpu.architecture, gpu.count, gpu.driver.version, tuple(allowed), gpu.switches)


def _engine(recipe: Recipe, lock: Lock, models: Sequence[MadeVolume]) -> configuration.Engine | None:
    inference = recipe.content.inference
    if inference is None:
        return None
    chosen = inference.engine
    engine = engine_named(chosen.name)
    templates = [CHAT_TEMPLATE if model.chat_template else None for model in lock.models]
    served = [
        ServedModel(model.name, engine.model_entry or model.file, volumes.directory(number), template)
        for number, (model, template) in enumerate(zip(models, templates, strict=True))
    ]
    version = engine_version(engine, lock) if engine.wheels else ""
    return configuration.Engine(chosen.name, engine.argv(served, chosen.options, version=version))


def origins(recipe: Recipe) -> dict[str, str]:
    """Which recipe line each measured part comes from."""
    found = {
        ".linux": recipe.origin("kernel.package"),
        ".initrd": recipe.origin("kernel.package"),
        ".uname": recipe.origin("kernel.package"),
        ".osrel": recipe.origin("schema"),
        ".cmdline": recipe.origin("base.release"),
        ".sbat": recipe.origin("base.release"),
        "uki.efi": recipe.origin("kernel.package"),
        **{FIRMWARE[tee]: recipe.origin(f"firmware.{tee}.package") for tee in recipe.content.firmware},
        "platform": recipe.origin("platforms"),
        "shape": recipe.origin("shapes"),
        "config": recipe.origin("agent.listen"),
    }
    if recipe.content.inference is not None:
        found["model"] = recipe.origin("inference.models[0].source")
        found["engine"] = recipe.origin("inference.engine.name")
    if recipe.content.data:
        found["data"] = recipe.origin("data[0].source")
    if recipe.content.keys is not None:
        found["keys"] = recipe.origin("keys.brokers")
    if recipe.content.boot == boots.DISK:
        found[DISK] = recipe.origin("boot")
    if recipe.content.gpu is not None:
        found["gpu"] = recipe.origin("gpu.count")
        found["driver"] = recipe.origin("gpu.driver.version")
    if recipe.content.network:
        found["network"] = recipe.origin("network")
    for name in recipe.content.services:
        found[f"service {name}"] = recipe.origin(f"services.{name}.run")
    return found
