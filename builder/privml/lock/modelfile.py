"""Refuse a model file that is something else, when it is locked: before a prediction for it exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO

from privml.base.errors import InputsError, printable
from privml.lock import gguf

FORMATS: Mapping[str, Callable[[IO[bytes], int], None]] = {"gguf": gguf.check}
"""Model formats by the name that engine records use; each raises ``ValueError`` with the reason."""

_BEGIN = 64
_LOOKALIKES = (
    (b"version https://git-lfs", "a Git LFS pointer, which names the model and does not contain it"),
    (b"<!doctype html", "an HTML page, as a server sends instead of a missing file"),
    (b"<html", "an HTML page, as a server sends instead of a missing file"),
    (b"{", "JSON"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
)


def check(file: IO[bytes], size: int, *, kind: str, name: str) -> None:
    """Raise ``InputsError`` if ``file``, seekable and of ``size`` bytes, is not a whole model of format ``kind``.

    ``name`` is how messages call it.
    """
    what = f"{name} is not a whole {kind.upper()} model"
    hint = "look at the file where the recipe takes it from: was the download complete?"
    if size == 0:
        raise InputsError(f"{what}: it is empty", hint=hint)
    begin = file.read(_BEGIN)
    for start, meaning in _LOOKALIKES:
        if begin.lstrip()[: len(start)].lower() == start.lower():
            shown = printable(begin[:24].decode("ascii", "replace"))
            raise InputsError(f"{what}: it begins with `{shown}`, so it is {meaning}", hint=hint)
    file.seek(0)
    try:
        FORMATS[kind](file, size)
    except ValueError as error:
        raise InputsError(f"{what}: {printable(str(error))}", hint=hint) from error
