"""The sources of a model's files: the forms of ``inference.models.source``, one record each."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from privml.recipe.finding import RuleBroken

_UNPINNED = "unpinned-source"
MAX_LENGTH = 2000


@dataclass(frozen=True)
class InWheel:
    """Files in one version of a wheel."""

    name: str
    version: str


@dataclass(frozen=True)
class Local:
    """A model next to the recipe: a file, with the other parts of a split model next to it, or a folder.

    ``path`` is relative, and a folder's ends with a slash.
    """

    path: str

    @property
    def folder(self) -> bool:
        """True if the model is all files of a folder."""
        return self.path.endswith("/")


@dataclass(frozen=True)
class Address:
    """A file at a web address, or files below an address that ends with a slash."""

    url: str

    @property
    def folder(self) -> bool:
        """True if the address is a folder, whose files the recipe lists."""
        return urllib.parse.urlsplit(self.url).path.endswith("/")

    @property
    def name(self) -> str:
        """The file's name, without directories and query."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rpartition("/")[2])


@dataclass(frozen=True)
class InHub:
    """Files of a repository on a model hub, at one commit."""

    repo: str
    commit: str


Source = InWheel | Local | Address | InHub


@dataclass(frozen=True)
class Form:
    """One form of a source: how it begins and is written, and which field names the files in it, if any."""

    begin: str
    shown: str
    read: Callable[[str], Source]
    field: Callable[[Source], str | None]
    required: bool = False


def _wheel(text: str) -> Source:
    match = re.fullmatch(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.+!]*)", text)
    if match is None:
        raise RuleBroken(_UNPINNED, f"got `{text}`, expected `pypi:NAME==VERSION`")
    return InWheel(match[1], match[2])


def _local(text: str) -> Source:
    path = text.removeprefix("file:")
    if PurePosixPath(path).is_absolute():
        raise ValueError(f"got `{text}`, expected a path relative to the recipe, such as `file:models/model.gguf`")
    if not plain(path.removesuffix("/"), above=True):
        examples = "`file:models/model.gguf`, or of a folder, such as `file:models/tiny/`"
        raise ValueError(f"got `{text}`, expected the path of a file, such as {examples}")
    return Local(path)


def _address(text: str) -> Source:
    try:
        parts = urllib.parse.urlsplit(text)
        host = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        parts, host = urllib.parse.urlsplit(""), None
    if not host or not re.fullmatch(r"[!-~]+", text) or parts.fragment:
        raise ValueError(f"got `{text}`, expected an address such as `https://models.example.invalid/model.gguf`")
    if parts.username is not None:
        raise ValueError("expected an address without user name and password; they belong in apt's auth.conf")
    found = Address(text)
    if not found.folder and not plain(found.name):
        raise ValueError(f"got `{text}`, expected an address that ends with a file's name, or a folder's with `/`")
    return found


def _hub(text: str) -> Source:
    word = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    match = re.fullmatch(rf"hub:({word}/{word})@([0-9a-f]{{40}})", text)
    if match is None:
        raise RuleBroken(_UNPINNED, f"got `{text}`, expected `hub:ORG/REPO@COMMIT` with a commit of 40 hex digits")
    return InHub(match[1], match[2])


def _of_address(source: Source) -> str:
    return "files" if isinstance(source, Address) and source.folder else "sha256"


FORMS = (
    Form("pypi:", "pypi:NAME==VERSION", _wheel, lambda _: "file"),
    Form("file:", "file:PATH", _local, lambda _: None),
    Form("https://", "https://HOST/PATH", _address, _of_address, required=True),
    Form("hub:", "hub:ORG/REPO@COMMIT", _hub, lambda _: "files", required=True),
)
PATTERN = r"^(pypi:[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.+!]*|file:[^/].*|https://.+|hub:.+/.+@[0-9a-f]{40})$"
"""What a JSON Schema can check of a source."""
_FIELDS = {
    "file": "a pattern of the file's name",
    "sha256": "the SHA-256 of the file",
    "files": "the name and SHA-256 of each file",
}


def form_of(text: str) -> Form:
    """The form that ``text`` is written in; ``RuleBroken`` if there is none."""
    for form in FORMS:
        if text.startswith(form.begin):
            return form
    known = ", ".join(f"`{form.shown}`" for form in FORMS)
    raise RuleBroken(_UNPINNED, f"got `{text}`, expected one of {known}")


def parse(text: str) -> Source:
    """Read a source; ``ValueError`` with what is expected instead."""
    if len(text) > MAX_LENGTH or not text.isprintable():
        raise ValueError(f"expected at most {MAX_LENGTH} printable characters")
    return form_of(text).read(text)


def check_fields(text: str, given: Mapping[str, object]) -> None:
    """Raise ``ValueError`` if a model with the source ``text`` has a field that the form does not take, or lacks one.

    ``given`` are the model's fields by name, None for those left out.
    """
    form = form_of(text)
    field = form.field(parse(text))
    instead = "" if field is None else f"; expected `{field}`, {_FIELDS[field]}"
    for name in (name for name in _FIELDS if given.get(name) is not None and name != field):
        raise ValueError(f"a model from `{text}` takes no field `{name}`{instead}")
    if form.required and field is not None and given.get(field) is None:
        raise RuleBroken(_UNPINNED, f"the source alone leaves the bytes open{instead}")


def check_layout(text: str, *, folder: bool, pattern: str | None) -> None:
    """Raise ``ValueError`` if a model from the source ``text`` does not lie there as its format has it.

    ``folder`` is true if models of the format are folders, ``pattern`` the recipe's pattern for files of a wheel.
    """
    match parse(text):
        case Local(folder=given) if given != folder:
            form = "a folder, whose path ends with `/`" if folder else "a file"
            raise ValueError(f"got `{text}`, expected the path of {form}")
        case Address(folder=False) if folder:
            raise ValueError(f"got `{text}`, expected a folder's address, which ends with `/`, and `files`")
        case InWheel() if folder and pattern is None:
            raise ValueError("expected `file`, a pattern that matches all files of the model, such as `NAME/model/*`")
        case _:
            pass


def plain(path: str, *, above: bool = False) -> bool:
    """True for the relative path of a file without empty or odd parts; with ``above``, also one with ``..``."""
    parts = path.split("/")
    wrong = {"", "."} if above else {"", ".", ".."}
    return path.isprintable() and "\\" not in path and not wrong & set(parts) and parts[-1] != ".."
