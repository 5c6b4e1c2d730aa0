"""The named inputs of each build step, and which of them changed: the reasons for a rebuild.

A step's inputs map readable names (``package systemd``, ``agent file privml/agent/boot.py``) to values: a SHA-256, a
word, or a word with a SHA-256. They are recorded next to the image for the next build.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from privml.base import strictjson
from privml.base.errors import EvidenceError
from privml.events import boots, configuration, volumes
from privml.events.crypt import Crypt
from privml.events.volumes import Slot
from privml.image import code, driver
from privml.lock.models import Lock, Package, Runfile, Tree
from privml.lock.trees import TRITON_FOLDER
from privml.output import manifest as manifests
from privml.output import prediction as predictions
from privml.output.artefacts import DISK, FIRMWARE, ROOT, UKI
from privml.recipe import compression
from privml.recipe.loader import Recipe

FILE = ".inputs.json"
FORMAT = "privml-inputs/v2"
BASE = "base tree"
MANIFEST = manifests.FILE
PREDICTION = predictions.PREDICTION_FILE
# Besides the volumes of models and data, the firmware of each TEE, and the disk of an image that boots from it.
STEPS = (BASE, ROOT, UKI, MANIFEST, PREDICTION)

Inputs = dict[str, str]
_SHOWN = 60
_DIGEST = re.compile(r"\A[0-9a-f]{64}\Z")
# Modules whose code determines the output of a step. Packages and files that they only copy are inputs of their own.
_VOLUME_CODE = ("image/filling.py", "image/volume.py", "measure/gpt.py", "measure/verity.py")
_FILLING_CODE = {volumes.MODEL: ("image/modelvolume.py",), volumes.DATA: ("image/datavolume.py",)}
_CRYPT_CODE = ("image/encryption.py",)
_BASE_CODE = ("image/render.py", "image/root.py")
_ROOT_CODE = (
    *_BASE_CODE,
    "recipe/compression.py",
    "recipe/guestroot.py",
    "recipe/removals.py",
    "image/resources.py",
    "image/services.py",
    "image/network.py",
    "image/volume.py",
    "image/config.py",
)
_DRIVER_CODE = ("image/driverfiles.py", "recipe/drivers.py")
_DRIVER_CODE_OF_RUNFILE = ("image/driverrunfile.py", "lock/runfile.py", "lock/vendortar.py")
_DRIVER_CODE_OF_FABRIC = ("lock/vendorarchive.py", "lock/vendortar.py")
_WHEEL_CODE = ("image/pythonwheels.py", "lock/wheelfile.py", "recipe/python.py")
_COMPILED_CODE = (
    "image/compiledwheels.py",
    "image/triton.py",
    "image/unpack.py",
    "lock/deb.py",
    "recipe/compiled.py",
)
_UKI_CODE = ("image/uki.py", "measure/cpio.py")
_FIRMWARE_CODE = ("image/firmware.py", "lock/deb.py")
_BOUND_CODE = ("measure/snp/bound.py", "measure/snp/bootmodules.py", "measure/firmwarevolume.py")
_DISK_CODE = ("image/disk.py", "image/partitions.py", "events/gpt.py", "measure/gpt.py", "measure/fat.py")


@dataclass(frozen=True)
class StepInputs:
    """The inputs of every step of a built image, and what a later build needs in order to reuse parts of it.

    ``model_files`` are the file names of the models in their volumes; ``licences`` are of the root's packages.
    ``recipe`` is the recipe's effective content and files (``Recipe.effective``), which `diff` compares; empty in a
    record from before it was kept.
    """

    model_files: tuple[str, ...]
    steps: Mapping[str, Inputs]
    licences: Mapping[str, list[str]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The content of the file."""
        return strictjson.canonical(
            {
                "format": FORMAT,
                "model_files": list(self.model_files),
                "licences": dict(self.licences),
                "steps": dict(self.steps),
                **({"recipe": dict(self.recipe)} if self.recipe else {}),
            }
        )


