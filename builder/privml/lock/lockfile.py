"""Lock files: strict decoding, stable encoding."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from privml.base import strictjson
from privml.base.errors import InputsError, PrivmlError
from privml.base.files import write_atomic
from privml.lock.modelrecord import LocalSource, WheelSource
from privml.lock.models import LOCAL, Lock, LockFile, ToolsLock, Tree, written

AnyLock = TypeVar("AnyLock", Lock, ToolsLock)


def read_lock(path: Path) -> Lock:
    """Read a recipe's lock; ``InputsError`` if it is missing or malformed."""
    return parse(_bytes(path, f"lock {path.name.removesuffix('.lock.json')}"), Lock, str(path))


def read_tools_lock(path: Path) -> ToolsLock:
    """Read the tools lock; ``InputsError`` if it is missing or malformed."""
    return parse(_bytes(path, "lock --tools"), ToolsLock, str(path))


def read_any_lock(path: Path) -> Lock | ToolsLock:
    """Read a recipe's lock or a tools lock, depending on the file."""
    data = _bytes(path, "lock")
    if FORMATS.get(format_of(data)) is ToolsLock:
        return parse(data, ToolsLock, str(path))
    return parse(data, Lock, str(path))


def parse(data: bytes, model: type[AnyLock], what: str) -> AnyLock:
    """Decode a lock from bytes."""
    hint = "locks are written only by `privml-build lock`: restore the committed one, or remove it and lock again"
    try:
        document = strictjson.loads(data, what=what)
    except PrivmlError as error:
        raise InputsError(error.message) from error
    if not isinstance(document, dict) or "format" not in document:
        raise InputsError(f"{what}: not a lock: it has no format field")
    current, older = _formats(model)
    if document["format"] == older:
        command = "lock --tools" if model is ToolsLock else "lock NAME"
        raise InputsError(
            f"{what}: format: got {older}, expected {current}",
            hint=f"renew it with `privml-build {command}`, which needs no network and keeps all packages",
        )
    try:
        lock = model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parts = [str(part) for part in first["loc"] if not str(part).startswith("[")]
        where = re.sub(r"\.(\d+)", r"[\1]", ".".join(parts))
        said = first["msg"].removeprefix("Value error, ")
        raise InputsError(f"{what}: {where}: {said[:1].lower()}{said[1:]}", hint=hint) from error
    if wrong := _inconsistent(lock):
        raise InputsError(f"{what}: {wrong}", hint=hint)
    return lock


def _formats(model: type[LockFile]) -> tuple[str, str]:
    """The format of a model, and the previous one, which `lock` converts (``lock.earlier``)."""
    current: str = model.model_fields["format"].default
    return current, current.replace("/v2", "/v1")


FORMATS: dict[str, type[LockFile]] = {name: model for model in (Lock, ToolsLock) for name in _formats(model)}
"""Lock kind of each format, including previous ones."""


def format_of(data: bytes) -> str:
    """The format named in a file; empty if there is none."""
    try:
        document = strictjson.loads(data, what="lock")
    except PrivmlError:
        return ""
    return str(document.get("format", "")) if isinstance(document, dict) else ""


def _inconsistent(lock: Lock | ToolsLock) -> str:
    """The first inconsistency in a lock; empty if there is none."""
    groups = {"packages": lock.packages}
    if isinstance(lock, Lock):
        groups |= {f"firmware.{tee}.packages": each.packages for tee, each in lock.firmware.items()}
        if lock.driver is not None:
            groups |= {"driver.toolchain": lock.driver.toolchain, "driver.parts": lock.driver.parts}
        groups |= {"compiled.toolchain": lock.compiler_debs}
    for field, packages in groups.items():
        names = [(package.name, package.architecture) for package in packages]
        if names != sorted(set(names)):
            return f"{field}: expected each package once, sorted by name"
    if not isinstance(lock, Lock):
        return ""
    labels = [archive.label for archive in lock.added_archives]
    if labels != sorted(set(labels)) or {LOCAL, *labels} & {archive.label for archive in lock.archives}:
        return "added_archives: expected labels other than the base's, each once and sorted"
    wheels = [wheel.name for wheel in lock.python]
    imported = [wheel.name for wheel in lock.imported]
    for field, listed in (("python", wheels), ("requirements.wheels", imported)):
        if listed != sorted(set(listed)):
            return f"{field}: expected each wheel once, sorted by name"
    for number, model in enumerate(lock.models):
        if isinstance(model.source, WheelSource) and model.source.wheel not in wheels:
            return f"models[{number}].source.wheel: `{model.source.wheel}` is not listed in python"
        files = [file.path.rpartition("/")[2] for file in model.files]
        if isinstance(model.source, LocalSource) and files != [file.path for file in model.files]:
            return f"models[{number}].files: expected names without directories"
        if len(files) != len(set(files)):
            return f"models[{number}].files: expected each file name once"
    for number, data in enumerate(lock.data):
        paths = [file.path for file in data.files]
        if paths != sorted(set(paths)):
            return f"data[{number}].files: expected each path once, sorted"
    for field, tree in (("agent", lock.agent), ("guest", lock.guest), ("files", lock.files or Tree.of([]))):
        if Tree.of(list(tree.files)) != tree:
            return f"{field}: the digest does not match its sorted files"
    return ""


def own_tools_lock(lock_file: Path) -> Path:
    """Path of the tools lock of ``NAME.lock.json`` alone: ``NAME.tools.lock.json`` next to it."""
    return lock_file.with_name(f"{lock_file.name.removesuffix('.lock.json')}.tools.lock.json")


def serialise(lock: Lock | ToolsLock) -> bytes:
    """Encode a lock file."""
    return strictjson.pretty(written(lock))


def write_lock(path: Path, lock: Lock | ToolsLock) -> bool:
    """Write a lock file if its bytes change; returns whether they did."""
    data = serialise(lock)
    if path.is_file() and path.read_bytes() == data:
        return False
    write_atomic(path, data)
    return True


def _bytes(path: Path, command: str) -> bytes:
    if not path.is_file():
        raise InputsError(f"{path} does not exist", hint=f"create it with `privml-build {command}`")
    return path.read_bytes()
