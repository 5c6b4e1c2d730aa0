"""A copy of this checkout with its own empty store, like a fresh clone, whose agent may be changed."""

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
    """The copy. Its store is filled by its first build, from the host's mirrors."""

    root: Path

    @classmethod
    def of(cls, root: Path) -> Checkout:
        """Copy the sources to the directory ``root``."""
        for name in ("builder", "images", "recipes"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        return cls(root)

    def privml(self, *words: str) -> None:
        """Run this copy's `privml-build`."""
        subprocess.run(
            [sys.executable, "-c", "from privml.cli.main import main; main()", *words],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "builder"), "PRIVML_STORE": str(self.root / "store")},
            check=True,
            capture_output=True,
        )

    def change_agent(self, text: str) -> None:
        """Change one module of the agent."""
        with (self.root / "builder/privml/agent/batch.py").open("a", encoding="utf-8") as file:
            file.write(text)
