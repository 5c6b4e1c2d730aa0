"""Find and read recipes and platforms."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.base.errors import RecipeError, printable
from privml.recipe import consistency, document, migration
from privml.recipe.document import Document, Mark
from privml.recipe.effective import digest_of, effective_of
from privml.recipe.finding import Finding, RecipeProblems
from privml.recipe.gceplatform import KIND, GcePlatformFile
from privml.recipe.hardware import Device
from privml.recipe.models import Content
from privml.recipe.names import SUFFIXES, check_single, is_file_name, name_of, named
from privml.recipe.platform import MOST, PlatformFile
from privml.recipe.validation import mark_of, validate

EXTENDS = "extends"


@dataclass(frozen=True)
class Recipe:
    """A checked recipe, merged with its parent.

    ``effective`` has the effective ``content`` and the digests of the recipe's ``files``, its own and its parent's:
    manifests name recipe lines, so a moved line is a changed input.
    """

    name: str
    path: Path
    content: Content
    effective: Mapping[str, Any]
    source: Document

    @property
    def digest(self) -> str:
        """The hex SHA-256 by which manifests and locks name this recipe."""
        return digest_of(self.effective)

    def origin(self, field: str) -> str:
        """Source position of a field's value, such as ``recipes/demo-cpu.yaml:4 kernel.package``."""
        path: document.Path = ()
        for part in field.replace("[", ".").replace("]", "").split("."):
            path = (*path, int(part) if part.isdigit() else part)
        given = path in self.source.marks
        return f"{mark_of(path, self.source)} {field}{'' if given else ' (default)'}"

    @property
    def lock_path(self) -> Path:
        """Path of this recipe's lock."""
        return self.path.with_name(f"{self.name}.lock.json")


