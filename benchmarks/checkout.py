"""A copy of this checkout, like a fresh clone, whose agent may be changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Checkout:
    """The copy. A new store is filled by its first build, from the host's mirrors."""

    root: Path
    store: Path

    @classmethod
    def of(cls, root: Path, store: Path | None = None) -> Checkout:
        """Copy the sources to the directory ``root``; its store is ``store``, or a new one."""
        for name in ("builder", "images", "recipes"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        return cls(root, store or root / "store")

    def privml(self, *words: str) -> None:
        """Run this copy's `privml-build`."""
        subprocess.run(
            [sys.executable, "-c", "from privml.cli.main import main; main()", *words],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "builder"), "PRIVML_STORE": str(self.store)},
            check=True,
            capture_output=True,
        )

    def change_agent(self, text: str) -> None:
        """Change one module of the agent."""
        with (self.root / "builder/privml/agent/batch.py").open("a", encoding="utf-8") as file:
            file.write(text)
