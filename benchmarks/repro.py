"""The time of a complete `repro` of the smallest recipe: two cold legs and the comparison."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from privml.recipe.loader import shipped

NAME = "tdx-min"
Figure = Callable[[str, list[float], float, str], None]


def run(figure: Figure) -> None:
    """Print the line, or nothing if the recipe or its lock is missing."""
    if not (shipped() / f"{NAME}.lock.json").is_file():
        return
    start = time.perf_counter()
    subprocess.run(
        [str(Path(sys.executable).with_name("privml-build")), "repro", NAME], check=True, capture_output=True
    )
    figure(f"repro-{NAME}", [(time.perf_counter() - start) / 60], 12, "min")
