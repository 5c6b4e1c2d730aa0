"""The source trees in an image: the agent's modules and the guest's overlay files."""

from __future__ import annotations

import ast
import hashlib
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from privml.base.errors import InputsError
from privml.events.variants import DEVELOPMENT, PRODUCTION
from privml.lock.models import Tree, TreeFile
from privml.recipe import ownfiles
from privml.recipe.finding import RecipeProblems
from privml.recipe.guestfiles import GuestFile
from privml.recipe.loader import Recipe
from privml.recipe.models import Content

PACKAGE = "privml"
AGENT_ROOTS = ("privml.agent",)
DEVELOPMENT_ROOTS = ("privml.agent", "privml.sim")
# Modules of the guest besides the standard library: Debian's python3-cryptography and python3-h11.
GUEST_LIBRARIES = frozenset({"cryptography", "h11"})
TRITON_FOLDER = "triton"
"""The folder with what the build compiles for Triton, next to the guest's own files."""
DRIVER_PATCHES = "drivers"
"""The folder with patches of GPU drivers, next to those of the guest's own files."""


def agent_tree(variant: str, source: Path | None = None) -> Tree:
    """The import closure of the agent (and, in development, of the simulated platform) below ``source``.

    ``source`` is the parent directory of the package; by default the one this module runs from.
    """
    root = source if source is not None else Path(__file__).resolve().parents[2]
    names = AGENT_ROOTS if variant == PRODUCTION else DEVELOPMENT_ROOTS
    files = sorted({*module_closure(root, names), *_package_data(root, names)})
    return Tree.of([_entry(root, root / path) for path in files])


def images_folder() -> Path:
    """Directory of the guest's own files: package data in an installed privml-build, ``images`` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    data = package / "image" / "data"
    return data if data.is_dir() else package.parents[1] / "images"


def overlays(content: Content) -> tuple[str, ...]:
    """The overlay directories of this guest, in the order they are applied."""
    engine = () if content.inference is None else ("guest/engine",)
    services = ("guest/services",) if content.services else ()
    gpu = () if content.gpu is None else ("guest/gpu",)
    simulated = ("guest/gpu-development",) if gpu and content.variant == DEVELOPMENT else ()
    ppcie = ("guest/ppcie",) if content.gpu is not None and content.gpu.ppcie else ()
    return ("guest/common", *engine, *services, *gpu, *ppcie, f"guest/{content.variant}", *simulated)


def overlay_path(path: str) -> str:
    """The path in the root of a guest file, such as ``guest/common/etc/hosts``; other files keep theirs."""
    folder, _, rest = path.partition("/")
    return rest.partition("/")[2] if folder == "guest" else path


def guest_tree(images: Path, content: Content) -> Tree:
    """The guest's overlays, initrd files and templates below ``images``, and the patches of its driver; directories
    may be absent.
    """
    files: list[TreeFile] = []
    compiled = () if content.python is None else (TRITON_FOLDER,)
    for folder in (*overlays(content), "initrd", "mkosi", *compiled):
        if (images / folder).is_dir():
            files += [_entry(images, path) for path in _walk(images / folder)]
    patches = () if content.gpu is None else content.gpu.record.patches
    files += [_entry(images, images / DRIVER_PATCHES / name) for name in patches]
    if not files:
        raise InputsError(f"{images} has none of the guest's own files, which every image needs")
    return Tree.of(files)


def own_tree(recipe: Recipe) -> Tree | None:
    """The files that ``recipe`` adds to the root; None if it adds none. ``RecipeProblems`` if one cannot be used."""
    files, findings = ownfiles.read(recipe)
    if findings:
        raise RecipeProblems(findings, hint=f"why: `privml-build lint --explain {findings[0].rule}`")
    return Tree.of([_own_entry(path, file) for path, file in files.items()]) if files else None


def _own_entry(path: str, file: GuestFile) -> TreeFile:
    kind = "symlink" if file.link else "executable" if file.mode & stat.S_IXUSR else "file"
    digest = hashlib.sha256(file.data).hexdigest()
    return TreeFile.model_validate({"path": path, "kind": kind, "sha256": digest, "size": len(file.data)})


def module_closure(root: Path, names: Iterable[str]) -> set[str]:
    """The files of the packages ``names`` and of all our modules they import, as paths below ``root``.

    Imports under ``if TYPE_CHECKING`` are ignored. ``InputsError`` if a module imports something that the guest does
    not have.
    """
    waiting = [module for name in names for module in _modules_of(root, name)]
    found: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = _file_of(root, module)
        if path is None:
            raise InputsError(f"the agent imports `{module}`, which does not exist")
        found[module] = path
        if "." in module:
            waiting.append(module.rpartition(".")[0])
        waiting += _imports(root, module, path)
    return set(found.values())


def _modules_of(root: Path, package: str) -> Iterator[str]:
    folder = root / package.replace(".", "/")
    if not (folder / "__init__.py").is_file():
        raise InputsError(f"the package `{package}` does not exist")
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _file_of(root: Path, module: str) -> str | None:
    stem = module.replace(".", "/")
    for path in (f"{stem}/__init__.py", f"{stem}.py"):
        if (root / path).is_file():
            return path
    return None


def _imports(root: Path, module: str, path: str) -> list[str]:
    try:
        tree = ast.parse((root / path).read_bytes(), filename=path)
    except SyntaxError as error:
        raise InputsError(f"{path}:{error.lineno}: {error.msg}") from error
    package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
    needed: list[str] = []
    for node in _running(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                needed += _ours(alias.name, path, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for name in _ours(base, path, node.lineno):
                needed.append(name)
                # `from package import x`: x is a module of its own, or a name inside the package.
                submodules = [f"{name}.{alias.name}" for alias in node.names]
                needed += [submodule for submodule in submodules if _file_of(root, submodule)]
    return needed


def _ours(name: str, path: str, line: int) -> list[str]:
    top = name.partition(".")[0]
    if top == PACKAGE:
        return [name]
    if top not in sys.stdlib_module_names and top not in GUEST_LIBRARIES:
        raise InputsError(f"{path}:{line}: imports `{name}`, which the guest does not have")
    return []


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements that run, without those only for type checkers. Expressions contain no statements."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            continue
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            for other in node.orelse:
                yield other
                yield from _running(other)
            continue
        yield node
        yield from _running(node)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _package_data(root: Path, names: Iterable[str]) -> Iterator[str]:
    """Data files (certificates, constants) next to the modules of the root packages."""
    for name in names:
        for path in sorted((root / name.replace(".", "/")).rglob("*")):
            if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
                yield path.relative_to(root).as_posix()


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name == "__pycache__":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _entry(root: Path, path: Path) -> TreeFile:
    mode = path.lstat().st_mode
    name = path.relative_to(root).as_posix()
    if stat.S_ISLNK(mode):
        data = str(path.readlink()).encode()
        kind = "symlink"
    elif stat.S_ISREG(mode):
        data = path.read_bytes()
        # git stores only this bit of the mode, so only this bit counts.
        kind = "executable" if mode & stat.S_IXUSR else "file"
    else:
        raise InputsError(f"{name}: neither a file nor a symlink")
    return TreeFile.model_validate(
        {"path": name, "kind": kind, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    )
