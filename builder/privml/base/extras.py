"""The package's extras: what each is for, and the error for a command whose extra is not installed.

The base install verifies, proxies and measures files (ADR 0064). ``pyproject.toml`` has the extras' requirements, and
a test compares them with this table.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from privml.base.errors import HostError


@dataclass(frozen=True)
class Extra:
    """One extra: what it is for, and the modules that its packages bring."""

    name: str
    purpose: str
    modules: tuple[str, ...]

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'privml-build[{self.name}]'"


EXTRAS = (
    Extra("build", "recipes, locks and images", ("jinja2", "packaging", "pydantic", "uv", "yaml")),
    Extra("hsm", "keys in a token", ("pkcs11",)),
    Extra("sigstore", "signatures of accounts and workflows", ("sigstore",)),
)


def load(module: str) -> Any:
    """Import a module that an extra brings; ``HostError`` with the command that installs it if it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error) or error from error


def missing(error: ImportError) -> HostError | None:
    """The error to show if ``error`` is about a module of an extra, None for any other module."""
    module = (error.name or "").partition(".")[0]
    for extra in EXTRAS:
        if module in extra.modules:
            return HostError(f"what {extra.purpose} need is not installed: {extra.install}")
    return None
