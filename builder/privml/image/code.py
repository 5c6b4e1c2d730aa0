"""Digest the modules that determine the output of a build step, ignoring comments.

The digest is over the syntax tree without docstrings: a changed comment rebuilds nothing, a changed statement
rebuilds the steps that depend on the module.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digests(patterns: Iterable[str]) -> dict[str, str]:
    """``module image/volume.py`` -> digest, for all files matching the patterns; each pattern must match a file."""
    found: dict[str, str] = {}
    for pattern in patterns:
        paths = sorted(_PACKAGE.glob(pattern))
        if not paths:
            raise ValueError(f"no module matches `{pattern}`")
        found |= {f"module {path.relative_to(_PACKAGE).as_posix()}": _of_file(path) for path in paths}
    return found


def digest(source: bytes) -> str:
    """Hex SHA-256 of the syntax tree of ``source``, without docstrings, comments and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(_dumped(tree).encode()).hexdigest()


def _dumped(value: object) -> str:
    """``ast.dump`` as in Python 3.11. Later versions leave out empty lists, and have a field for type parameters."""
    if isinstance(value, list):
        return f"[{', '.join(map(_dumped, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = []
    for name in value._fields:
        found = getattr(value, name, None)
        if (found is None and getattr(type(value), name, ...) is None) or (name == "type_params" and not found):
            continue
        fields.append(f"{name}={_dumped(found)}")
    return f"{type(value).__name__}({', '.join(fields)})"


@cache
def _of_file(path: Path) -> str:
    return digest(path.read_bytes())
