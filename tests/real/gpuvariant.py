"""A development image of a recipe with GPUs: the GPUs are simulated, everything else is the recipe's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.real.conftest import ROOT, privml, succeeded


def development(name: str, folder: Path, **fields: Any) -> Path:
    """The recipe in ``folder`` with its lock; ``fields`` replace the recipe's own."""
    recipes = folder / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    changed = {
        "extends": f"./{name}.yaml",
        "description": "For a test.",
        "variant": "development",
        "firmware": {"tdx": {"package": "ovmf-generic"}},
        "platforms": ["qemu-11-q35-tpm"],
        **fields,
    }
    recipe = recipes / "gpu-dev.yaml"
    recipe.write_text(json.dumps(changed))
    shutil.copyfile(recipes / f"{name}.lock.json", recipes / "gpu-dev.lock.json")
    succeeded(privml("lock", str(recipe), "--allow-expired"))
    return recipe