def shipped() -> Path:
    """The recipes shipped with privml-build: package data when installed, ``recipes`` in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "data" if (package / "data").is_dir() else package.parents[2] / "recipes"


EXAMPLES = "examples"
"""The folder of the shipped examples, each a recipe for one thing that recipes can do."""


def examples() -> dict[str, Path]:
    """The shipped examples by name."""
    return {name_of(path): path for path in recipes_in(shipped() / EXAMPLES)}


def is_shipped(path: Path) -> bool:
    """True for recipes that are part of privml-build."""
    return path.resolve().is_relative_to(shipped().resolve())


def is_installed(path: Path) -> bool:
    """True for files of an installed privml-build, which must not be changed: the next installation replaces them."""
    return shipped().name == "data" and is_shipped(path)


def find(target: str, directory: Path | None = None) -> Path:
    """Find a recipe by path, or by name in ``recipes`` (then in ``.``) below ``directory`` (default: current)."""
    base = directory or Path()
    if is_file_name(target) or "/" in target:
        path = base / target
        if path.is_dir():
            raise RecipeError(f"`{target}` is a directory, expected a recipe's name or file")
        if path.exists() and not path.is_file():
            raise RecipeError(f"`{target}` is not a regular file, expected a recipe's name or file")
        if not path.exists():
            raise RecipeError(
                f"there is no recipe {target}",
                hint="start one with `privml-build init NAME`, or give only a name",
            )
        return path
    folders = (base / "recipes", base, shipped())
    for folder in folders:
        if (found := named(folder, target)) is not None:
            return found
    if (base / target).is_dir():
        raise RecipeError(f"`{target}` is a directory, expected a recipe's name or file")
    known = sorted({path.stem for folder in folders for path in recipes_in(folder)})
    near = difflib.get_close_matches(target, known, n=1)
    guess = f"did you mean `{near[0]}`? " if near else ""
    raise RecipeError(f"there is no recipe `{target}`", hint=f"{guess}known recipes: {', '.join(known) or 'none'}")


def is_recipe(path: Path) -> bool:
    """True if a YAML file declares itself a recipe, valid or not."""
    try:
        with path.open("rb") as file:
            start = file.read(document.MAX_BYTES)
    except OSError:
        return False
    return re.search(rb"^(?:schema|extends):", start, re.M) is not None


def recipes_in(folder: Path) -> list[Path]:
    """The recipes in ``folder``, by name."""
    return sorted(path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}") if is_recipe(path))


def load(path: Path) -> Recipe:
    """Read a recipe; ``RecipeError`` names every problem with its file and line."""
    data = _read(path)
    check_single(path)
    own = document.parse(data, label(path.name, path.parent))
    files = [hashlib.sha256(data).hexdigest()]
    source, parent = own, None
    if EXTENDS in own.value:
        parent_path = _parent_of(path, own)
        inner = parent_path.relative_to(path.parent.resolve()).as_posix()
        parent_data = _read(parent_path, own.marks[(EXTENDS,)])
        joint = own.marks[(EXTENDS,)]
        try:
            parent = document.parse(parent_data, label(inner, path.parent))
        except RecipeError as error:
            raise RecipeError(f"{error.message} (extended by {joint})") from error
        if EXTENDS in parent.value:
            raise RecipeProblems(
                [
                    Finding(
                        f"extends: `{inner}` extends another recipe itself ({parent.marks[(EXTENDS,)]}); "
                        "only one level is allowed",
                        rule="extends-chain",
                        file=joint.file,
                        line=joint.line,
                    )
                ]
            )
        files.append(hashlib.sha256(parent_data).hexdigest())
        source = document.merged(_without_extends(own), parent, joint)
    _refuse_old(path, own, parent)
    content = validate(source, Content)
    consistency.check(content, source)
    if not content.devices:
        content = content.model_copy(update={"devices": _devices_of(_platforms(content, path, source), source)})
    return Recipe(name_of(path), path, content, {"content": effective_of(content), "files": files}, source)


class OldSchema(RecipeProblems):
    """A recipe of schema 1; ``rewritten`` maps file names to their content in schema 2."""

    def __init__(self, findings: Sequence[Finding], rewritten: Mapping[str, str], *, hint: str) -> None:
        super().__init__(findings, hint=hint)
        self.rewritten = dict(rewritten)


def _refuse_old(path: Path, own: Document, parent: Document | None) -> None:
    above = None if parent is None else parent.value
    found, made = [], {}
    for each, below in ((own, above), (parent, None)):
        if each is None or not migration.is_old(each.value, below):
            continue
        mark = each.marks.get(("schema",)) or each.marks[()]
        said = "schema: got `1`" if ("schema",) in each.marks else "has fields of schema 1"
        found.append(Finding(f"{said}, expected schema {migration.NEW}", file=mark.file, line=mark.line))
        made[mark.file] = migration.rewritten(each.value, below)
    if found:
        name = name_of(path)
        hint = f"`privml-build lint {name}` prints it in schema {migration.NEW} (comments are not carried over)"
        raise OldSchema(found, made, hint=hint)


def platform_path(name: str, directory: Path) -> Path:
    """The file of a platform: ``directory/platforms/NAME.yaml``, else the shipped one."""
    folders = [folder / "platforms" for folder in (directory, shipped())]
    found = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
    if found is None:
        known = ", ".join(sorted({file.stem for folder in folders for file in folder.glob("*.yaml")}))
        raise RecipeError(f"there is no platform `{name}`", hint=f"known platforms: {known}")
    return found


def load_platform(name: str, directory: Path) -> PlatformFile:
    """Read a platform of the recipes in ``directory``; ``RecipeError`` for a machine of a cloud."""
    platform = load_any_platform(name, directory)
    if isinstance(platform, GcePlatformFile):
        raise RecipeError(
            f"platform {name}: a machine of Google, which nothing here can start",
            hint="`privml-build measure NAME --platform PLATFORM` predicts for it; name one of a QEMU for this",
        )
    return platform


def load_any_platform(name: str, directory: Path) -> PlatformFile | GcePlatformFile:
    """Read a platform of any kind of the recipes in ``directory``."""
    path = platform_path(name, directory)
    parsed = document.parse(_read(path), label(f"platforms/{path.name}", path.parent.parent))
    vmm = parsed.value.get("vmm")
    of_cloud = isinstance(vmm, dict) and vmm.get("kind") == KIND
    platform: PlatformFile | GcePlatformFile = (
        validate(parsed, GcePlatformFile) if of_cloud else validate(parsed, PlatformFile)
    )
    if platform.name != name:
        raise RecipeError(
            f"{parsed.marks[('name',)]}: name: got `{platform.name}`, expected the file's name, `{name}`"
        )
    return platform


def platforms_in(directory: Path) -> list[PlatformFile | GcePlatformFile]:
    """The platforms of the recipes in ``directory``, by name; files that cannot be read are left out."""
    found = []
    for path in sorted((directory / "platforms").glob("*.yaml")):
        with contextlib.suppress(RecipeError):
            found.append(load_any_platform(path.stem, directory))
    return found


def qemus_in(directory: Path) -> list[PlatformFile]:
    """The platforms of QEMUs of the recipes in ``directory``, without those of clouds."""
    return [one for one in platforms_in(directory) if isinstance(one, PlatformFile)]


def label(inner: str, directory: Path) -> str:
    """The name of ``directory/inner`` in messages and manifests, without directories of this machine.

    Manifests contain it, so it must not depend on the location of the checkout.
    """
    ours = directory.resolve() == shipped().resolve() or directory.resolve().name == "recipes"
    return f"recipes/{inner}" if ours else inner


def _read(path: Path, asked_by: Mark | None = None) -> bytes:
    """The file's bytes; ``asked_by`` is the line that names the file, if a file does."""
    what = f"{path}" if asked_by is None else f"{asked_by}: `{path.name}`"
    try:
        with path.open("rb") as file:
            data = file.read(document.MAX_BYTES + 1)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise RecipeError(f"{what} cannot be read: {(error.strerror or '').lower()}") from error
    if len(data) > document.MAX_BYTES:
        raise RecipeError(f"{what} has {max(size, len(data))} bytes, expected at most {document.MAX_BYTES}")
    return data


