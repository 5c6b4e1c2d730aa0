"""Refuse a model file that is something else, when it is locked: before a prediction for it exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from privml.base.errors import InputsError, printable
from privml.lock import gguf, safetensors
from privml.store import lookalikes


class Header(Protocol):
    """What a file of any format says about itself."""

    @property
    def licence(self) -> str | None:
        """The model's licence, if the file names it."""


@dataclass(frozen=True)
class Format:
    """A model format: checks of one file and of all files of a model, which raise ``ValueError`` with the reason.

    ``beside`` gives the names of all files of the model at a local path (``ValueError`` if they are none),
    ``together`` says whether files with the given paths can be one model, and ``ordered`` puts the file first that an
    engine opens. ``brace_first`` says whether a file of a name may begin with a brace, ``layout`` is what a model is.
    """

    layout: str
    check: Callable[[str, IO[bytes], int], Header]
    whole: Callable[[Sequence[tuple[str, Any]]], None]
    beside: Callable[[Path], tuple[str, ...]]
    together: Callable[[Sequence[str]], bool]
    ordered: Callable[[Sequence[str]], tuple[str, ...]]
    brace_first: Callable[[str], bool] = lambda _: False


GGUF, SAFETENSORS = "gguf", "safetensors"
FORMATS: Mapping[str, Format] = {
    GGUF: Format(
        "one file", lambda _, file, size: gguf.check(file, size), gguf.whole, gguf.beside, gguf.together, gguf.ordered
    ),
    SAFETENSORS: Format(
        "the files of one folder",
        safetensors.check,
        safetensors.whole,
        safetensors.beside,
        safetensors.together,
        safetensors.ordered,
        safetensors.brace_first,
    ),
}
"""Model formats by the name that engine records use."""

_HINT = "look at the file where the recipe takes it from: was the download complete?"


def check(file: IO[bytes], size: int, *, kind: str, name: str, path: str = "") -> Header:
    """Raise ``InputsError`` if ``file``, seekable and of ``size`` bytes, is not a whole file of format ``kind``.

    ``name`` is how messages call it, ``path`` its path in the model.
    """
    form = FORMATS[kind]
    what = f"{name} is not a whole {kind.upper()} model"
    if size == 0:
        raise InputsError(f"{what}: it is empty", hint=_HINT)
    begin = file.read(lookalikes.BEGIN)
    meaning = lookalikes.meaning(begin)
    if meaning is not None and not (meaning == lookalikes.JSON and form.brace_first(path)):
        shown = printable(begin.lstrip()[:24].decode("ascii", "replace"))
        raise InputsError(f"{what}: it begins with `{shown}`, so it is {meaning}", hint=_HINT)
    file.seek(0)
    try:
        return form.check(path, file, size)
    except ValueError as error:
        raise InputsError(f"{what}: {printable(str(error))}", hint=_HINT) from error


def licence(files: Sequence[tuple[str, Header]]) -> str | None:
    """The licence that one of a model's files names, if any does."""
    return next((header.licence for _, header in files if header.licence is not None), None)


def check_whole(files: Sequence[tuple[str, Header]], *, kind: str, name: str) -> None:
    """Raise ``InputsError`` if checked files, each with its name, are not all files of one model."""
    try:
        FORMATS[kind].whole(files)
    except ValueError as error:
        raise InputsError(
            f"{name} is not a whole {kind.upper()} model: {printable(str(error))}",
            hint="give all parts of a split model, in order",
        ) from error