def decode(data: bytes) -> StepInputs:
    """The inverse of ``StepInputs.encode``; ``EvidenceError`` for malformed or non-canonical input."""
    top = strictjson.Fields(strictjson.loads(data, what=FILE), "inputs")
    top.text("format", one_of=(FORMAT,))
    model_files = top.array("model_files")
    if not all(isinstance(name, str) for name in model_files):
        raise EvidenceError("inputs.model_files: expected strings")
    steps = top.fields("steps")
    found = {}
    of_data = [slot.file for slot in volumes.slots(0, volumes.DATA.most)]
    late = [name for name in (*of_data, *FIRMWARE.values(), DISK) if steps.has(name)]
    for step in (*map(volumes.MODEL.file, range(len(model_files))), *STEPS, *late):
        found[step] = steps.fields(step).rest()
        if wrong := [name for name, value in found[step].items() if not isinstance(value, str)]:
            raise EvidenceError(f"inputs.steps.{step}.{wrong[0]}: expected a string")
    steps.end()
    licences = top.fields("licences").rest()
    for name, value in licences.items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise EvidenceError(f"inputs.licences.{name}: expected strings")
    recipe = top.fields("recipe").rest() if top.has("recipe") else {}
    top.end()
    inputs = StepInputs(tuple(model_files), found, licences, recipe)
    if inputs.encode() != data:
        raise EvidenceError("inputs: not canonical JSON (RFC 8785)")
    return inputs


def inputs_of(
    recipe: Recipe, lock: Lock, config: configuration.Config, *, refreshed: bool, prediction: Inputs
) -> StepInputs:
    """The inputs of all steps; ``config`` is the measured configuration, which holds the volumes' root hashes.

    ``prediction`` names what a prediction depends on besides the image: platforms and the predicting code.
    """
    content = recipe.content
    templates = _tree("template", lock.guest, "mkosi/")
    base = {
        **_common(lock, _BASE_CODE),
        "recipe base.distribution": content.base.distribution,
        "recipe base.release": content.base.release,
        **_packages("package", [each for each in lock.packages if each not in lock.outside]),
        # They are installed in another way.
        **_packages("package from outside the base", lock.outside),
        # More of Python's standard library stays.
        **({"recipe python": "given"} if content.python is not None else {}),
        # finalize processes the tree after the packages are installed, and imports.py is a part of it.
        **{name: value for name, value in templates.items() if not name.endswith(("finalize.py", "imports.py"))},
    }
    root = {
        BASE: _digest(base),
        **code.digests(_ROOT_CODE),
        **{slot.file: entry.verity.root_hash.hex() for slot, entry in config.volumes},
        **templates,
        **_tree("guest file", lock.guest, "guest/", "initrd/"),
        **_tree("agent file", lock.agent, ""),
        **(_tree("recipe file", lock.files, "") if lock.files else {}),
        **{f"recipe program {name}": "kept" for name in lock.programs},
        **{f"recipe package {name}": "named" for name in content.named_packages},
        **{f"recipe package {name}": "named" for name, _ in content.archive_packages},
        **_driver(lock),
        **_wheels(recipe, lock),
        **_compression(recipe),
        **({"kernel modules": _digest({"": " ".join(content.kernel.modules)})} if content.kernel.modules else {}),
        **_flat(strictjson.loads(configuration.encode(config)), "configuration "),
    }
    filled = {slot.file: volume(lock, slot, entry.crypt) for slot, entry in config.volumes}
    steps = {
        **filled,
        BASE: base,
        ROOT: root,
        # Kernel and initrd come from the same mkosi run as the root, so they have the same inputs.
        UKI: {
            **_common(lock, _UKI_CODE),
            ROOT: _digest(root),
            **{f"kernel option {word}": "given" for word in lock.kernel_options},
        },
        **{FIRMWARE[tee]: _firmware(lock, tee, one.package) for tee, one in content.firmware.items()},
    }
    if content.boot == boots.DISK:
        parts = {step: _digest(steps[step]) for step in (UKI, *filled)}
        steps[DISK] = {**_common(lock, _DISK_CODE), "recipe name": recipe.name, **parts}
    steps[MANIFEST] = {
        "recipe": recipe.digest,
        "lock": lock.digest,
        "refreshed": str(refreshed).lower(),
        **{step: _digest(inputs) for step, inputs in steps.items()},
    }
    steps[PREDICTION] = {MANIFEST: _digest(steps[MANIFEST]), "tools tree": lock.tools_sha256, **prediction}
    return StepInputs(tuple(model.file for model in config.models), steps, recipe=recipe.effective)


def volume(lock: Lock, slot: Slot, crypt: Crypt | None) -> Inputs:
    """The inputs of a volume of a model or data. It is built first: its root hash is an input of later steps.

    Of the key it has the check value, which is public.
    """
    kind = slot.kind
    chosen = lock.volume_in(slot)
    code_of = (*_FILLING_CODE[kind], *_VOLUME_CODE, *(() if crypt is None else _CRYPT_CODE))
    key = {} if crypt is None else {"volume key": f"{crypt.resource}/{crypt.generation} {crypt.check.hex()}"}
    return {
        **_common(lock, code_of),
        f"{kind.name} name": chosen.name,
        **key,
        **{f"{kind.name} file {file.path}": file.sha256 for file in chosen.files},
        **({"chat template": chosen.chat_template.sha256} if chosen.chat_template else {}),
    }


