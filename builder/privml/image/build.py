"""Build an image: volumes of models and data, measured configuration, root through mkosi, UKI, firmware, manifest and
prediction.

Nothing is rewritten after the UKI is made. All files, locks and prediction included, are made in a temporary
directory next to the output, so a failed build leaves nothing under a final name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from privml.base.errors import UsageError
from privml.base.files import directory_atomic, locked, remove_tree, write_atomic
from privml.base.steps import say, step
from privml.events import configuration, volumes
from privml.events.crypt import Crypt
from privml.events.verity import Verity
from privml.events.volumes import Slot
from privml.image import (
    compiledwheels,
    datavolume,
    dependencies,
    disk,
    diskroom,
    driverfiles,
    driverrecord,
    firmware,
    inputs,
    licences,
    madeby,
    modelvolume,
    provenance,
    pythonwheels,
    render,
    sbom,
    steps,
    uki,
)
from privml.image import driver as drivers
from privml.image import root as root_volume
from privml.image.config import measured_config
from privml.image.description import Parts, command_line, manifest_of
from privml.image.filling import Filling, MadeVolume
from privml.image.inputs import BASE, PREDICTION
from privml.image.leftovers import remove_leftovers
from privml.image.order import BuildResult, Order
from privml.image.steps import Earlier
from privml.image.tools import ToolsTree
from privml.image.volumekeys import Encryption, missing, without_given
from privml.lock.localdebs import store_local
from privml.lock.make import bring
from privml.lock.models import Lock, Package, VendorFile
from privml.lock.tables import bring_tables
from privml.output import manifest as manifests
from privml.output.artefacts import DISK, FIRMWARE, ROOT, UKI, Artefact, artefact
from privml.output.contents import Firmware
from privml.output.manifest import Manifest
from privml.output.prediction import write_prediction
from privml.recipe.loader import Recipe, platforms_of
from privml.recipe.volumes import volumes_of
from privml.store.objects import Store

_FILLINGS: Mapping[volumes.Kind, Callable[[int, Lock, Store], Filling]] = {
    volumes.MODEL: modelvolume.filling,
    volumes.DATA: datavolume.filling,
}
_ROOM_HINT = "free some space, or choose another directory with --output"


@dataclass(frozen=True)
class _Job:
    """A build with steps to run; ``before`` is the usable part of the image already in the output directory."""

    order: Order
    tools: ToolsTree
    before: Earlier | None
    encrypted: tuple[Encryption | None, ...]
    forced: bool
    probe: root_volume.Probe | None
    in_memory: bool

    @property
    def recipe(self) -> Recipe:
        return self.order.recipe

    @property
    def lock(self) -> Lock:
        return self.order.lock

    @property
    def store(self) -> Store:
        return self.order.store


def build(
    order: Order,
    output: Path,
    *,
    force: bool = False,
    probe: root_volume.Probe | None = None,
    in_memory: bool = True,
) -> BuildResult:
    """Build ``order.recipe`` into ``output``; steps whose inputs did not change are not rebuilt.

    If the image is complete, neither tools nor inputs are needed. ``force`` rebuilds everything from the locked
    inputs. ``in_memory``: temporary files may be in memory, if there is enough, and not only below ``output``.
    """
    if order.lock.rtmr3 == configuration.UNUSED:
        say("RTMR3: unused, the locked kernel cannot extend it; it stays zero for every purpose")
    output = output.absolute()
    forced = force or probe is not None
    with locked(output.parent / f".{output.name}.lock"):
        before = None if forced or not output.is_dir() else steps.earlier(output, order.store.seen)
        encrypted = order.volumes.of_volumes(order.recipe, _crypts(before))
        if before is not None and (found := _whole(order, before, encrypted)) is not None:
            return found
        _check_keys(order, before, encrypted)
        tools = order.tools()
        store_local(order.recipe, order.store)
        _bring(order, encrypted, forced=forced)
        remove_leftovers(output, tools.remove_of_subordinates)
        job = _Job(order, tools, before, encrypted, forced, probe, in_memory)
        with directory_atomic(output) as fresh:
            made, because = _make(job, fresh)
    return BuildResult(output, made, because)


def _crypts(before: Earlier | None) -> Mapping[str, Crypt | None]:
    return {} if before is None else {file: made.crypt for file, made in before.volumes.items()}


def _check_keys(order: Order, before: Earlier | None, encrypted: Sequence[Encryption | None]) -> None:
    """``UsageError`` before any work if a volume must be made again and nothing is given to make it from."""
    for slot, one in zip(order.lock.slots, encrypted, strict=True):
        if one is not None and one.key is None and one.given is None and _why(order, slot, before, one.crypt):
            raise _missing(order.recipe, slot)


def _missing(recipe: Recipe, slot: Slot) -> UsageError:
    return missing(recipe, next(volume for volume in volumes_of(recipe.content) if volume.slot == slot))


def _why(order: Order, slot: Slot, before: Earlier | None, crypt: Crypt | None) -> tuple[str, ...]:
    """Why a volume of models or data must be rebuilt."""
    usable = before if before is not None and slot.file in before.volumes else None
    return steps.why(slot.file, inputs.volume(order.lock, slot, crypt), usable, forced=False)


def _bring(order: Order, encrypted: Sequence[Encryption | None], *, forced: bool = False) -> None:
    """Fetch what the build needs; a driver's toolchain only if its modules must be compiled."""
    lock, store = order.lock, order.store
    packages: list[Package | VendorFile] = [*lock.debs]
    if lock.driver is not None:
        packages += lock.driver.contents
        packages += () if drivers.is_kept(lock.driver, store) and not forced else lock.driver.toolchain
    packages += lock.compiler_debs
    diskroom.check_store(lock, store)
    filled = without_given(lock, encrypted).volumes
    bring(store, packages, lock.wheels, filled, folder=order.recipe.path.parent, pools=order.pools)
    bring_tables(store, platforms_of(order.recipe), order.pools, [order.recipe.path.parent])


