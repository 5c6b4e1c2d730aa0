"""The files shipped with privml-build: mkosi templates, the guest's own files, the agent's modules.

In a checkout they are under ``images/``; in an installed wheel they are package data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import privml
from privml.engines.registry import engine_named
from privml.image import network, services
from privml.image.render import AGENT_ROOT, File
from privml.lock.trees import images_folder, overlays
from privml.recipe import ownfiles
from privml.recipe.loader import Recipe

ENGINE_UNIT = "etc/systemd/system/privml-engine.service.d/record.conf"
"""What an engine's record adds to its unit."""


def templates() -> dict[str, bytes]:
    """The files of ``images/mkosi``."""
    folder = images_folder() / "mkosi"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def read_tree(root: Path) -> dict[str, File]:
    """Every file and link under ``root`` (relative path -> file)."""
    files: dict[str, File] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            files[name] = File(link=str(path.readlink()))
        elif path.is_file():
            files[name] = File(path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))
    return files


def overlay(recipe: Recipe, agent_files: Iterable[str], *, config: bytes) -> dict[str, File]:
    """The guest's own files: units, the agent's module closure, the initrd's init, the measured configuration."""
    root = images_folder()
    files: dict[str, File] = {}
    for folder in overlays(recipe.content):
        files |= read_tree(root / folder)
    files |= services.overlay(recipe.content.services, data=bool(recipe.content.data))
    files |= _engine(recipe)
    cards, gone = network.overlay(recipe.content.cards)
    files = {path: file for path, file in files.items() if path not in gone} | cards
    package = Path(privml.__file__).resolve().parent.parent
    for name in agent_files:
        files[f"{AGENT_ROOT}/{name}"] = File((package / name).read_bytes())
    files[f"{AGENT_ROOT}/initrd-init"] = File((root / "initrd/init").read_bytes(), executable=True)
    files["etc/privml/config.json"] = File(config)
    return files


def _engine(recipe: Recipe) -> dict[str, File]:
    """What the unit of the recipe's engine has beyond that of every engine."""
    inference = recipe.content.inference
    families = () if inference is None else engine_named(inference.engine.name).families
    more = [family for family in families if family != "AF_UNIX"]
    text = f"[Service]\nRestrictAddressFamilies={' '.join(more)}\n"
    return {ENGINE_UNIT: File(text.encode())} if more else {}


def own_files(recipe: Recipe) -> dict[str, File]:
    """What the recipe adds to the root."""
    return {
        path: File(link=os.fsdecode(file.data)) if file.link else File(file.data, executable=bool(file.mode & 0o100))
        for path, file in ownfiles.read(recipe)[0].items()
    }
