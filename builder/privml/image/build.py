"""Build an image: model volumes, measured configuration, root through mkosi, UKI, firmware, manifest, prediction.

After the UKI nothing is rewritten. Everything, locks and prediction included, is made in a temporary directory beside
the output; a failed build leaves nothing under a final name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from privml.base.errors import UsageError
from privml.base.files import directory_atomic, locked, remove_tree, write_atomic
from privml.base.steps import say, step
from privml.engines.registry import engine_named
from privml.events import configuration, stages, volumes
from privml.events.verity import Verity
from privml.image import (
    firmware,
    inputs,
    licences,
    madeby,
    modelvolume,
    provenance,
    render,
    sbom,
    steps,
    uki,
)
from privml.image import root as root_volume
from privml.image.config import measured_config, origins
from privml.image.inputs import BASE, PREDICTION, Inputs
from privml.image.leftovers import remove_leftovers
from privml.image.modelvolume import ModelVolume
from privml.image.steps import Earlier
from privml.image.tools import ToolsTree
from privml.lock.make import bring
from privml.lock.models import Lock
from privml.machine.platform import Shape
from privml.output import manifest as manifests
from privml.output.artefacts import FIRMWARE, ROOT, UKI, Artefact, artefact
from privml.output.manifest import Engine, Firmware, Manifest, Model, Package
from privml.output.prediction import write_prediction
from privml.recipe.loader import Recipe
from privml.statement.predicate import Predicate
from privml.store.objects import Store
from privml.store.pools import Pool


class Predictor(Protocol):
    """Predicts a built image (`vm.predicted` does; this room knows no machine)."""

    def inputs(self, platforms: Sequence[str]) -> Inputs:
        """What the prediction depends on beside the image: platforms, and the code that predicts."""

    def predict(self, tools: ToolsTree, directory: Path, manifest: Manifest) -> Predicate:
        """The prediction for the image in ``directory``."""


class Tools(Protocol):
    """Gives the tools tree; only called when something must be made."""

    def __call__(self) -> ToolsTree:
        """The unpacked tree."""


@dataclass(frozen=True)
class Order:
    """What to build, from what and with what. ``tools_lock`` is the file of the lock of the tools.

    ``refreshed``: the lock is not the recipe's committed one, and the manifest says so.
    """

    recipe: Recipe
    lock: Lock
    tools_lock: Path
    store: Store
    tools: Tools
    predictor: Predictor
    refreshed: bool = False
    pools: Sequence[Pool] = ()


@dataclass(frozen=True)
class Built:
    """An output directory with its manifest, and why each of its steps was rebuilt (empty: it was not)."""

    directory: Path
    manifest: Manifest
    because: steps.Reasons

    @property
    def cached(self) -> bool:
        """True when nothing had to be made."""
        return not any(self.because.values())


@dataclass(frozen=True)
class _Job:
    """One build that makes something; ``before`` is the image that the output holds, as far as it may be used."""

    order: Order
    tools: ToolsTree
    before: Earlier | None
    forced: bool
    probe: root_volume.Probe | None

    @property
    def recipe(self) -> Recipe:
        return self.order.recipe

    @property
    def lock(self) -> Lock:
        return self.order.lock

    @property
    def store(self) -> Store:
        return self.order.store


def build(order: Order, output: Path, *, force: bool = False, probe: root_volume.Probe | None = None) -> Built:
    """Build ``order.recipe`` into ``output``, as far as it is not there already.

    An image that is whole needs neither tools nor input bytes. With ``force`` everything is made again from the
    locked inputs.
    """
    if order.lock.rtmr3 == configuration.UNUSED:
        say("RTMR3: unused, the locked kernel cannot extend it; it stays zero for every purpose")
    output = output.absolute()
    forced = force or probe is not None
    with locked(output.parent / f".{output.name}.lock"):
        before = None if forced or not output.is_dir() else steps.earlier(output, order.store.seen)
        if before is not None and (found := _whole(order, before)) is not None:
            return found
        lock = order.lock
        tools = order.tools()
        bring(order.store, lock.debs, lock.python, pools=order.pools)
        remove_leftovers(output, tools.remove_of_subordinates)
        job = _Job(order, tools, before, forced, probe)
        with directory_atomic(output) as fresh:
            made, because = _make(job, fresh)
    return Built(output, made, because)


def _whole(order: Order, before: Earlier) -> Built | None:
    """The image that is there, when all of it is what a build would make now."""
    if len(before.models) != len(order.lock.models):
        return None
    because = steps.decide(_inputs(order, before.models), before, forced=False, base_kept=False)
    if any(because.values()):
        return None
    for name in because:
        steps.announce(name, ())
    return Built(before.directory, before.manifest, because)


def _inputs(order: Order, models: Sequence[ModelVolume]) -> inputs.StepInputs:
    return inputs.inputs_of(
        order.recipe,
        order.lock,
        measured_config(order.recipe, order.lock, models),
        refreshed=order.refreshed,
        prediction=order.predictor.inputs(order.recipe.content.platforms),
    )


def _decide(job: _Job, models: Sequence[ModelVolume]) -> tuple[inputs.StepInputs, steps.Reasons]:
    now = _inputs(job.order, models)
    kept = job.store.derived.has(inputs.key(now, BASE))
    return now, steps.decide(now, job.before, forced=job.forced, base_kept=kept)


def _make(job: _Job, out: Path) -> tuple[Manifest, steps.Reasons]:
    """Make or take over everything that the directory holds; the manifest, and why each step was rebuilt."""
    work = out / ".work"
    work.mkdir()
    models = tuple(_model(job, number, work, out) for number in range(len(job.lock.models)))
    config = measured_config(job.recipe, job.lock, models)
    now, reasons = _decide(job, models)
    base = inputs.key(now, BASE)
    if reasons[ROOT] and not reasons[BASE] and not job.store.derived.take(base, work / render.BASE):
        now, reasons = _decide(job, models)  # what was kept is damaged, and dropped now
    # What does not wait for the root is done beside it: mkosi leaves a processor idle most of the time.
    with ThreadPoolExecutor(2) as beside:
        derived = {}
        for tee in job.recipe.content.firmware:
            steps.announce(FIRMWARE[tee], reasons[FIRMWARE[tee]])
            derived[tee] = beside.submit(_firmware, job, reasons, tee, out)
        sealed = {name: beside.submit(_seal, out / name) for name in map(volumes.file, range(len(models)))}
        root, release, declared = _root_and_uki(job, reasons, config, work, out)
        sealed |= {name: beside.submit(_seal, out / name) for name in (ROOT, UKI)}
        if reasons[BASE] and job.probe is None:
            beside.submit(job.store.derived.keep, base, work / "mkosi" / render.BASE).result()
    remove_tree(work)
    sources = {tee: Firmware(FIRMWARE[tee], future.result()) for tee, future in derived.items()}
    artefacts = {name: future.result() for name, future in sealed.items()}
    artefacts |= {source.file: _seal(out / source.file) for source in sources.values()}
    made = _manifest(job, models, config, root, release, sources, artefacts)
    _documents(job, out, made, replace(now, licences=declared))
    steps.announce(PREDICTION, reasons[PREDICTION])
    if reasons[PREDICTION] or job.before is None:
        with step("Predicting its registers"):
            write_prediction(out, made, job.order.predictor.predict(job.tools, out, made))
    else:
        job.before.take(PREDICTION, out)
    return made, reasons


def _documents(job: _Job, out: Path, made: Manifest, record: inputs.StepInputs) -> None:
    """SBOM, provenance, the locks, the record of inputs, the manifest: functions of what was made."""
    declared = {**record.licences, **licences.of_inputs(job.lock, job.store)}
    inside = sbom.sbom(made, job.lock, declared)
    write_atomic(out / sbom.FILE, inside)
    write_atomic(out / provenance.FILE, provenance.provenance(made, job.lock, inside))
    madeby.keep(out, made, job.lock, job.order.tools_lock)
    write_atomic(out / inputs.FILE, record.encode())
    write_atomic(out / manifests.FILE, made.encode())


def _manifest(
    job: _Job,
    models: Sequence[ModelVolume],
    config: configuration.Config,
    root: Verity,
    release: str,
    sources: Mapping[str, Firmware],
    artefacts: Mapping[str, Artefact],
) -> Manifest:
    recipe, lock = job.recipe, job.lock
    content = recipe.content
    measured = configuration.decode(configuration.encode(config))
    engine = engine_named(measured.engine.name) if measured.engine else None
    return Manifest(
        name=recipe.name,
        variant=content.variant,
        recipe_sha256=recipe.digest,
        lock_sha256=lock.digest,
        refreshed=job.order.refreshed,
        source_date_epoch=lock.source_date_epoch,
        listen=content.agent.listen,
        boot="direct",
        cmdline=uki.command_line(root),
        kernel=release,
        root=root,
        firmware=sources,
        models=tuple(
            Model(model.name, volumes.file(number), engine.model_format if engine else "", model.verity)
            for number, model in enumerate(models)
        ),
        engine=Engine(engine.name, lock.package(engine.packages[0]).version) if engine else None,
        config_sha256=measured.sha256,
        agent_events=stages.sequence(measured),
        purposes=stages.purposes(measured),
        artefacts=dict(artefacts),
        platforms=tuple(content.platforms),
        shapes=tuple(Shape(shape.vcpus, shape.memory) for shape in content.shapes),
        packages=tuple(Package(p.name, p.version, p.architecture, p.sha256) for p in lock.packages),
        origins=origins(recipe),
    )


def _model(job: _Job, number: int, work: Path, out: Path) -> ModelVolume:
    """Make or take over one model's volume."""
    name = volumes.file(number)
    before = job.before if job.before is not None and number < len(job.before.models) else None
    because = steps.why(name, inputs.model(job.lock, number), before, forced=job.forced)
    steps.announce(name, because)
    if before is not None and not because:
        before.take(name, out)
        return before.models[number]
    with step(f"Making {name}"):
        place = work / f"model{number}"
        return modelvolume.make(number, job.lock, job.store, job.tools, place, out)