def _driver_files(
    recipe: Recipe, lock: Lock, store: Store, tools: ToolsTree, work: Path, *, forced: bool = False
) -> dict[str, render.File]:
    """The files of the driver in the root; empty for a machine without GPUs."""
    gpu = recipe.content.gpu
    if gpu is None or lock.driver is None:
        return {}
    modules = drivers.modules_of(lock.driver, store, tools, work / "driver", forced=forced)
    driverrecord.compare(lock.driver, modules)
    if (work / "driver").exists():
        remove_tree(work / "driver")
    return driverfiles.files_of(lock.driver, gpu.architecture, modules, store, tools, work / "runfile")


def _wheels(recipe: Recipe, lock: Lock, store: Store, tools: ToolsTree, work: Path) -> pythonwheels.Unpacked | None:
    """The Python wheels in the root, with the modules that the build compiles for them."""
    if recipe.content.python is None:
        return None
    found = pythonwheels.unpacked(recipe.content.python, lock, store)
    pythonwheels.announce(found)
    diskroom.check(work, diskroom.of_build(found.size), "the wheels while the image is built", _ROOM_HINT)
    return pythonwheels.with_made(found, compiledwheels.compiled(lock, store, tools, work / "compiled"))


def _whole(order: Order, before: Earlier, encrypted: Sequence[Encryption | None]) -> BuildResult | None:
    """The existing image, if every step is cached."""
    if list(before.volumes) != [slot.file for slot in order.lock.slots]:
        return None
    made = [
        replace(volume, crypt=None if one is None else one.crypt)
        for volume, one in zip(before.volumes.values(), encrypted, strict=True)
    ]
    now = _inputs(order, made)
    because = steps.decide(now, before, forced=False, base_kept=False)
    if any(because.values()):
        return None
    if before.record.recipe != now.recipe:  # a record from before it had the recipe
        write_atomic(before.directory / inputs.FILE, replace(before.record, recipe=now.recipe).encode())
    for name in because:
        steps.announce(name, ())
    return BuildResult(before.directory, before.manifest, because)


def _inputs(order: Order, made: Sequence[MadeVolume]) -> inputs.StepInputs:
    return inputs.inputs_of(
        order.recipe,
        order.lock,
        measured_config(order.recipe, order.lock, made),
        refreshed=order.refreshed,
        prediction=order.predictor.inputs(order.recipe.content.platforms),
    )


def _decide(job: _Job, made: Sequence[MadeVolume]) -> tuple[inputs.StepInputs, steps.Reasons]:
    now = _inputs(job.order, made)
    kept = job.store.derived.has(inputs.key(now, BASE))
    return now, steps.decide(now, job.before, forced=job.forced, base_kept=kept)


