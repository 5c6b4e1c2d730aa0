"""Check a recipe beyond its fields: platforms, sizes and lock (``rules`` has the reasons)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privml.events.variants import PRODUCTION
from privml.recipe import keyrings, ownfiles
from privml.recipe.document import Path, spelled
from privml.recipe.finding import Finding
from privml.recipe.hardware import MIB
from privml.recipe.loader import Recipe, kinds, platforms_of
from privml.recipe.modelsource import LocalFile
from privml.recipe.platform import CARD, NO_TEE, PlatformFile
from privml.recipe.rules import RULES
from privml.recipe.validation import mark_of

# Memory of a guest besides the model: kernel, agent, engine and its context.
BESIDE_MODEL = 512 * MIB
PINNED_OPTIONS = ("hpet", "kernel_irqchip", "pic", "smm")


@dataclass(frozen=True)
class LockFacts:
    """Facts about a recipe's lock: whether it exists, why it is stale, and the size of its model in bytes.

    ``local_models`` are the paths of models next to the recipe whose bytes it names.
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
        *_of_sizes(recipe, platforms, lock.model_size if lock else 0),
        *(_of_local_models(recipe, lock) if lock else ()),
        *ownfiles.read(recipe)[1],
        *keyrings.read(recipe)[1],
        *(_of_lock(recipe, lock) if lock else ()),
    ]


def _of_platforms(recipe: Recipe, platforms: list[PlatformFile]) -> Iterator[Finding]:
    content = recipe.content
    declared: dict[str, int] = {device.kind: device.count for device in content.devices}
    for index, platform in enumerate(platforms):
        path: Path = ("platforms", index)
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
        if content.gpu is not None and content.gpu.count != cards:
            text = (
                f"{content.gpu.count}, but `{platform.name}` has {cards or 'none'}: "
                f"RTMR0 is that of a machine with{f' {cards}' if cards else 'out'} GPUs"
            )
            yield _finding(recipe, "gpu-platform", ("gpu", "count"), text)
    models = 0 if content.inference is None else len(content.inference.models)
    what = ("the root", "root and model", "root and models")[min(models, 2)]
    disks = declared.get("virtio-blk", 0)
    if disks < 1 + models:
        text = f"expected `virtio-blk: {1 + models}` or more, for {what}"
        yield _finding(recipe, "platform-devices", ("devices",), text)
    elif disks > 1 + models:
        text = f"{disks} disks, of which the guest reads {1 + models}, for {what}; the others are only in its machine"
        yield _finding(recipe, "device-unused", ("devices",), text)
    yield from _of_cards(recipe, declared.get("virtio-net", 0))


def _of_cards(recipe: Recipe, count: int) -> Iterator[Finding]:
    cards = recipe.content.network
    if cards and len(cards) != count:
        text = f"{len(cards)} cards, but the machine has `virtio-net: {count}`: expected one entry for each"
        yield _finding(recipe, "network-cards", ("network",), text)
    elif not cards and count > 1:
        text = f"`virtio-net: {count}`: expected `network` with one entry for each, since only one card can have DHCP"
        yield _finding(recipe, "network-cards", ("devices",), text)


def _of_sizes(recipe: Recipe, platforms: list[PlatformFile], model_size: int) -> Iterator[Finding]:
    need = model_size + BESIDE_MODEL
    for index, shape in enumerate(recipe.content.shapes):
        for platform in platforms:
            if shape.vcpus > platform.max_vcpus:
                text = f"got {shape.vcpus}, expected at most {platform.max_vcpus}, `max_vcpus` of `{platform.name}`"
                yield _finding(recipe, "platform-vcpus", ("shapes", index, "vcpus"), text)
        if model_size and shape.memory < need:
            text = f"{shape.memory // MIB}MiB, but the model of {model_size // MIB} MiB needs about {need // MIB}MiB"
            yield _finding(recipe, "memory-for-model", ("shapes", index, "memory"), text)
    if recipe.content.inference is None:
        return
    for index, model in enumerate(recipe.content.inference.models):
        if model.file is not None and not set(model.file.rpartition("/")[2]) - set("*?."):
            text = f"`{model.file}` matches any file; name the file, or at least its kind"
            yield _finding(recipe, "wide-pattern", ("inference", "models", index, "file"), text)


def _of_local_models(recipe: Recipe, lock: LockFacts) -> Iterator[Finding]:
    """A model next to the recipe may be missing only if the lock names its bytes, which a store or pool can have."""
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
            case LocalFile(path=path) if path not in lock.local_models and not (recipe.path.parent / path).is_file():
                text = f"there is no file `{path}`, seen from the recipe's folder"
                yield _finding(recipe, "model-missing", ("inference", "models", index, "source"), text)


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
