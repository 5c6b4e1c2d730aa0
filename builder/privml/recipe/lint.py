"""Check a recipe beyond its fields: platforms, sizes and lock (``rules`` has the reasons)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privml.engines.registry import engine_named
from privml.events.boots import DISK
from privml.events.variants import PRODUCTION
from privml.recipe import drivers, keyrings, ownfiles, pairings, tees
from privml.recipe.document import Path, spelled
from privml.recipe.finding import Finding
from privml.recipe.gceplatform import GcePlatformFile
from privml.recipe.hardware import MIB
from privml.recipe.loader import Recipe, kinds, platforms_of
from privml.recipe.modelneeds import against_config, config_at
from privml.recipe.modelsource import Local
from privml.recipe.packages import models_are_folders, pinned_version
from privml.recipe.platform import CARD, NO_TEE, PlatformFile
from privml.recipe.rules import RULES
from privml.recipe.validation import mark_of
from privml.recipe.volumes import volumes_of

# Memory of a guest besides the model: kernel, agent, engine and its context.
BESIDE_MODEL = 512 * MIB
PINNED_OPTIONS = ("hpet", "kernel_irqchip", "pic", "smm")


@dataclass(frozen=True)
class LockFacts:
    """Facts about a recipe's lock: whether it exists, why it is stale, and the size of its model in bytes.

    ``local_models`` are the paths of models and data next to the recipe whose bytes it names.
    """

    there: bool
    stale: str = ""
    model_size: int = 0
    local_models: frozenset[str] = frozenset()


def lint(recipe: Recipe, lock: LockFacts | None = None) -> list[Finding]:
    """Problems in the order of the rules. Without ``lock``, rules about locks are skipped."""
    platforms = platforms_of(recipe)
    return [
        *_of_platforms(recipe, platforms),
        *_of_driver(recipe),
        *_of_engine(recipe),
        *_of_gpus(recipe),
        *_of_sizes(recipe, platforms, lock.model_size if lock else 0),
        *(_of_local_models(recipe, lock) if lock else ()),
        *ownfiles.read(recipe)[1],
        *keyrings.read(recipe)[1],
        *(_of_lock(recipe, lock) if lock else ()),
    ]


def _of_platforms(recipe: Recipe, platforms: list[PlatformFile | GcePlatformFile]) -> Iterator[Finding]:
    content = recipe.content
    declared: dict[str, int] = {device.kind: device.count for device in content.devices}
    yield from _of_firmware(recipe, platforms)
    for index, platform in enumerate(platforms):
        path: Path = ("platforms", index)
        if isinstance(platform, GcePlatformFile):
            yield from _of_cloud(recipe, platform, path)
            continue
        if content.variant == PRODUCTION:
            if platform.tpm:
                text = f"`{platform.name}` has a TPM, which only a development recipe may have"
                yield _finding(recipe, "platform-tpm", path, text)
            if platform.tee == NO_TEE:
                text = f"`{platform.name}` runs in no TEE, which only a development recipe may use"
                yield _finding(recipe, "platform-emulated", path, text)
        left = [option for option in PINNED_OPTIONS if option not in platform.machine.options]
        if left:
            text = f"`{platform.name}` leaves {', '.join(left)} to QEMU's defaults"
            yield _finding(recipe, "platform-defaults", path, text)
        has = kinds(platform)
        for kind in sorted(declared.keys() | has.keys()):
            if declared.get(kind, 0) != has.get(kind, 0):
                text = f"{declared.get(kind, 0)} {kind}, but `{platform.name}` has {has.get(kind, 0)}"
                yield _finding(recipe, "platform-devices", ("devices",), text)
        cards = sum(device.kind == CARD for device in platform.devices)
        if content.gpu is not None and content.gpu.count + content.gpu.switches != cards:
            of_switches = f" and {content.gpu.switches} switches" if content.gpu.switches else ""
            what = "devices that are passed to it" if of_switches else "GPUs"
            text = (
                f"{content.gpu.count}{of_switches}, but `{platform.name}` has {cards or 'none'}: "
                f"RTMR0 is that of a machine with{f' {cards}' if cards else 'out'} {what}"
            )
            yield _finding(recipe, "gpu-platform", ("gpu", "count"), text)
    models = 0 if content.inference is None else len(content.inference.models)
    what = ("the root", "root and model", "root and models")[min(models, 2)]
    if content.data:
        what = " and ".join([what.replace(" and ", ", "), "data"])
    needed = 1 + len(volumes_of(content))
    if content.boot == DISK:
        what, needed = "the disk that it boots from", 1
        yield from _of_boot(recipe, platforms)
    disks = declared.get("virtio-blk", 0)
    if disks < needed:
        text = f"expected `virtio-blk: {needed}` or more, for {what}"
        yield _finding(recipe, "platform-devices", ("devices",), text)
    elif disks > needed:
        text = f"{disks} disks, of which the guest reads {needed}, for {what}; the others are only in its machine"
        yield _finding(recipe, "device-unused", ("devices",), text)
    yield from _of_cards(recipe, declared.get("virtio-net", 0))


def _of_firmware(recipe: Recipe, platforms: list[PlatformFile | GcePlatformFile]) -> Iterator[Finding]:
    """TEEs for which only one is there: the firmware, or a platform."""
    firmware = recipe.content.firmware
    needed = set()
    for index, platform in enumerate(platforms):
        tee = tees.WITHOUT if platform.tee == NO_TEE else platform.tee
        needed.add(tee)
        if tee not in firmware:
            where = f"no TEE, where firmware for {tee} starts them" if platform.tee == NO_TEE else tee
            text = f"`{platform.name}` runs its guests in {where}, and the recipe has no `firmware.{tee}`"
            yield _finding(recipe, "platform-firmware", ("platforms", index), text)
    for tee in firmware:
        if tee not in needed:
            text = f"no platform runs its guests in {tee}, so nothing is predicted for them"
            yield _finding(recipe, "firmware-unused", ("firmware", tee), text)


def _of_cloud(recipe: Recipe, platform: GcePlatformFile, path: Path) -> Iterator[Finding]:
    """What stands against a machine of Google."""
    content = recipe.content
    if content.boot != DISK:
        text = f"`{platform.name}` starts its machines from a disk, expected `boot: disk`"
        yield _finding(recipe, "boot-disk", path, text)
    if content.gpu is not None:
        text = f"the captured machines of `{platform.name}` have no GPUs, and none is predicted"
        yield _finding(recipe, "gpu-platform", ("gpu", "count"), text)
    for index, shape in enumerate(content.shapes):
        if lacking := platform.lacks(shape.vcpus, shape.memory):
            yield _finding(recipe, "platform-size", ("shapes", index), lacking)
    text = f"`{platform.name}` has NVMe disks and gVNIC, but the guest drives virtio only: it does not start there"
    yield _finding(recipe, "platform-untried", path, text)


def _of_boot(recipe: Recipe, platforms: list[PlatformFile | GcePlatformFile]) -> Iterator[Finding]:
    """What stands against a boot from a disk."""
    for tee in recipe.content.firmware:
        if tee not in tees.FROM_DISK:
            text = f"no boot of {tee} from a disk is predicted, expected {' or '.join(tees.FROM_DISK)} alone"
            yield _finding(recipe, "boot-disk", ("firmware", tee), text)
    for index, platform in enumerate(platforms):
        if isinstance(platform, PlatformFile) and (against := platform.against_disk_boot):
            yield _finding(recipe, "boot-disk", ("platforms", index), against)


def _of_driver(recipe: Recipe) -> Iterator[Finding]:
    gpu = recipe.content.gpu
    if gpu is not None and gpu.record.untried:
        text = f"`{gpu.driver.version}`: {gpu.record.untried}"
        yield _finding(recipe, "driver-untried", ("gpu", "driver", "version"), text)
    if gpu is not None and gpu.board is not None and gpu.board.untried:
        yield _finding(recipe, "driver-untried", ("gpu", "ppcie"), f"`{gpu.driver.version}`: {gpu.board.untried}")


def _of_engine(recipe: Recipe) -> Iterator[Finding]:
    """What is known of the driver, and of the engine on it."""
    gpu, inference = recipe.content.gpu, recipe.content.inference
    if gpu is not None:
        for reason in drivers.known_of(gpu.vendor, gpu.driver.version):
            text = f"{gpu.vendor} {gpu.driver.version}: {reason}"
            yield _finding(recipe, "driver-known", ("gpu", "driver", "version"), text)
    engine = None if inference is None else engine_named(inference.engine.name)
    if inference is None or engine is None or not engine.needs_gpus:
        return
    path: Path = ("inference", "engine", "name")
    if gpu is None:
        yield _finding(recipe, "engine-gpus", path, f"`{engine.name}` needs GPUs, but the recipe has no `gpu`")
        return
    wanted = inference.engine.options.get("gpus", engine.options["gpus"].default)
    if wanted != gpu.count:
        text = f"got {gpu.count}, but the engine's option `gpus` is {wanted}: expected the same number"
        yield _finding(recipe, "engine-gpus", ("gpu", "count"), text)
    version = pinned_version(recipe)
    if (old := pairings.against_driver(engine, version, gpu.driver.version)) is not None:
        yield _finding(recipe, "engine-cuda", ("gpu", "driver", "version"), old)
    for fault in pairings.faults_of(engine, version):
        yield _finding(recipe, "engine-fault", path, f"{engine.name} {version}: {fault.what} ({fault.source})")
    for index, model in enumerate(inference.models):
        if not isinstance(model.origin, Local):
            continue
        place = recipe.path.parent / model.origin.path / (engine.model_entry or "")
        if (missing := against_config(recipe, config_at(place))) is not None:
            yield _finding(recipe, "engine-kernels", ("inference", "models", index, "source"), missing)


def _of_gpus(recipe: Recipe) -> Iterator[Finding]:
    gpu = recipe.content.gpu
    if gpu is not None and not gpu.allowed:
        text = "not given, so the guest uses a GPU with any VBIOS that its caller's policy accepts"
        yield _finding(recipe, "gpu-firmware", ("gpu", "allowed"), text)


def _of_cards(recipe: Recipe, count: int) -> Iterator[Finding]:
    cards = recipe.content.network
    if cards and len(cards) != count:
        text = f"{len(cards)} cards, but the machine has `virtio-net: {count}`: expected one entry for each"
        yield _finding(recipe, "network-cards", ("network",), text)
    elif not cards and count > 1:
        text = f"`virtio-net: {count}`: expected `network` with one entry for each, since only one card can have DHCP"
        yield _finding(recipe, "network-cards", ("devices",), text)


def _of_sizes(recipe: Recipe, platforms: list[PlatformFile | GcePlatformFile], model_size: int) -> Iterator[Finding]:
    need = model_size + BESIDE_MODEL
    for index, shape in enumerate(recipe.content.shapes):
        for platform in platforms:
            if isinstance(platform, PlatformFile) and shape.vcpus > platform.max_vcpus:
                text = f"got {shape.vcpus}, expected at most {platform.max_vcpus}, `max_vcpus` of `{platform.name}`"
                yield _finding(recipe, "platform-vcpus", ("shapes", index, "vcpus"), text)
        if model_size and shape.memory < need:
            text = f"{shape.memory // MIB}MiB, but the model of {model_size // MIB} MiB needs about {need // MIB}MiB"
            yield _finding(recipe, "memory-for-model", ("shapes", index, "memory"), text)
    if recipe.content.inference is None:
        return
    in_folders = models_are_folders(recipe)
    for index, model in enumerate(recipe.content.inference.models):
        folder, _, name = (model.file or "").rpartition("/")
        specific = folder if in_folders else name
        if model.file is not None and not set(specific) - set("*?."):
            better = "name the folder" if in_folders else "name the file, or at least its kind"
            text = f"`{model.file}` matches any file; {better}"
            yield _finding(recipe, "wide-pattern", ("inference", "models", index, "file"), text)


def _of_local_models(recipe: Recipe, lock: LockFacts) -> Iterator[Finding]:
    """Models and data next to the recipe may be missing only if the lock names their bytes: a store or pool may have
    them.
    """
    inference = recipe.content.inference
    for index, model in enumerate(inference.models if inference else ()):
        beside: dict[tuple[str, ...], str | None] = {("chat_template",): model.chat_template}
        if model.signature is not None:
            beside |= {("signature", *field): name for field, name in model.signature.files.items()}
        for field, name in beside.items():
            if name and not (recipe.path.parent / name).is_file():
                text = f"there is no file `{name}`, seen from the recipe's folder"
                yield _finding(recipe, "model-missing", ("inference", "models", index, *field), text)
        match model.origin:
            case Local(path=path, folder=folder) if path not in lock.local_models:
                place = recipe.path.parent / path
                if not (place.is_dir() if folder else place.is_file()):
                    text = f"there is no {'folder' if folder else 'file'} `{path}`, seen from the recipe's folder"
                    yield _finding(recipe, "model-missing", ("inference", "models", index, "source"), text)
            case _:
                pass
    for index, data in enumerate(recipe.content.data):
        path, folder = data.origin.path, data.origin.folder
        place = recipe.path.parent / path
        if path not in lock.local_models and not (place.is_dir() if folder else place.is_file()):
            text = f"there is no {'folder' if folder else 'file'} `{path}`, seen from the recipe's folder"
            yield _finding(recipe, "model-missing", ("data", index, "source"), text)


def _of_lock(recipe: Recipe, lock: LockFacts) -> Iterator[Finding]:
    if not lock.there:
        yield _finding(
            recipe,
            "no-lock",
            (),
            f"{recipe.lock_path.name} does not exist: run `privml-build lock {recipe.name}`",
        )
    elif lock.stale:
        yield _finding(recipe, "stale-lock", (), lock.stale)


def _finding(recipe: Recipe, rule: str, path: Path, text: str) -> Finding:
    mark = mark_of(path, recipe.source)
    field = f"{spelled(path)}: " if path else ""
    other = recipe.source.counterpart(path) if path else ""
    return Finding(f"{field}{text}{other}", rule, RULES[rule].severity, mark.file, mark.line)