def _root_and_uki(
    job: _Job, reasons: steps.Reasons, config: configuration.Config, work: Path, out: Path
) -> tuple[Verity, str, Mapping[str, list[str]]]:
    """Make or take over root.raw and uki.efi; the root's parameters, the kernel's release, packages' licences."""
    for name in (BASE, ROOT, UKI):
        steps.announce(name, reasons[name])
    if not reasons[ROOT] and job.before is not None:
        for name in (ROOT, UKI):
            job.before.take(name, out)
        return job.before.manifest.root, job.before.manifest.kernel, job.before.record.licences
    parts = work / "mkosi"
    plan = root_volume.plan_of(job.recipe, job.lock, job.tools, configuration.encode(config))
    with step("Making root.raw with mkosi"):
        root = root_volume.make(
            plan, job.lock, job.store, job.tools, parts, out,
            base=None if reasons[BASE] else work / render.BASE, probe=job.probe,
        )  # fmt: skip
    release = root_volume.word(parts, "kernel-version")
    with step("Making uki.efi"):
        initrd = uki.initrd(parts / "initrd", epoch=job.lock.source_date_epoch)
        uki.build(
            job.tools, out, kernel=parts / "vmlinuz", initrd=initrd, cmdline=uki.command_line(root), release=release,
            name=job.recipe.name,
        )  # fmt: skip
        (out / "vmlinuz").unlink()
    return root, release, licences.of_tree(parts / licences.FILE)


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
    """Write into ``directory`` what mkosi would be given; it is to be absent or empty.

    The models' volumes are made on the way and thrown away: their root hashes are in the measured configuration.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is not empty", hint="give a new directory")
    recipe, lock, store, tools = order.recipe, order.lock, order.store, order.tools()
    bring(store, lock.debs, lock.python, pools=order.pools)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="privml-render.", dir=directory.parent) as name:
        work = Path(name)
        models = []
        for number in range(len(lock.models)):
            with step(f"Making {volumes.file(number)}, for its root hash"):
                place = work / f"model{number}"
                models.append(modelvolume.make(number, lock, store, tools, place, work))
        config = configuration.encode(measured_config(recipe, lock, models))
        plan = root_volume.plan_of(recipe, lock, tools, config)
        root_volume.write_source(plan, lock, store, tools, work / "tree", None)
        (work / "tree").rename(directory)
