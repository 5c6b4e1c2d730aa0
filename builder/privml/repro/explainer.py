"""Which changes of recipe and inputs each difference between two images follows from.

A rule per place names what decides the bytes there, as the build has it: `image/config.py`, `image/resources.py`,
`image/uki.py`, `image/volume.py`. A difference that no rule connects with a change stays unexplained; only those are
looked up in the table of causes that two builds of one recipe have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from privml.events.registers import RTMR3
from privml.events.volumes import DATA, MODEL, Slot, slot_of
from privml.image import driverfiles, madeby, provenance, sbom
from privml.image.disk import LABEL as ESP_LABEL
from privml.image.network import cards_of
from privml.image.pythonwheels import is_of_wheels
from privml.image.render import AGENT_ROOT
from privml.image.resources import ENGINE_UNIT
from privml.image.services import is_of_service
from privml.lock.lockfile import own_tools_lock
from privml.lock.trees import overlay_path
from privml.output.artefacts import DISK, FIRMWARE, ROOT, UKI, is_volume
from privml.recipe.effective import NONE
from privml.recipe.fields import plain_name
from privml.recipe.ownfiles import MODULES, SYSCTLS
from privml.recipe.python import VARIABLE
from privml.repro.change import BY_UKI, FIELD, MAYBE, NAME, Change
from privml.repro.recipechanges import Side
from privml.repro.treecomparison import CONFIG

_INSTALLED = ("base", "kernel", "packages", "inference.engine", "services", "programs", "gpu", "variant")
# Files that tools derive from everything that is installed, and the fields that decide what is.
_DERIVED = {
    re.compile(r"etc/(?:passwd|group|shadow|gshadow)"): (
        "base",
        "packages",
        "inference",
        "services",
        "data",
        "variant",
    ),
    re.compile(r"usr/lib/modules/[^/]+/modules\.[^/]+"): ("base", "kernel", "gpu", "variant"),
    re.compile(r"etc/ld\.so\.cache|usr/lib/locale/.*"): _INSTALLED,
}
_FIELDS_OF = {MODEL: "inference.models", DATA: "data"}
"""The list in a recipe with the volumes of each kind."""
_PACKAGES = ("package", "kernel package", "driver package")
_OVERLAY = "overlay"
# The build sets these itself, so a package hardly changes them.
_METADATA = ("mode", "uid", "gid", "xattrs")
# Fields of findings that no recipe leads to: a document that is wrong about the files next to it, a file that cannot
# be read, a tree in another layout.
_NEVER = ("of side a", "of side b", "reading", "kind", "layout", "number")


class Explainer:
    """Names the causes of differences, from the changes of recipe and inputs (``sources``) between two images.

    ``untold`` are the fields of recipes that the outputs do not tell: they are named as possible causes.
    """

    def __init__(self, sources: Sequence[Change], sides: tuple[Side, Side], untold: Sequence[str] = ()) -> None:
        self._sources = sources
        self._sides = sides
        self._untold = untold
        self._of_kind: dict[str, list[Change]] = {}
        for change in sources:
            self._of_kind.setdefault(change.kind, []).append(change)
        self._agent = {f"{AGENT_ROOT}/{change.name}": change for change in sources if change.kind == "agent file"}
        self._guest = {overlay_path(change.name): change for change in sources if change.kind == "guest file"}
        if (init := self._guest.get("initrd/init")) is not None:
            self._guest[f"{AGENT_ROOT}/initrd-init"] = init
        locks = [side.lock for side in sides if side.lock is not None]
        self._modules = {f"{AGENT_ROOT}/{file.path}" for lock in locks for file in lock.agent.files}
        self._drivers = [lock.driver for lock in locks if lock.driver is not None]
        # Tools and templates can change whatever they make.
        templates = [change.title for path, change in self._guest.items() if path.startswith("mkosi/")]
        self._anything = [f"{MAYBE}{title}" for title in (*self._kinds("tools"), *templates)]
        self._own = {change.name: change for change in sources if change.kind == "recipe file"}
        self._packages = {change.name: change for change in sources if change.kind in _PACKAGES}

    # -- parts of the recipe and the inputs ----------------------------------------------------------------------
    def _fields(self, *names: str) -> list[str]:
        """The changed fields called ``names`` or inside them, and those that cannot be told."""
        found = [change.title for change in self._of_kind.get(FIELD, ()) if _inside(change.name, names)]
        plain = [plain_name(name) for name in names]
        return found + [f"{MAYBE}{path}" for path in self._untold if _inside(path, plain)]

    def _changed(self, *names: str) -> list[str]:
        """The changed fields called ``names`` or inside them."""
        return [name for name in self._fields(*names) if not name.startswith(MAYBE)]

    def _measured(self, titles: Iterable[str]) -> list[str]:
        """Without fields that move no register, such as a model's licence."""
        unmeasured = {change.title for change in self._of_kind.get(FIELD, ()) if not change.moves}
        return [title for title in titles if title not in unmeasured]

    def _kinds(self, *kinds: str) -> list[str]:
        return [change.title for kind in kinds for change in self._of_kind.get(kind, ())]

    def _moving(self, register: str) -> list[str]:
        found = [change.title for change in self._sources if change.certain and register in change.moves]
        if register == RTMR3 and self._on_one_side("python.before"):
            found += self._fields("python")  # the environment of each service has their folder
        return found or ([f"{MAYBE}a field that cannot be told"] if self._untold else [])

    def _root(self) -> list[str]:
        """What decides the bytes of the root: all that moves the UKI's registers, but for the kernel's options."""
        outside = set(self._fields("kernel.options")) | set(self._kinds("kernel option"))
        return [title for title in self._moving(BY_UKI[0]) if title not in outside]

    def _filled(self, slot: Slot) -> list[str]:
        """What decides the bytes of the volume of a model or data."""
        entries = [{each.volume: each for each in side.manifest.filled}.get(slot.file) for side in self._sides]
        names = {each.name for each in entries if each is not None}
        field = _FIELDS_OF[slot.kind]
        kinds = (slot.kind.name, "volume key")
        return [
            *self._measured(self._fields(f"{field}[{slot.number}]" if all(entries) else field.partition(".")[0])),
            *(change.title for kind in kinds for change in self._of_kind.get(kind, ()) if change.name in names),
            *self._kinds("times"),
        ]

    def _firmware(self, tee: str) -> list[str]:
        return [*self._fields(f"firmware.{tee}", "base"), *self._kinds("firmware package")]

    def _seed(self, volume: str) -> list[str]:
        """What decides the UUIDs and the salt of a volume: the name of the recipe, or of the model or data."""
        if volume == ROOT:
            return self._kinds(NAME)
        slot = _slot(volume)
        return self._fields(f"{_FIELDS_OF[slot.kind]}[{slot.number}].name") or self._absent(slot)

    def _absent(self, slot: Slot) -> list[str]:
        both = all(slot.file in side.manifest.volumes for side in self._sides)
        return [] if both else self._filled(slot)

    def _volume(self, volume: str) -> list[str]:
        return self._root() if volume == ROOT else self._filled(_slot(volume))

    # -- differences ---------------------------------------------------------------------------------------------
    def of(self, place: str, field: str, package: str = "unknown") -> tuple[str, ...]:
        """The changes that the difference at ``place`` follows from; none if it is unexplained."""
        file, _, inside = place.partition(":")
        if field in _NEVER or inside.endswith(":superblock"):
            return ()
        if file == "prediction.json" and not inside.startswith("/") and inside:
            found = self._register(inside.rpartition(", ")[2])
        elif file == UKI:
            found = self._uki(inside, field, package)
        elif file == DISK:
            found = self._disk(inside)
        elif is_volume(file):
            found = self._of_volume(file, inside, field, package)
        elif file in FIRMWARE.values():
            found = self._firmware(next(tee for tee, name in FIRMWARE.items() if name == file))
        else:
            found = self._document(file, inside)
        found = found or self._anything
        certain = [name for name in found if not name.startswith(MAYBE)]
        return tuple(dict.fromkeys(certain or found))

    def of_register(self, register: str) -> tuple[str, ...]:
        """The changes that a register's other value follows from."""
        return self.of(f"prediction.json:any machine, {register}", "value")

    def presence(self, name: str, kinds: tuple[str, str]) -> tuple[str, ...]:
        """The changes for which a file is in one output only, if both outputs are complete."""
        for side, kind in zip(self._sides, kinds, strict=True):
            lock = madeby.lock_file(side.directory, side.manifest)
            wanted = name in (*side.manifest.artefacts, lock.name, own_tools_lock(lock).name)
            if wanted != (kind == "file"):
                return ()
        if name.endswith(".lock.json"):
            return tuple(self._kinds(NAME))
        return self.of(name, "bytes")

    def knows_package(self, name: str) -> bool:
        """Whether a changed package is one of the sources."""
        return name in self._packages

    def _register(self, register: str) -> list[str]:
        # A machine that only one of them predicts has no counterpart.
        return self._moving(register) or self._fields("platforms", "shapes", "firmware")

    def _uki(self, inside: str, field: str, package: str) -> list[str]:
        section = inside.partition(":")[0]
        kernel = [*self._fields("kernel.package", "kernel.suite", "base"), *self._kinds("kernel package")]
        if section in (".linux", ".uname"):
            return kernel
        if section == ".osrel":
            return self._kinds(NAME)
        if section == ".cmdline" and inside != section:
            return self._fields("kernel.options") or self._of_driver()
        if section == ".cmdline":
            return [*self._fields("kernel.options"), *self._root()]
        if section == ".initrd" and inside != section:
            return self._member(inside.removeprefix(f"{section}:/"), field, package)
        if section == ".initrd":
            return [*kernel, *self._kinds("package", "times"), *self._init()]
        if section == "":
            return [*self._fields("kernel", "base"), *self._root()]
        return []

    def _disk(self, inside: str) -> list[str]:
        """The disk that an image boots from: it is made of the UKI and the volumes, and its GUIDs of the name."""
        if inside in ("disk id", f"{ESP_LABEL} id"):
            return self._kinds(NAME)
        files = dict.fromkeys(each.volume for side in self._sides for each in side.manifest.filled)
        volumes_of = [title for file in files for title in self._filled(_slot(file))]
        return self._fields("boot") or [*self._uki("", "bytes", ""), *volumes_of, *self._kinds(NAME, "times")]

    def _of_driver(self) -> list[str]:
        """Words for a driver, whose guest locks its kernel down later than others, or for its mode."""
        return self._fields("gpu" if self._on_one_side("gpu.count") else "gpu.ppcie")

    def _init(self) -> list[str]:
        return [self._guest["initrd/init"].title] if "initrd/init" in self._guest else []

    def _member(self, path: str, field: str, package: str) -> list[str]:
        """A member of the initrd: our own program, or a file of the root's packages."""
        if field == "mtime":
            return self._kinds("times")
        if path == "init" and field != "links":
            return self._init()
        if path.startswith("modules/"):
            return [*self._fields("kernel.package", "kernel.suite", "base"), *self._kinds("kernel package")]
        if package in self._packages:
            return [self._packages[package].title]
        # Members move when others come or go.
        return [f"{MAYBE}{title}" for title in self._kinds(*_PACKAGES)]

    def _of_volume(self, volume: str, inside: str, field: str, package: str) -> list[str]:
        if (field == "erofs" and inside.endswith(":build time")) or field == "mtime":
            return self._kinds("times")
        if field in ("erofs", "verity", "gpt") and inside.endswith(("uuid", "salt", "disk id")):
            return self._seed(volume)
        if not inside.startswith("/"):
            return self._volume(volume)
        path = inside.removeprefix("/")
        if volume != ROOT:
            return self._filled(_slot(volume))
        if path.startswith(f"{CONFIG}:"):
            return self._key(path.removeprefix(f"{CONFIG}:"))
        return self._file(path, field, package)

    def _key(self, key: str) -> list[str]:
        first = re.split(r"[.\[]", key)[0]
        if (kind := {"models": MODEL, "data": DATA}.get(first)) is not None:
            slot = Slot(kind, int(found[1]) if (found := re.match(r"[a-z]+\[(\d{1,3})\]", key)) else 0)
            if slot.number >= kind.most:
                return []
            return self._seed(slot.file) if key.endswith(".salt") else self._filled(slot)
        rules = {
            "name": self._kinds(NAME),
            "variant": self._fields("variant"),
            "agent": self._fields(key),
            "engine": [
                *self._fields("inference.engine.name", "inference.engine.options"),
                *self._measured(self._changed("inference")),
                *self._kinds("model"),
            ],
            "devices": self._fields("devices", "platforms", "inference.models", "data", "gpu.count", "gpu.ppcie"),
            "gpu": self._gpu(key),
            "rtmr3": [*self._fields("kernel.package", "kernel.suite", "base"), *self._kinds("kernel package")],
            "services": self._service(key),
            "network": self._card(key),
            "keys": self._fields("keys"),
        }
        return rules.get(first, self._kinds("agent file"))

    def _gpu(self, key: str) -> list[str]:
        """A key of the GPUs: its field, or any of them if only one side has GPUs."""
        field = {"gpu.switches": "gpu.ppcie"}.get(key, key)
        return self._fields("gpu" if self._on_one_side("gpu.count") else field)

    def _service(self, key: str) -> list[str]:
        """A key of a service: its field, or any of them if the service is on one side only."""
        _, name, inner, *_ = (*re.split(r"[.\[]", key), "", "")
        field = {"argv": "run"}.get(inner, inner)
        if key.endswith(f".environment.{VARIABLE}"):
            return self._fields("python", f"services.{name}")
        if self._on_one_side(f"services.{name}.run"):
            return self._fields(f"services.{name}.{field}") or self._fields(f"services.{name}")
        return self._fields(f"services.{name}.{field}", f"services.NAME.{field}")

    def _card(self, key: str) -> list[str]:
        """A key of a network card: its field, or any of them if the card is on one side only."""
        card, _, inner = key.partition(".")
        field = inner.partition("[")[0]
        whole = self._fields(card) if self._on_one_side(f"{card}.use") else []
        return self._fields(f"{card}.{field}") or whole

    def _on_one_side(self, field: str) -> bool:
        """Whether ``field``, which has a value wherever its section is, has one on one side only."""
        named = [change for change in self._of_kind.get(FIELD, ()) if change.name == field]
        return any(NONE in (change.before, change.after) for change in named)

    def _file(self, path: str, field: str, package: str) -> list[str]:
        """A path in the root."""
        if path == CONFIG:
            return self._moving(RTMR3)
        if path in (SYSCTLS, MODULES):
            fields = self._changed("sysctl" if path == SYSCTLS else "kernel.modules")
            return fields or [own.title for name, own in self._own.items() if name == path]
        if path == "usr/lib/clock-epoch":
            return self._kinds("times")
        if (own := self._own.get(path)) is not None:
            named = [change for change in self._of_kind.get(FIELD, ()) if change.name.startswith("files.")]
            fields = [change.title for change in named if _is_below(f"/{path}", _target(change))]
            return fields or [own.title]
        if (part := cards_of(path, field)) is not None:
            return self._fields(part)
        for known in (self._guest, self._agent):
            if (change := known.get(source_of(path)) or known.get(path)) is not None:
                why = self._changed("variant", "inference", "services")
                return [change.title] if "absent" not in (change.before, change.after) else why or [change.title]
        if any(driverfiles.is_of_driver(path, driver) for driver in self._drivers):
            return [*self._fields("gpu"), *self._kinds("driver package")]
        if is_of_wheels(path):
            return [*self._fields("python"), *self._kinds("Python wheel")]
        if path == ENGINE_UNIT:
            return self._fields("inference.engine")
        if is_of_service(path):
            return self._fields("services", "data")
        if package in self._packages:
            title = self._packages[package].title
            return [f"{MAYBE}{title}" if field in _METADATA else title]
        if package == _OVERLAY:
            return self._compiled(path)
        if field == "presence" and package != "unknown":
            # The package is the same, so what stays of it differs.
            return self._kept(path)
        for pattern, names in _DERIVED.items():
            if pattern.fullmatch(path):
                return [f"{MAYBE}{title}" for title in (*self._changed(*names), *self._kinds(*_PACKAGES))]
        return []

    def _compiled(self, path: str) -> list[str]:
        """A compiled module of the agent follows from another Python, if its source is a locked one."""
        if source_of(path) == path or source_of(path) not in self._modules:
            return []
        return [change.title for name, change in self._packages.items() if "python3" in name]

    def _kept(self, path: str) -> list[str]:
        if path.startswith("usr/bin/"):
            return self._fields("programs", "services", "inference.engine", "variant")
        if path.startswith("usr/lib/modules/"):
            return self._fields("kernel.modules", "variant")
        return [*self._changed(*_INSTALLED), *self._kinds("package")]

    def _document(self, file: str, inside: str) -> list[str]:
        every = [change.title for change in self._sources]
        if file.endswith(".lock.json"):
            return self._kinds(NAME) or every
        if file in ("prediction.json", sbom.FILE, provenance.FILE):
            return every  # they list inputs and artefacts
        if file != "manifest.json":
            return []
        first, *rest = inside.removeprefix("/").split("/")
        if first == "packages" and not inside.startswith("/"):
            return [self._packages[rest[0]].title] if rest and rest[0] in self._packages else []
        rules = {
            "name": self._kinds(NAME),
            "variant": self._fields("variant"),
            "recipe_sha256": [*self._kinds(FIELD, NAME, "text"), *(self._untold and [f"{MAYBE}another field"])],
            "origins": [*self._kinds(FIELD, NAME, "text"), *(self._untold and [f"{MAYBE}another field"])],
            "lock_sha256": every,
            "refreshed": every,
            "source_date_epoch": self._kinds("times"),
            "boot": self._fields("boot"),
            "listen": self._fields("agent.listen"),
            "cmdline": [*self._fields("kernel.options"), *self._root()],
            "kernel": [*self._fields("kernel.package", "kernel.suite", "base"), *self._kinds("kernel package")],
            "root": self._root(),
            "firmware": [*self._fields("firmware", "base"), *self._kinds("firmware package")],
            "models": [
                *self._fields("inference.models"),
                *self._kinds("model", "volume key", "model signature", "wheel", "times"),
            ],
            "data": [*self._fields("data"), *self._kinds("data", "volume key", "times")],
            "engine": [*self._fields("inference"), *self._kinds("package")],
            "exceptions": self._fields("exceptions"),
            "config_sha256": self._moving("rtmr3"),
            "agent_events": self._moving("rtmr3"),
            "purposes": self._moving("rtmr3"),
            "artefacts": self.of(rest[0], "bytes") if rest and rest[0] else every,
            "platforms": self._fields("platforms"),
            "shapes": self._fields("shapes"),
            "network": self._fields("network"),
            "gpus": self._fields("gpu"),
            "packages": [*self._changed(*_INSTALLED), *self._kinds(*_PACKAGES)],
        }
        return list(rules.get(first, []))


def source_of(path: str) -> str:
    """The Python module of a compiled file; any other path as it is."""
    compiled = PurePosixPath(path)
    if compiled.suffix == ".pyc" and compiled.parent.name == "__pycache__":
        return str(compiled.parent.parent / f"{compiled.name.split('.')[0]}.py")
    return path


def _inside(name: str, fields: Iterable[str]) -> bool:
    return any(name == field or name.startswith((f"{field}.", f"{field}[")) for field in fields)


def _is_below(path: str, target: str) -> bool:
    return path == target or path.startswith(f"{target.rstrip('/')}/")


def _target(change: Change) -> str:
    """The path in the root of a field of ``files``."""
    return change.name.removeprefix("files.").rpartition(".")[0]


def _slot(volume: str) -> Slot:
    slot = slot_of(volume)
    assert slot is not None, "the volume is one of a model or data"
    return slot
