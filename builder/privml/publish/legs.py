"""What is published is what two cold builds in different surroundings agree on, from committed sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import privml
from privml.base.errors import Differs, InputsError, Refused, UsageError
from privml.base.run import run
from privml.image import provenance, sbom
from privml.image.target import Target
from privml.image.volumekeys import VolumeKeys
from privml.image.workplace import Workplace
from privml.lock.lockfile import serialise
from privml.output import manifest as manifests
from privml.output.manifest import FILE as MANIFEST
from privml.output.manifest import Manifest
from privml.output.prediction import PREDICTION_FILE, read_prediction
from privml.publish.version import Build
from privml.recipe import document
from privml.recipe.loader import EXTENDS, Recipe, is_installed, load
from privml.repro.inputs import inputs_of
from privml.repro.rebuilt import bring, rebuilt

PARENT = "extended.yaml"
"""The file of the recipe that the published one extends, if it does."""
_DOCUMENTS = (MANIFEST, PREDICTION_FILE, sbom.FILE, provenance.FILE)


def build_twice(
    place: Workplace,
    target: Target,
    apart: Sequence[Path],
    use: Callable[[Path, Manifest], None] | None = None,
    volumes: VolumeKeys | None = None,
) -> Build:
    """Build ``target``, a recipe, twice; ``apart`` are the folders that may have changes: of the measurements.

    ``volumes`` has the keys of encrypted volumes.

    When both builds agree, ``use`` gets the directory of one and its manifest, before the builds are removed.
    ``Refused`` for sources that are not committed, ``InputsError`` for another lock than the committed one,
    ``Differs`` if the builds are not equal bit for bit.
    """
    if target.recipe is None:
        raise UsageError("a built image cannot be published, expected a recipe", hint="name the recipe")
    commit = committed(target.recipe.parent, apart)
    tool = Path(privml.__file__).resolve().parent
    if not is_installed(target.recipe) and (tool.parents[1] / ".git").exists():
        committed(tool, apart)
    recipe, lock, inputs = inputs_of(place, target, volumes)
    if inputs.refreshed:
        raise InputsError(f"{recipe.name} cannot be published from a refreshed lock, expected the committed one")
    tools = bring(place, recipe, lock, inputs)
    with rebuilt(place, recipe, lock, inputs, tools) as (legs, report):
        manifest = manifests.read(legs.a)
        read_prediction(legs.a, manifest)
        if not report.equal:
            where = f": first in {report.first.title}" if report.first is not None else ""
            raise Differs(
                f"{recipe.name} cannot be published: two builds differ{where}",
                hint=f"`privml-build repro {recipe.name}` says where and why",
            )
        found = {name: (legs.a / name).read_bytes() for name in _DOCUMENTS}
        if other := [name for name in _DOCUMENTS if (legs.b / name).read_bytes() != found[name]]:
            raise Differs(f"{recipe.name} cannot be published: {other[0]} of two builds differ")
        if use is not None:
            use(legs.a, manifest)
    built = (manifest.recipe_sha256, manifest.lock_sha256, commit)
    if (load(recipe.path).digest, lock.digest, committed(recipe.path.parent, apart)) != built:
        raise Refused(
            f"{recipe.name} changed while it was built", hint="publish it again, and leave the checkout alone"
        )
    files = {
        "recipe.yaml": recipe.path.read_bytes(),
        "lock.json": serialise(lock),
        "tools.lock.json": inputs.tools_lock.read_bytes(),
        MANIFEST: found[MANIFEST],
        sbom.FILE: found[sbom.FILE],
        **_parent(recipe),
    }
    return Build(files, found[PREDICTION_FILE], found[provenance.FILE], commit)


def _parent(recipe: Recipe) -> dict[str, bytes]:
    own = document.parse(recipe.path.read_bytes(), recipe.path.name).value
    return {PARENT: (recipe.path.parent / str(own[EXTENDS])).read_bytes()} if EXTENDS in own else {}


def committed(folder: Path, apart: Sequence[Path]) -> str:
    """The commit of the checkout that has ``folder``; ``Refused`` if anything but ``apart`` is not committed."""
    top = _git(folder, "rev-parse", "--show-toplevel", hint="publish from a git checkout").strip()
    spec = ["--", "."]
    for path in apart:
        if path.resolve().is_relative_to(Path(top).resolve()):
            spec.append(f":(exclude,top){path.resolve().relative_to(Path(top).resolve()).as_posix()}")
    changed = _git(Path(top), "status", "--porcelain", "--untracked-files=all", *spec).splitlines()
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        names = ", ".join(line[3:] for line in changed[:3])
        raise Refused(
            f"{top} has changes that are not committed: {names}{more}",
            hint="commit them first: a publication names the commit that it was built from",
        )
    return _git(Path(top), "rev-parse", "HEAD").strip()


def _git(folder: Path, *words: str, hint: str | None = None) -> str:
    # The owner's own configuration says which checkouts git may read.
    env = {"HOME": os.environ.get("HOME", ""), "GIT_OPTIONAL_LOCKS": "0"}
    done = run(["git", "-C", folder, *words], env=env, error=Refused, hint=hint, what="git")
    return done.stdout.decode("utf-8", "replace")
