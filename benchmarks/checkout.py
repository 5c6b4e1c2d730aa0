"""A copy of this checkout with a store of its own, so that a benchmark may change the agent's sources."""

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
    """The copy; its store has all input bytes, but no unpacked tools and nothing that was derived from them."""

    root: Path

    @classmethod
    def of(cls, root: Path, store: Path) -> Checkout:
        """Copy the sources to ``root``, which is on the store's filesystem: input bytes are linked, not copied."""
        for name in ("builder", "images", "recipes"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        shutil.copytree(store / "objects", root / "store/objects", copy_function=os.link)
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
        """Change one module of the agent, and nothing else."""
        with (self.root / "builder/privml/agent/batch.py").open("a", encoding="utf-8") as file:
            file.write(text)
