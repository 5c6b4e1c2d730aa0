"""Describe the fields of recipes and platforms from the models: type, default, meaning, example, registers."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo

from privml.engines.engine import NumberOption, Option
from privml.engines.registry import ENGINES
from privml.events.registers import REGISTERS, shown
from privml.recipe.distributions import TOOLS
from privml.recipe.hardware import Device
from privml.recipe.models import Content
from privml.recipe.platform import PlatformFile
from privml.recipe.section import CONFIG
from privml.recipe.validation import model_in

PLATFORM = "platform"
# Names may be from a stranger's image: enough for a path of the guest in a name, and for the dots of a sysctl.
_MAX_NAME = 1000
_MAX_INNER = 8


@dataclass(frozen=True)
class Fact:
    """One field. ``path`` is written with dots; ``model`` is set if it contains fields, or a list of such."""

    path: str
    kind: str
    default: str
    meaning: str
    example: str
    moves: tuple[str, ...]
    model: type[BaseModel] | None

    @property
    def named_values(self) -> bool:
        """Whether it has values by names of the author's, such as ``sysctl`` or the environment of a service."""
        return self.model is None and self.kind in ("fields", "whole numbers by name", "a list of KIND: COUNT")

    def lines(self) -> list[str]:
        """The full description, for `lint --explain`."""
        shown = [f"{self.path}: {self.meaning}", f"  type      {self.kind}", f"  default   {self.default}"]
        if self.example:
            shown.append(f"  example   {self.example}")
        shown.append(f"  moves     {' '.join(self.moves) or 'no register'}")
        return shown


@cache
def facts() -> Mapping[str, Fact]:
    """Every field by its path: a recipe's as ``agent.listen``, a platform's as ``platform.machine.type``."""
    found = {fact.path: fact for fact in _walk(Content, "")}
    found |= {path: _of_tee(fact) for path, fact in found.items() if path.startswith("firmware.")}
    found |= {fact.path: fact for fact in _walk(PlatformFile, f"{PLATFORM}.")}
    for name in sorted({name for engine in ENGINES.values() for name in engine.options}):
        path = f"inference.engine.options.{name}"
        found[path] = _of_options(
            path, {each.name: each.options[name] for each in ENGINES.values() if name in each.options}
        )
    found["extends"] = Fact(
        "extends",
        "text",
        "none",
        "A recipe in the same directory that this one overrides field by field (lists as a whole). One level.",
        "./demo-cpu.yaml",
        (),
        None,
    )
    return types.MappingProxyType(found)


@cache
def leaves() -> tuple[str, ...]:
    """The paths of the fields that have no fields of their own."""
    every = facts()
    inner = {path[:end] for path in every for end in range(len(path)) if path[end] == "."}
    return tuple(path for path in every if path not in inner)


def _of_tee(fact: Fact) -> Fact:
    """A field of ``firmware.TEE``: its registers are those of the TEE, and its example a package for it."""
    _, tee, *inner = fact.path.split(".")
    moves = tuple(register for register in fact.moves if register in shown(*REGISTERS[tee]))
    packages = TOOLS.distribution.firmwares(tee, production=True)
    example = next(packages).package if inner == ["package"] else fact.example
    return replace(fact, moves=moves, example=example)


def _of_options(path: str, options: Mapping[str, Option]) -> Fact:
    """An option that some engines have, each with its own meaning and default."""
    kinds, defaults, meanings = [], [], []
    for engine, option in options.items():
        default = "none" if option.default is None else str(option.default)
        if isinstance(option, NumberOption):
            kinds.append("a whole number")
            meanings.append(f"{option.meaning} {option.expected}; for {engine}.")
        else:
            kinds.append(option.expected)
            meanings.append(f"{option.meaning} For {engine}.")
        defaults.append(default if len(options) == 1 else f"{default} ({engine})")
    first = next(iter(options.values()))
    example = (first.default or first.low) if isinstance(first, NumberOption) else (first.default or first.values[0])
    kind = " or ".join(dict.fromkeys(kinds))
    return Fact(path, kind, ", ".join(defaults), " ".join(meanings), str(example), CONFIG, None)


def fact_named(name: str) -> Fact | None:
    """The field of one value in a recipe: ``inference.models[0].source``, or ``services.metrics.memory``.

    A value inside a field that has no fields of its own (``sysctl.vm.swappiness``) is described by that field.
    """
    plain = plain_name(name) if len(name) <= _MAX_NAME else ""
    for _ in range(_MAX_INNER):
        for pattern, fact in _patterns():
            if pattern.fullmatch(plain):
                return fact
        plain = plain.rpartition(".")[0]
    return None


def plain_name(name: str) -> str:
    """A field's name without the positions in lists."""
    return re.sub(r"\[\d+\]", "", name)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Fact], ...]:
    """Every field with the paths that it has in recipes: a free key, such as NAME, may be any text."""
    return tuple(
        (re.compile(r"\.".join("(?s:.+)" if part.isupper() else re.escape(part) for part in path.split("."))), fact)
        for path, fact in facts().items()
    )


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Fact]:
    for name, info in model.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        inner = model_in(info.annotation)
        if inner is Device:
            inner = None
        extra: dict[str, Any] = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        example = (info.examples or [""])[0]
        fact = Fact(
            path=path,
            kind=_kind(info),
            default=_default(info),
            meaning=info.description or "",
            example=str(example).lower() if isinstance(example, bool) else str(example or ""),
            moves=tuple(extra.get("x-moves", ())),
            model=inner,
        )
        yield fact
        if inner is None:
            continue
        keys: list[str] = extra.get("propertyNames", {}).get("enum", [])
        for key in keys:
            meaning = f"{(inner.__doc__ or '').strip()} This is for `{key}`."
            yield replace(fact, path=f"{path}.{key}", default="none", meaning=meaning)
            yield from _walk(inner, f"{path}.{key}.")
        if not keys:
            free = f"{extra['x-key']}." if "x-key" in extra else ""
            yield from _walk(inner, f"{path}.{free}")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "none, required"
    return "none" if info.default is None or info.default_factory is not None else str(info.default)


def _kind(info: FieldInfo) -> str:
    # The written type may differ from the stored one: a size is text in the file and bytes in the model.
    written = [entry.json_schema for entry in info.metadata if isinstance(entry, WithJsonSchema)]
    if written and written[0] and written[0]["type"] == "string":
        return "text"
    return _named(info.annotation)


def _named(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(str(argument) for argument in arguments)
    if origin in (typing.Annotated, types.UnionType, typing.Union):
        return _named(arguments[0])  # of `X | None` the X is what is written
    if origin is dict and arguments[1] is int:
        return "whole numbers by name"
    if origin is list:
        return f"a list of {_named(arguments[0])}"
    if annotation is Device:
        return "KIND: COUNT"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "fields"
    names: dict[Any, str] = {str: "text", int: "a whole number", bool: "true or false"}
    return names[annotation]