def _make(job: _Job, out: Path) -> tuple[Manifest, steps.Reasons]:
    """Rebuild or reuse every artefact; returns the manifest and why each step was rebuilt."""
    work = out / ".work"
    work.mkdir()
    slots = job.lock.slots
    filled = tuple(_volume(job, slot, one, work, out) for slot, one in zip(slots, job.encrypted, strict=True))
    config = measured_config(job.recipe, job.lock, filled)
    now, reasons = _decide(job, filled)
    base = inputs.key(now, BASE)
    if reasons[ROOT] and not reasons[BASE] and not job.store.derived.take(base, work / render.BASE):
        now, reasons = _decide(job, filled)  # the cached base tree was damaged and is now dropped
    if reasons.get(DISK):
        diskroom.check(out, diskroom.of_disk(job.lock), f"the volumes once more in {DISK}", _ROOM_HINT)
    # Steps that do not depend on the root run in parallel with it: mkosi leaves a processor idle most of the time.
    with ThreadPoolExecutor(2) as beside:
        derived = {}
        for tee in job.recipe.content.firmware:
            steps.announce(FIRMWARE[tee], reasons[FIRMWARE[tee]])
            derived[tee] = beside.submit(_firmware, job, reasons, tee, out)
        sealed = {slot.file: beside.submit(_seal, out / slot.file) for slot in slots}
        root, release, declared = _root_and_uki(job, reasons, config, work, out)
        sealed |= {name: beside.submit(_seal, out / name) for name in (ROOT, UKI)}
        if DISK in reasons:
            steps.announce(DISK, reasons[DISK])
            _disk(job, reasons, out)
            sealed[DISK] = beside.submit(_seal, out / DISK)
        if reasons[BASE] and job.probe is None:
            beside.submit(job.store.derived.keep, base, work / "mkosi" / root_volume.SOURCE / render.BASE).result()
    remove_tree(work)
    sources = {tee: Firmware(FIRMWARE[tee], future.result()) for tee, future in derived.items()}
    artefacts = {name: future.result() for name, future in sealed.items()}
    artefacts |= {source.file: _seal(out / source.file) for source in sources.values()}
    parts = Parts(filled, config, root, release, sources, artefacts)
    made = manifest_of(job.recipe, job.lock, parts, refreshed=job.order.refreshed)
    _documents(job, out, made, replace(now, licences=declared))
    steps.announce(PREDICTION, reasons[PREDICTION])
    if reasons[PREDICTION] or job.before is None:
        with step("Predicting the registers"):
            write_prediction(out, made, job.order.predictor.predict(job.tools, out, made))
    else:
        job.before.take(PREDICTION, out)
    return made, reasons


def _documents(job: _Job, out: Path, made: Manifest, record: inputs.StepInputs) -> None:
    """Write SBOM, provenance, locks, input record and manifest, which are all derived from the artefacts."""
    declared = {**record.licences, **licences.of_inputs(job.lock, job.store)}
    depends = dependencies.of_guest(job.lock, job.store)
    inside = sbom.sbom(made, job.lock, declared, depends, dependencies.of_wheels(job.lock, job.store))
    write_atomic(out / sbom.FILE, inside)
    write_atomic(out / provenance.FILE, provenance.provenance(made, job.lock, inside))
    madeby.keep(out, made, job.lock, job.order.tools_lock)
    write_atomic(out / inputs.FILE, record.encode())
    write_atomic(out / manifests.FILE, made.encode())


def _volume(job: _Job, slot: Slot, one: Encryption | None, work: Path, out: Path) -> MadeVolume:
    """Build or reuse one volume of a model or data."""
    name, crypt = slot.file, None if one is None else one.crypt
    because = ("a full rebuild was requested",) if job.forced else _why(job.order, slot, job.before, crypt)
    steps.announce(name, because)
    if job.before is not None and not because:
        job.before.take(name, out)
        # The broker is not an input of the volume.
        return replace(job.before.volumes[name], crypt=crypt)
    with step(f"Making {name}"):
        return _made(job.order, job.tools, slot, one, work / f"of-{name}", out)


def _made(order: Order, tools: ToolsTree, slot: Slot, one: Encryption | None, place: Path, out: Path) -> MadeVolume:
    """Build one volume: plain, encrypted, or with the ciphertext that is given."""
    filling = _FILLINGS[slot.kind](slot.number, order.lock, order.store)
    if one is None:
        return filling.make(tools, place, out)
    if one.key is not None:
        return filling.make_encrypted(tools, place, out, one.key, one.crypt.broker)
    if one.given is None:
        raise _missing(order.recipe, slot)
    return filling.take(tools, place, out, one.given, one.crypt.broker)


