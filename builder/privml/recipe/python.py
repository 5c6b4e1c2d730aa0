"""Fields of a recipe: Python wheels for its services and its engine."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from privml.engines.engine import WHEELS, Wheels, numbers
from privml.engines.registry import engine_named
from privml.recipe import guestroot
from privml.recipe.document import Path
from privml.recipe.finding import RuleBroken
from privml.recipe.section import ROOT, Section, about

if TYPE_CHECKING:
    from privml.recipe.models import Content

DIRECTORY = WHEELS.removeprefix("/")
"""Where the wheels are in the root."""
VARIABLE = "PYTHONPATH"
"""The environment variable by which Python finds them."""


PROBES = ("file", "ldconfig", "uname")
"""Programs that Python's standard library starts to learn about the machine. A guest has none of them."""


def _requirement(value: str) -> str:
    try:
        found = Requirement(value)
    except InvalidRequirement as error:
        said = str(error).splitlines()[0]
        raise RuleBroken("python-requirement", f"got `{value}`, expected such as numpy==2.4.4: {said}") from error
    if found.url is not None or found.marker is not None:
        what = "an address" if found.url is not None else "a marker"
        raise RuleBroken("python-requirement", f"got `{value}` with {what}, expected a name and its versions")
    return value


def _requirements(value: list[str]) -> list[str]:
    names = [name_of(each) for each in value]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RuleBroken("given-twice", f"the requirement {twice[0]} is listed twice")
    return value


def _date(value: str) -> str:
    try:
        datetime.date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"got `{value}`, expected a date such as 2026-04-01") from error
    return value


def _inside(value: str) -> str:
    if value.startswith("/") or not value.isprintable() or {"", ".", ".."} & set(value.split("/")):
        raise ValueError(f"got `{value}`, expected a path below the folder of the wheels")
    return value


def _program(value: str) -> str:
    _inside(value)
    if bad := next((bad for bad in guestroot.FORBIDDEN if fnmatchcase(value.rpartition("/")[2], bad)), None):
        raise RuleBroken("exception-never", f"got `{value}`: programs named like `{bad}` are in no image")
    return value


def name_of(requirement: str) -> str:
    """The normalised name of a requirement."""
    return str(canonicalize_name(Requirement(requirement).name))


_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_Path = Annotated[str, StringConstraints(min_length=1, max_length=400), AfterValidator(_inside)]


def pinned(wheels: Python, name: str) -> str:
    """The one version that the requirement called ``name`` has, by `==`; empty if there is none."""
    for asked in wheels.requirements:
        if name_of(asked) == name:
            exact = [each.version for each in Requirement(asked).specifier if each.operator == "=="]
            return exact[0] if exact and "*" not in exact[0] else ""
    return ""


class Python(Section):
    """Python wheels for the recipe's services and its engine, from the package index of the host's pip."""

    requirements: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_requirement)]],
        AfterValidator(_requirements),
        about(
            "The wheels by name, with versions or ranges; what they require is locked too.",
            "[numpy==2.4.4]",
            ROOT,
            min_length=1,
            max_length=256,
        ),
    ]
    before: Annotated[
        str,
        StringConstraints(pattern=_DATE),
        AfterValidator(_date),
        about(
            "Only files that the index had before this day are chosen. Another day chooses again.", "2026-04-01", ROOT
        ),
        WithJsonSchema({"type": "string", "pattern": _DATE}),
    ]
    remove: Annotated[
        list[_Path],
        about(
            "Files and folders of wheels that are left out, by patterns; `*` does not match a slash.",
            "[numpy/*/tests]",
            ROOT,
            max_length=256,
        ),
    ] = Field(default_factory=list)
    imports: Annotated[
        list[
            Annotated[
                str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$", max_length=200)
            ]
        ],
        about("Modules that the build imports with the guest's Python, without a network.", "[numpy]", max_length=64),
    ] = Field(default_factory=list)
    programs: Annotated[
        list[Annotated[_Path, AfterValidator(_program)]],
        about(
            "Files of wheels that services may execute; no other file of a wheel is executable.",
            "[triton/backends/nvidia/bin/ptxas]",
            ROOT,
            max_length=64,
        ),
    ] = Field(default_factory=list)


def problems(content: Content) -> Iterator[tuple[Path, str, str]]:
    """Fields that do not fit the wheels: path, rule and text."""
    inference = content.inference
    engine = None if inference is None else engine_named(inference.engine.name)
    wheels = None if engine is None else engine.wheels
    if engine is not None and wheels is not None:
        yield from _of_engine(content, engine.name, wheels)
    if content.python is None:
        return
    if not content.services and wheels is None:
        text = "got wheels, but the recipe has no service, and no engine, that could import them"
        yield ("python",), "python-unused", text
    for name, service in content.services.items():
        if VARIABLE in service.environment:
            text = f"got {VARIABLE}, which names the folder of the recipe's wheels"
            yield ("services", name, "environment", VARIABLE), "python-path", text


def _of_engine(content: Content, name: str, wheels: Wheels) -> Iterator[tuple[Path, str, str]]:
    """What an engine from wheels asks of them: one version of its own wheel, which its record knows."""
    wanted = wheels.requirement
    expected = f"expected {wanted}==VERSION, {wheels.versions.expected}"
    asked = [] if content.python is None else [name_of(each) for each in content.python.requirements]
    if content.python is None or wanted not in asked:
        path: Path = ("python", "requirements") if content.python else ("inference", "engine", "name")
        yield path, "engine-wheel", f"got no wheel of the engine `{name}`, {expected} in `python.requirements`"
        return
    index = asked.index(wanted)
    found = content.python.requirements[index]
    exact = pinned(content.python, wanted)
    if not wheels.versions.accept(exact):
        yield ("python", "requirements", index), "engine-wheel", f"got `{found}`, {expected}"
        return
    version = content.inference.engine.version if content.inference else None
    if version is not None and numbers(exact)[: len(numbers(version))] != numbers(version):
        text = f"got `{version}`, but `python.requirements` has {found}"
        yield ("inference", "engine", "version"), "engine-wheel", text


def matches(path: str, pattern: str) -> bool:
    """Whether a path or one of its folders matches a pattern in which `*` never matches a slash."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) >= len(wanted) and all(map(fnmatchcase, parts, wanted))
