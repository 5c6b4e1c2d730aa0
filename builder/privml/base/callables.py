"""Rooms of the package whose name is also a call of the library: ``privml.verify`` and ``privml.measure``.

A package cannot hold a function and a subpackage of one name, because importing anything from the subpackage replaces
the function. So the subpackage itself can be called; what it calls is imported at the first call.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_IMPLEMENTATION = "__call_in__"


class CallableRoom(ModuleType):
    """A package that can be called: the call goes to the function of the same name in another module."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Import the function and call it."""
        module = importlib.import_module(getattr(self, _IMPLEMENTATION))
        return getattr(module, self.__name__.rpartition(".")[2])(*args, **options)


def make_callable(package: str, module: str) -> None:
    """Let the imported ``package`` be called; the function of its name is in ``module``."""
    room = sys.modules[package]
    setattr(room, _IMPLEMENTATION, module)
    room.__class__ = CallableRoom
