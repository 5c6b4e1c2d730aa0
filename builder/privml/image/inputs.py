"""What each step of an image is made from, by name, and what of it changed: why a step is made again, or is not.

A step's inputs are a mapping from names for a person (``package systemd``, ``agent file privml/agent/boot.py``) to
values: a SHA-256, a word, or a word with a SHA-256. They are recorded beside the image for the next build.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.errors import EvidenceError
from privml.base.files import sha256_file
from privml.events import configuration
from privml.lock.models import Lock, Package, Tree, Wheel, serialise
from privml.recipe.loader import Recipe
from privml.recipe.models import pattern_of

FILE = ".inputs.json"
FORMAT = "privml-inputs/v1"
MODEL, BASE, ROOT, UKI, FIRMWARE = "model.raw", "base tree", "root.raw", "uki.efi", "firmware.fd"
MANIFEST = "manifest.json"
# In the order of making.
STEPS = (MODEL, BASE, ROOT, UKI, FIRMWARE, MANIFEST)

Inputs = dict[str, str]
_SHOWN = 60
_DIGEST = re.compile(r"\A[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Record:
    """The inputs of every step of an image when it was made, and what a later one needs that takes parts of it over.

    ``model_file`` is the model's name in its volume (empty: there is no model, and that step has no inputs),
    ``licences`` are those of the root's packages.
    """

    model_file: str
    steps: Mapping[str, Inputs]
    licences: Mapping[str, list[str]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The file's bytes."""
        return strictjson.pretty(
            {
                "format": FORMAT,
                "model_file": self.model_file,
                "licences": dict(self.licences),
                "steps": dict(self.steps),
            }
        )


def decode(data: bytes) -> Record:
    """The inverse of ``Record.encode``; ``EvidenceError`` for anything else."""
    top = strictjson.Fields(strictjson.loads(data, what=FILE), "inputs")
    top.text("format", one_of=(FORMAT,))
    model_file = top.text("model_file")
    steps = top.fields("steps")
    found = {}
    for step in STEPS:
        found[step] = steps.fields(step).rest()
        if wrong := [name for name, value in found[step].items() if not isinstance(value, str)]:
            raise EvidenceError(f"inputs.steps.{step}.{wrong[0]}: expected a string")
    steps.end()
    licences = top.fields("licences").rest()
    for name, value in licences.items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise EvidenceError(f"inputs.licences.{name}: expected strings")
    top.end()
    return Record(model_file, found, licences)


def record(recipe: Recipe, lock: Lock, config: configuration.Config, *, refreshed: bool) -> Record:
    """The inputs of all steps; ``config`` is the measured configuration, which holds the model's root hash."""
    common = _common(lock)
    content = recipe.content
    templates = _tree("template", lock.guest, "mkosi/")
    base = {
        **common,
        "recipe base.distribution": content.base.distribution,
        "recipe base.release": content.base.release,
        **_packages("package", lock.packages),
        # What becomes of the tree after the packages is in finalize.
        **{name: value for name, value in templates.items() if not name.endswith("finalize.py")},
    }
    root = {
        BASE: _digest(base),
        **({MODEL: config.inference.model_verity.root_hash.hex()} if config.inference else {}),
        **templates,
        **_tree("guest file", lock.guest, "guest/", "initrd/"),
        **_tree("agent file", lock.agent, ""),
        **_flat(strictjson.loads(configuration.encode(config)), "configuration "),
    }
    firmware = {
        **common,
        **{f"recipe firmware.{tee}.package": one.package for tee, one in content.firmware.items()},
        **_packages("firmware", lock.firmware),
    }
    steps = {
        MODEL: model(recipe, lock),
        BASE: base,
        ROOT: root,
        # Kernel and initrd come out of mkosi beside the root, so what makes the root makes them too.
        UKI: {**common, ROOT: _digest(root)},
        FIRMWARE: firmware,
    }
    steps[MANIFEST] = {
        "recipe": recipe.digest,
        "lock": hashlib.sha256(serialise(lock)).hexdigest(),
        "refreshed": str(refreshed).lower(),
        **{step: _digest(inputs) for step, inputs in steps.items()},
    }
    return Record(config.inference.model_file if config.inference else "", steps)


def model(recipe: Recipe, lock: Lock) -> Inputs:
    """The inputs of the model's volume, which is made first: its root hash is one of what follows. None: no model."""
    if recipe.content.inference is None:
        return {}
    (chosen,) = recipe.content.inference.models
    return {
        **_common(lock),
        "recipe inference.models[0].file": pattern_of(recipe.content.inference, chosen),
        "recipe inference.models[0].name": chosen.name,
        **_packages("wheel", lock.wheels),
    }


def changes(before: Inputs, now: Inputs) -> tuple[str, ...]:
    """What is new, gone or other in ``now``, a phrase each; none when nothing is."""
    told = []
    for name in (*now, *(name for name in before if name not in now)):
        was, is_now = before.get(name), now.get(name)
        if was is None:
            told.append(f"{name} is new")
        elif is_now is None:
            told.append(f"{name} is gone")
        elif was != is_now:
            old, new = was.split(" ")[0], is_now.split(" ")[0]
            shown = old != new and not _DIGEST.match(old)
            told.append(f"{name} {old} -> {new}" if shown else f"{name} changed")
    return tuple(told)


def key(record: Record, step: str) -> str:
    """A digest over all inputs of a step: a name for what is made from them."""
    return _digest(record.steps[step])


def _common(lock: Lock) -> Inputs:
    folder = Path(__file__).parent
    modules = {f"module image/{path.name}": sha256_file(path) for path in sorted(folder.glob("*.py"))}
    return {"source date epoch": str(lock.source_date_epoch), "tools tree": lock.tools_sha256, **modules}


def _packages(kind: str, packages: Iterable[Package | Wheel]) -> Inputs:
    return {f"{kind} {package.name}": f"{package.version} {package.sha256}" for package in packages}


def _tree(kind: str, tree: Tree, *folders: str) -> Inputs:
    return {
        f"{kind} {file.path}": f"{file.kind} {file.sha256}"
        for folder in folders
        for file in tree.files
        if file.path.startswith(folder)
    }


def _flat(value: Mapping[str, Any], prefix: str) -> Inputs:
    """The leaves of nested objects by their paths; a list is a leaf."""
    found: Inputs = {}
    for name, item in value.items():
        if isinstance(item, dict):
            found |= _flat(item, f"{prefix}{name}.")
        else:
            text = item if isinstance(item, str) else strictjson.canonical(item).decode()
            found[f"{prefix}{name}"] = text if " " not in text and len(text) <= _SHOWN else _sha256(text.encode())
    return found


def _digest(inputs: Inputs) -> str:
    return _sha256(strictjson.canonical(inputs))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
