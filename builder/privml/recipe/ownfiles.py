"""The files that a recipe adds to the guest's root: copies of local files, and its kernel settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from privml.recipe import document, places
from privml.recipe.added import AddedFile
from privml.recipe.document import spelled
from privml.recipe.finding import Finding
from privml.recipe.guestfiles import GuestFile, unwanted
from privml.recipe.kernelsettings import module_name
from privml.recipe.loader import Recipe
from privml.recipe.rules import RULES
from privml.recipe.validation import mark_of

SYSCTLS = "etc/sysctl.d/privml-recipe.conf"
MODULES = "etc/modules-load.d/privml-recipe.conf"
MAX_FILES = 4096
MAX_BYTES = 256 << 20

_Found = tuple[str, GuestFile]


class _Refused(Exception):
    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


def read(recipe: Recipe) -> tuple[dict[str, GuestFile], list[Finding]]:
    """Every file of ``recipe`` in the root, by its path there, and the problems that keep files out."""
    content = recipe.content
    files = _settings(recipe)
    findings: list[Finding] = []
    for target, added in content.files.items():
        try:
            for name, file in _copies(recipe.path.parent, target, added):
                _add(files, name, file, frozenset(content.programs))
        except _Refused as error:
            field: document.Path = ("files", target)
            mark = mark_of(field, recipe.source)
            text = f"{spelled(field)}: {error}{recipe.source.counterpart(field)}"
            findings.append(Finding(text, error.rule, RULES[error.rule].severity, mark.file, mark.line))
    return dict(sorted(files.items())), findings


def _add(files: dict[str, GuestFile], name: str, file: GuestFile, programs: frozenset[str]) -> None:
    if (why := places.refused(name, programs)) is not None:
        raise _Refused("file-place", f"/{name}: {why}")
    if name.startswith("usr/bin/") and not file.mode & 0o100:
        raise _Refused("file-place", f"/{name} is not executable, as a program must be")
    for rule, text in unwanted(name, file):
        raise _Refused(rule, f"/{name}: {text}")
    if name in files:
        raise _Refused("given-twice", f"/{name} is given twice")
    files[name] = file
    if len(files) > MAX_FILES or sum(len(each.data) for each in files.values()) > MAX_BYTES:
        limits = f"{MAX_FILES} files with {MAX_BYTES >> 20} MiB"
        raise _Refused("file-source", f"more than {limits}, which is the most that a recipe may add")


def _settings(recipe: Recipe) -> dict[str, GuestFile]:
    files = {}
    if values := recipe.content.sysctl:
        lines = [f"{name} = {value}\n" for name, value in sorted(values.items())]
        files[SYSCTLS] = GuestFile("".join(lines).encode())
    if modules := recipe.content.kernel.modules:
        files[MODULES] = GuestFile("".join(f"{module_name(name)}\n" for name in modules).encode())
    return files


def _copies(folder: Path, target: str, added: AddedFile) -> Iterator[_Found]:
    root = folder.resolve()
    source = folder / added.source
    if not source.resolve().is_relative_to(root):
        raise _Refused("file-source", f"`{added.source}` leads outside the recipe's folder")
    name = target.removeprefix("/").removesuffix("/")
    if source.is_file():
        yield name, _file(source, added)
    elif source.is_dir():
        yield from _tree(source.resolve(), added, name)
    else:
        what = "is neither a file nor a folder" if source.exists() else "does not exist"
        raise _Refused("file-source", f"`{added.source}` {what}")


def _tree(source: Path, added: AddedFile, name: str) -> Iterator[_Found]:
    found = sorted(path for path in source.rglob("*") if path.is_symlink() or not path.is_dir())
    if not found:
        raise _Refused("file-source", f"`{added.source}` has no files")
    for path in found:
        inner = path.relative_to(source).as_posix()
        if path.is_symlink():
            link = str(path.readlink())
            if _leaves(inner, link) or not path.resolve().is_relative_to(source) or not path.exists():
                raise _Refused("file-source", f"the link `{inner}` -> `{link}` leads out of `{added.source}`")
            yield f"{name}/{inner}", GuestFile(os.fsencode(link), link=True)
        elif path.is_file():
            yield f"{name}/{inner}", _file(path, added)
        else:
            raise _Refused("file-source", f"`{inner}` in `{added.source}` is neither a file nor a link")


def _leaves(inner: str, link: str) -> bool:
    """Whether a link at ``inner`` passes through a folder above its tree, whose name in the image is another one."""
    depth = inner.count("/")
    for part in link.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return link.startswith("/")


def _file(path: Path, added: AddedFile) -> GuestFile:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _Refused("file-source", f"`{path.name}` has more than {MAX_BYTES >> 20} MiB")
        executable = bool(path.stat().st_mode & 0o100) if added.executable is None else added.executable
        return GuestFile(path.read_bytes(), 0o755 if executable else 0o644)
    except OSError as error:
        raise _Refused("file-source", f"`{path.name}` cannot be read: {(error.strerror or '').lower()}") from error