def _firmware(lock: Lock, tee: str, package: str) -> Inputs:
    record = lock.base.record.distribution.firmware_named(package, tee)
    bound = record is not None and record.bound
    return {
        **_common(lock, (*_FIRMWARE_CODE, *(_BOUND_CODE if bound else ()))),
        f"recipe firmware.{tee}.package": package,
        **_packages("firmware", lock.firmware[tee].packages),
    }


def changes(before: Inputs, now: Inputs) -> tuple[str, ...]:
    """One phrase for each input that was added, removed or changed in ``now``."""
    phrases = []
    for name in (*now, *(name for name in before if name not in now)):
        was, is_now = before.get(name), now.get(name)
        if was is None:
            phrases.append(f"{name} is new")
        elif is_now is None:
            phrases.append(f"{name} was removed")
        elif was != is_now:
            old, new = was.split(" ")[0], is_now.split(" ")[0]
            shown = old != new and not _DIGEST.match(old)
            phrases.append(f"{name} {old} -> {new}" if shown else f"{name} changed")
    return tuple(phrases)


def key(record: StepInputs, step: str) -> str:
    """A digest over all inputs of a step, which names its output in the cache."""
    return _digest(record.steps[step])


def _common(lock: Lock, modules: Iterable[str]) -> Inputs:
    return {
        "source date epoch": str(lock.source_date_epoch),
        "tools tree": lock.tools_sha256,
        **code.digests(modules),
    }


def _driver(lock: Lock) -> Inputs:
    if lock.driver is None:
        return {}
    built = driver.key(lock.driver)
    parts = _packages("driver package", lock.driver.parts)
    # The runfile, whose files are copied too, is among the inputs of the modules.
    more = (
        *(_DRIVER_CODE_OF_RUNFILE if isinstance(lock.driver.source, Runfile) else ()),
        *(_DRIVER_CODE_OF_FABRIC if lock.driver.fabric else ()),
    )
    parts |= {f"driver archive {each.name}": f"{each.version} {each.sha256}" for each in lock.driver.fabric}
    return {"driver": f"{lock.driver.version} {built}", **parts, **code.digests((*_DRIVER_CODE, *more))}


def _compression(recipe: Recipe) -> Inputs:
    """How the root is compressed, if not as it is by default."""
    chosen = recipe.content.compression
    return {} if chosen == compression.DEFAULT else {"recipe root.compression": chosen}


def _wheels(recipe: Recipe, lock: Lock) -> Inputs:
    """The Python wheels, and what of them stays; ``finalize`` imports modules, so these are inputs too."""
    python = recipe.content.python
    if python is None:
        return {}
    wheels = {f"Python wheel {wheel.name}": f"{wheel.version} {wheel.sha256}" for wheel in lock.imported}
    words = {"remove": python.remove, "programs": python.programs, "imports": python.imports}
    fields = {f"recipe python.{name}": _digest({"": "\n".join(value)}) for name, value in words.items() if value}
    return {**wheels, **fields, **code.digests(_WHEEL_CODE), **_compiled(lock)}


def _compiled(lock: Lock) -> Inputs:
    """What compiles modules for the wheels; the sources are files of a wheel, or of ours."""
    if lock.compiled is None:
        return {}
    packages = _packages("compiler package", lock.compiled.toolchain)
    return {**packages, **_tree("compiled file", lock.guest, f"{TRITON_FOLDER}/"), **code.digests(_COMPILED_CODE)}


def _packages(kind: str, packages: Iterable[Package]) -> Inputs:
    return {f"{kind} {package.name}": f"{package.version} {package.sha256}" for package in packages}


def _tree(kind: str, tree: Tree, *folders: str) -> Inputs:
    return {
        f"{kind} {file.path}": f"{file.kind} {file.sha256}"
        for folder in folders
        for file in tree.files
        if file.path.startswith(folder)
    }


def _flat(value: Mapping[str, Any], prefix: str) -> Inputs:
    """The leaves of nested objects by their paths; a list without objects is a leaf."""
    found: Inputs = {}
    for name, item in value.items():
        if isinstance(item, dict):
            found |= _flat(item, f"{prefix}{name}.")
        elif isinstance(item, list) and item and all(isinstance(one, dict) for one in item):
            for number, one in enumerate(item):
                found |= _flat(one, f"{prefix}{name}[{number}].")
        else:
            text = item if isinstance(item, str) else strictjson.canonical(item).decode()
            found[f"{prefix}{name}"] = text if " " not in text and len(text) <= _SHOWN else _sha256(text.encode())
    return found


def _digest(inputs: Inputs) -> str:
    return _sha256(strictjson.canonical(inputs))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
