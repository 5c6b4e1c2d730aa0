"""Say what a model file is, whether or not an engine reads its format: GGUF, safetensors, or an index of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import InputsError, printable
from privml.base.files import read_start
from privml.lock import gguf, safetensors
from privml.lock.modelfile import GGUF, SAFETENSORS, Header, check


@dataclass(frozen=True)
class ModelFacts:
    """A whole model file, or all files of an index: the format, what it is, its size in bytes, and what it holds."""

    kind: str
    title: str
    size: int
    facts: dict[str, str]


def kind_of(path: Path) -> str | None:
    """The format of a model file by its name and first bytes; None for a file of another kind."""
    if path.name.endswith(safetensors.INDEX_SUFFIX):
        return SAFETENSORS
    try:
        begin = read_start(path, 8)
    except OSError:
        return None
    if begin.startswith(gguf.MAGIC):
        return GGUF
    is_header = begin[8:] == b"{" and int.from_bytes(begin[:8], "little") <= safetensors.MAX_HEADER
    return SAFETENSORS if is_header or path.name.endswith(safetensors.SUFFIX) else None


def facts_of(path: Path, kind: str) -> ModelFacts:
    """Check the model file at ``path``, of format ``kind``, and describe it; ``InputsError`` if it is not whole."""
    header = _checked(path, kind)
    if isinstance(header, gguf.Header):
        return _gguf(path, header)
    assert isinstance(header, safetensors.Header)
    return _tensors(path, header) if header.index is None else _indexed(path, header.index)


def _checked(path: Path, kind: str) -> Header:
    # A file of tensors may have any name where it is read alone.
    known = path.name.endswith((safetensors.SUFFIX, safetensors.INDEX_SUFFIX))
    inner = path.name if known else f"{path.name}{safetensors.SUFFIX}"
    with path.open("rb") as file:
        return check(file, path.stat().st_size, kind=kind, name=str(path), path=inner)


def _gguf(path: Path, header: gguf.Header) -> ModelFacts:
    facts = {"tensors": str(header.tensors)}
    if header.parts > 1:
        facts["part"] = f"{header.part + 1} of {header.parts}"
    if header.licence is not None:
        facts["licence"] = header.licence
    return ModelFacts(GGUF, "a whole GGUF file", path.stat().st_size, facts)


def _tensors(path: Path, header: safetensors.Header) -> ModelFacts:
    return ModelFacts(SAFETENSORS, "a whole file of safetensors", path.stat().st_size, _counts(header))


def _indexed(path: Path, index: Mapping[str, str]) -> ModelFacts:
    """An index with the files that it names next to it."""
    names = sorted(set(index.values()))
    headers, size = {}, 0
    for name in names:
        place = path.parent / name
        if not place.is_file():
            raise InputsError(f"{path}: it names {printable(name)}, which is not next to it")
        header = _checked(place, SAFETENSORS)
        assert isinstance(header, safetensors.Header)
        headers[name] = header
        size += place.stat().st_size
    try:
        safetensors.agree(index, {name: header.tensors for name, header in headers.items()})
    except ValueError as error:
        raise InputsError(f"{path} and the files next to it are not one model: {printable(str(error))}") from error
    merged = {tensor: kind for header in headers.values() for tensor, kind in header.tensors.items()}
    all_of = safetensors.Header(merged, elements=sum(header.elements for header in headers.values()))
    return ModelFacts(SAFETENSORS, f"an index of {len(names)} whole files of safetensors", size, _counts(all_of))


def _counts(header: safetensors.Header) -> dict[str, str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in header.types.items())
    return {"tensors": f"{len(header.tensors)} ({kinds})", "elements": str(header.elements)}
