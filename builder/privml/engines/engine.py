"""The record of an inference engine: everything that the rest of privml-build needs to know about it.

Recipe, renderer and agent read these records and contain no engine names themselves, so adding an engine means adding
a record. The records are part of the guest, so they use only the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from privml.base.errors import RecipeError
from privml.engines.requests import Requests
from privml.engines.trial import Trial

DIRECTORY = "/run/privml-engine"
"""The engine user's directory in the guest, a tmpfs for home, caches and the socket."""
USER = "privml-engine"
"""The user that the engine runs as."""
WHEELS = "/usr/lib/python-wheels"
"""Where Python wheels are in the guest. Only services and engines from wheels have it on their search path."""
DRIVER_LIBRARIES = "/usr/lib/nvidia"
"""The libraries of the GPU driver. They are not in the loader's path: who needs them says so."""
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "HOME": DIRECTORY,
    "XDG_CACHE_HOME": DIRECTORY,
    "TMPDIR": DIRECTORY,
}
"""Environment of every engine process; nothing else is inherited from its parent."""


@dataclass(frozen=True)
class ServedModel:
    """A model for the engine: the name in requests, and its file in the directory of its volume.

    A model of several files is its directory, and ``file`` the one that describes the others. ``template`` is the
    file with the chat template that replaces the model's own, if there is one.
    """

    name: str
    file: str
    directory: str
    template: str | None = None

    @property
    def path(self) -> str:
        """The absolute path of the file."""
        return f"{self.directory}/{self.file}"

    @property
    def template_path(self) -> str | None:
        """The absolute path of the chat template; None to take the model's own."""
        return None if self.template is None else f"{self.directory}/{self.template}"


@dataclass(frozen=True)
class NumberOption:
    """A whole number that a recipe may set for an engine. Without a default the engine decides."""

    meaning: str
    low: int
    high: int
    default: int | None = None

    @property
    def expected(self) -> str:
        """The accepted values."""
        return f"{self.low} to {self.high}"

    def accepts(self, value: object) -> bool:
        """Whether a recipe may give ``value``."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class ChoiceOption:
    """One of some words that a recipe may choose for an engine. Without a default the engine decides."""

    meaning: str
    values: tuple[str, ...]
    default: str | None = None

    @property
    def expected(self) -> str:
        """The accepted values."""
        return " or ".join(self.values)

    def accepts(self, value: object) -> bool:
        """Whether a recipe may give ``value``."""
        return value in self.values


Option = NumberOption | ChoiceOption
Value = int | str


@dataclass(frozen=True)
class Health:
    """The request that checks whether the engine has loaded its models, and the status that means ready."""

    path: str
    status: int = 200


@dataclass(frozen=True)
class Versions:
    """The versions from ``first`` up to, not including, ``before``."""

    first: tuple[int, ...]
    before: tuple[int, ...]

    @property
    def expected(self) -> str:
        """The accepted versions."""
        return f"{'.'.join(map(str, self.first))} or later, before {'.'.join(map(str, self.before))}"

    def accept(self, version: str) -> bool:
        """Whether ``version`` is one of them."""
        return self.first <= numbers(version) < self.before


def numbers(version: str) -> tuple[int, ...]:
    """The release numbers at the beginning of a version: 0.19.1 of ``0.19.1rc2+cu128``."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


@dataclass(frozen=True)
class Wheels:
    """The Python wheels with an engine's code: the requirement that a recipe pins, and the known versions."""

    requirement: str
    versions: Versions


Arguments = Callable[[Sequence[ServedModel], Mapping[str, Value], str], tuple[str, ...]]
"""Models, options and the engine's version to its argv. Options without a default are there only if the recipe sets
them."""


@dataclass(frozen=True)
class Engine:
    """An inference engine.

    ``packages`` are the packages to ask the archive for. The code of an engine with ``wheels`` comes from those,
    which the recipe's ``python`` names; its environment has them on the search path. ``programs`` stay in
    ``/usr/bin``, ``paths`` are patterns of further paths that may be in the root (as in `recipe.guestroot`),
    ``removals`` are patterns that finalize deletes.
    ``model_file`` matches the names of files in ``model_format``, for recipes that name no file of their own.
    With ``model_entry`` a model is a directory: the engine gets it as a whole, and this file must be in it.
    ``requests`` says which HTTP paths a caller may use, the fields and their bounds, and which fields are always set.
    ``families`` are the address families of its sockets; its network has a loopback of its own and nothing else.
    ``takes_template`` is true if a recipe may replace the model's chat template; ``needs_gpus`` if nothing works
    without a GPU.
    """

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    paths: tuple[str, ...]
    removals: tuple[str, ...]
    model_format: str
    model_file: str
    max_models: int
    options: Mapping[str, Option]
    arguments: Arguments
    environment: Mapping[str, str]
    health: Health
    trial: Trial
    requests: Requests
    takes_template: bool = False
    needs_gpus: bool = False
    families: tuple[str, ...] = ("AF_UNIX",)
    wheels: Wheels | None = None
    model_entry: str | None = None
    socket: str = f"{DIRECTORY}/engine.sock"

    def argv(
        self, models: Sequence[ServedModel], options: Mapping[str, Value] | None = None, *, version: str = ""
    ) -> tuple[str, ...]:
        """The command line for ``models``; ``RecipeError`` for unsupported models, options, or version.

        Only an engine from wheels has arguments that depend on its ``version``.
        """
        if not 1 <= len(models) <= self.max_models:
            raise RecipeError(f"engine `{self.name}`: got {len(models)} models, expected 1 to {self.max_models}")
        self.check_version(version)
        chosen = dict(options or {})
        self.check_options(chosen)
        defaults = {name: option.default for name, option in self.options.items() if option.default is not None}
        return self.arguments(models, defaults | chosen, version)

    def check_version(self, version: str) -> None:
        """Raise ``RecipeError`` for a version of the wheel that the record does not know."""
        if self.wheels is not None and not self.wheels.versions.accept(version):
            raise RecipeError(
                f"engine `{self.name}`: version {version[:40] or 'none'}, expected {self.wheels.versions.expected}"
            )

    def check_options(self, options: Mapping[str, Value]) -> None:
        """Raise ``RecipeError`` for an unknown option or a value that it does not accept."""
        for name, value in options.items():
            option = self.options.get(name)
            if option is None:
                known = ", ".join(self.options) or "none"
                raise RecipeError(f"engine `{self.name}` has no option `{name}`: expected one of {known}")
            if not option.accepts(value):
                raise RecipeError(
                    f"engine `{self.name}`: option `{name}` is {str(value)[:80]}, expected {option.expected}"
                )

    @property
    def socket_name(self) -> str:
        """The socket's name in the engine's directory."""
        return PurePosixPath(self.socket).name
