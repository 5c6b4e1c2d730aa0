"""A tools tree whose sandbox stands in for QEMU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from privml.image.tools import ToolsTree


@contextmanager
def tools_with(sandbox: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToolsTree]:
    """The tree below ``place`` with the code of its sandbox; runs must leave nothing in the temporary folder."""
    program = place / "tools/usr/lib/python3/dist-packages/mkosi/sandbox.py"
    program.parent.mkdir(parents=True)
    program.write_text(sandbox)
    (place / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place / "temp"))
    yield ToolsTree(place / "tools", "f" * 64)
    assert list((place / "temp").iterdir()) == []