def _root_and_uki(
    job: _Job, reasons: steps.Reasons, config: configuration.Config, work: Path, out: Path
) -> tuple[Verity, str, Mapping[str, list[str]]]:
    """Build or reuse root.raw and uki.efi; returns verity parameters, kernel release and package licences."""
    for name in (BASE, ROOT, UKI):
        steps.announce(name, reasons[name])
    if not reasons[ROOT] and job.before is not None:
        for name in (ROOT, UKI):
            job.before.take(name, out)
        return job.before.manifest.root, job.before.manifest.kernel, job.before.record.licences
    place = work / "mkosi"
    parts = place / root_volume.SOURCE
    driver = _driver_files(job.recipe, job.lock, job.store, job.tools, work, forced=job.forced)
    wheels = _wheels(job.recipe, job.lock, job.store, job.tools, work)
    plan = root_volume.plan_of(job.recipe, job.lock, configuration.encode(config), driver, wheels)
    with step("Building root.raw with mkosi"):
        root = root_volume.make(
            plan, job.lock, job.store, job.tools, place, out,
            base=None if reasons[BASE] else work / render.BASE, probe=job.probe, in_memory=job.in_memory,
        )  # fmt: skip
    release = root_volume.word(parts, "kernel-version")
    with step("Making uki.efi"):
        initrd = uki.initrd(parts / "initrd", epoch=job.lock.source_date_epoch)
        uki.build(
            job.tools, out, kernel=parts / "vmlinuz", initrd=initrd, release=release,
            cmdline=command_line(root, job.lock), name=job.recipe.name,
        )  # fmt: skip
        (out / "vmlinuz").unlink()
    return root, release, licences.of_tree(parts / licences.FILE)


def _disk(job: _Job, reasons: steps.Reasons, out: Path) -> None:
    """Assemble or take over the disk that the image boots from."""
    if not reasons[DISK] and job.before is not None:
        job.before.take(DISK, out)
        return
    with step(f"Assembling {DISK}"):
        parts = [out / name for name in (ROOT, *(slot.file for slot in job.lock.slots))]
        name, epoch = job.recipe.name, job.lock.source_date_epoch
        disk.make(job.tools, out / DISK, uki=out / UKI, volumes=parts, name=name, epoch=epoch)


def _firmware(job: _Job, reasons: steps.Reasons, tee: str, out: Path) -> str:
    """Make or take over the firmware for ``tee``; the hex SHA-256 of the binary that it is derived from."""
    name = FIRMWARE[tee]
    if not reasons[name] and job.before is not None:
        job.before.take(name, out)
        return job.before.manifest.firmware[tee].derived_from
    asked = job.recipe.content.firmware[tee]
    bodies = {package.name: job.store.read(package.sha256) for package in job.lock.firmware[tee].packages}
    chosen = job.lock.base.record.distribution.firmware_named(asked.package, tee)
    assert chosen is not None, "the recipe was checked when it was read"
    return firmware.derive(job.tools, out / name, chosen, bodies)


def _seal(path: Path) -> Artefact:
    path.chmod(0o644)
    return artefact(path)


def render_only(order: Order, directory: Path) -> None:
    """Write the input tree of mkosi into ``directory``, which must be absent or empty.

    The volumes of models and data are built temporarily, because their root hashes are in the measured configuration.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is not empty", hint="name a new directory")
    recipe, lock, store, tools = order.recipe, order.lock, order.store, order.tools()
    encrypted = order.volumes.of_volumes(recipe)
    store_local(recipe, store)
    _bring(order, encrypted)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="privml-render.", dir=directory.parent) as name:
        work = Path(name)
        filled = []
        for slot, one in zip(lock.slots, encrypted, strict=True):
            with step(f"Building {slot.file} for its root hash"):
                filled.append(_made(order, tools, slot, one, work / f"of-{slot.file}", work))
        config = configuration.encode(measured_config(recipe, lock, filled))
        driver = _driver_files(recipe, lock, store, tools, work)
        wheels = _wheels(recipe, lock, store, tools, work)
        plan = root_volume.plan_of(recipe, lock, config, driver, wheels)
        root_volume.write_source(plan, lock, store, tools, work / "tree", None)
        (work / "tree").rename(directory)