def _parent_of(path: Path, own: Document) -> Path:
    mark = own.marks[(EXTENDS,)]
    given = own.value[EXTENDS]
    if not isinstance(given, str) or not is_file_name(given) or not given.isprintable():
        raise RecipeError(
            f"{mark}: extends: got `{printable(str(given))}`, "
            "expected a recipe next to this one, such as ./demo-cpu.yaml"
        )
    directory = path.parent.resolve()
    parent = (directory / given).resolve()
    if Path(given).is_absolute() or not parent.is_relative_to(directory):
        raise RecipeError(f"{mark}: extends: `{given}` is outside this recipe's directory")
    if parent == path.resolve():
        raise RecipeError(f"{mark}: extends: a recipe cannot extend itself")
    return parent


def _without_extends(own: Document) -> Document:
    value = {key: item for key, item in own.value.items() if key != EXTENDS}
    marks = {path: mark for path, mark in own.marks.items() if path[:1] != (EXTENDS,)}
    return Document(value, marks)


def platforms_of(recipe: Recipe) -> list[PlatformFile | GcePlatformFile]:
    """The recipe's platforms, from its own directory or else the shipped ones."""
    return _platforms(recipe.content, recipe.path, recipe.source)


def _platforms(content: Content, recipe: Path, source: Document) -> list[PlatformFile | GcePlatformFile]:
    found = []
    for index, name in enumerate(content.platforms):
        try:
            found.append(load_any_platform(name, recipe.parent))
        except RecipeError as error:
            if error.hint is None:
                raise
            path: document.Path = ("platforms", index)
            text = f"{mark_of(path, source)}: platforms[{index}]: {error.message}{source.counterpart(path)}"
            raise RecipeError(text, hint=error.hint) from error
    return found


def _devices_of(platforms: Sequence[PlatformFile | GcePlatformFile], source: Document) -> list[Device]:
    """The devices common to all ``platforms`` of QEMUs; ``RecipeProblems`` if they differ, or if there is none."""
    of_qemu = [(index, one) for index, one in enumerate(platforms) if isinstance(one, PlatformFile)]
    if not of_qemu:
        mark = mark_of(("platforms",), source)
        text = "devices: missing, expected them, because captures of a cloud's machines do not say them"
        raise RecipeProblems([Finding(text, rule="platform-devices", file=mark.file, line=mark.line)])
    (_, first), *others = of_qemu
    has = kinds(first)
    for index, other in others:
        if (its := kinds(other)) != has:
            path: document.Path = ("platforms", index)
            mark = mark_of(path, source)
            text = (
                f"platforms[{index}]: `{other.name}` has {_counted(its)}, but `{first.name}` has {_counted(has)}: "
                f"a guest expects the same devices on every platform{source.counterpart(path)}"
            )
            raise RecipeProblems([Finding(text, rule="platform-devices", file=mark.file, line=mark.line)])
    return [Device.model_validate({"kind": kind, "count": count}) for kind, count in sorted(has.items())]


def kinds(platform: PlatformFile) -> Counter[str]:
    """How many of each kind of device that a guest uses the platform has."""
    return Counter(device.kind for device in platform.devices if device.kind in MOST)


def _counted(devices: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(devices.items()))
