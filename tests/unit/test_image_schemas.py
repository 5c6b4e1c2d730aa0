"""The schemas in docs/schemas are up to date, match committed and built files, and are as strict as the readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import image_fake
import pytest
from json_schema import accepts
from test_image_manifest import IDENTITY, KEY, sample, signed, without_model

from privml.base.errors import PrivmlError
from privml.base.strictjson import canonical, loads, pretty
from privml.image import build as room
from privml.image import schemas
from privml.lock.lockfile import parse
from privml.lock.models import Lock, ToolsLock
from privml.output import manifest
from privml.recipe import schema
from privml.recipe.loader import shipped

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = schemas.lock_schema(Lock, "lock")
TOOLS_LOCK = schemas.lock_schema(ToolsLock, "tools lock")
MANIFEST = schemas.manifest_schema()


@pytest.mark.parametrize("name", schemas.files())
def test_the_committed_schemas_are_up_to_date(name: str) -> None:
    path = REPOSITORY / "docs/schemas" / name
    assert path.read_bytes() == schemas.files()[name], "renew them: .venv/bin/python -m privml.image.schemas"
    body = json.loads(path.read_bytes())
    assert body["jsonSchemaDialect" if "openapi" in body else "$schema"] == schema.DIALECT


def test_the_schema_directory_has_no_other_files() -> None:
    assert {path.name for path in (REPOSITORY / "docs/schemas").iterdir()} == set(schemas.files())


def test_the_committed_locks_match_their_schema() -> None:
    paths = list(shipped().glob("*.lock.json"))
    assert len(paths) > 2
    for path in paths:
        fits = TOOLS_LOCK if path.name == "tools.lock.json" else LOCK
        assert accepts(fits, json.loads(path.read_bytes()), fits), path.name
        other = LOCK if fits is TOOLS_LOCK else TOOLS_LOCK
        assert not accepts(other, json.loads(path.read_bytes()), other)


def test_a_built_manifest_matches_its_schema(tmp_path: Path) -> None:
    fake = image_fake.make(tmp_path)
    built = room.build(fake.order(), tmp_path / "out/x")
    written = json.loads((built.directory / "manifest.json").read_bytes())
    assert accepts(MANIFEST, written, MANIFEST)


def small(document: dict[str, Any]) -> dict[str, Any]:
    """A lock with lists of one item, so that every value can be changed in turn."""
    return {key: value[:1] if isinstance(value, list) else value for key, value in document.items()}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    yield path
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        inner = iter(value.items())
    elif isinstance(value, list):
        inner = iter(enumerate(value[:1]))
    for key, item in inner:
        yield from places(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def changes(document: Any) -> Iterator[tuple[str, Any]]:
    """The document with one error each: a value missing, of another type or out of range, or an extra field."""
    for path in places(document):
        if path and isinstance(path[-1], str):
            copy = loads(pretty(document))
            del at(copy, path[:-1])[path[-1]]
            yield f"{path} gone", copy
        for wrong in (None, [], {}, "", "x", -1, True):
            if path and wrong != at(document, path):
                copy = loads(pretty(document))
                at(copy, path[:-1])[path[-1]] = wrong
                yield f"{path} = {wrong!r}", copy
        if isinstance(at(document, path), dict):
            copy = loads(pretty(document))
            at(copy, path)["one-too-many"] = 1
            yield f"{path} + 1", copy


def agreement(document: Any, fits: dict[str, Any], read: Callable[[bytes], object]) -> dict[str, tuple[bool, bool]]:
    """Where the reader and the schema disagree: (the schema's judgement, the reader's)."""
    apart = {}
    for what, copy in changes(document):
        try:
            read(pretty(copy))
            readable = True
        except PrivmlError:
            readable = False
        if readable != (fitting := accepts(fits, copy, fits)):
            apart[what] = (fitting, readable)
    return apart


def signed_by_key(folder: Path) -> manifest.Manifest:
    return signed(folder, KEY)


def signed_by_identity(folder: Path) -> manifest.Manifest:
    return signed(folder, IDENTITY)


@pytest.mark.parametrize("made", [sample, signed_by_key, signed_by_identity, without_model])
def test_the_manifest_schema_refuses_what_the_reader_refuses(
    tmp_path: Path, made: Callable[[Path], manifest.Manifest]
) -> None:
    document = loads(made(tmp_path / "image").encode())
    assert accepts(MANIFEST, document, MANIFEST)
    apart = agreement(document, MANIFEST, lambda data: manifest.decode(canonical(loads(data))))
    # A schema cannot say that the parts agree with each other, nor what stands in base64.
    between = {"agent_events", "artefacts", "engine", "firmware", "models", "purposes"}
    assert {what.partition("'")[2].partition("'")[0] for what in apart} <= between
    assert all(fitting for fitting, _ in apart.values())


def test_the_lock_schema_refuses_what_the_reader_refuses() -> None:
    document = small(json.loads((shipped() / "tools.lock.json").read_bytes()))
    assert agreement(document, TOOLS_LOCK, lambda data: parse(data, ToolsLock, "t")) == {}
    document = small(json.loads((shipped() / "demo-cpu.lock.json").read_bytes()))
    apart = agreement(document, LOCK, lambda data: parse(data, Lock, "t"))
    # A schema cannot say that a tree's digest is that of its files, or that a model's wheel is there.
    between = {"agent", "guest", "models", "python"}
    assert {what.partition("'")[2].partition("'")[0] for what in apart} <= between
    assert all(fitting for fitting, _ in apart.values())
