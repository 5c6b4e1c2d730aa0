"""Which changes of recipe and inputs each difference between two images follows from.

A rule per place names what decides the bytes there, as the build has it: `image/config.py`, `image/resources.py`,
`image/uki.py`, `image/volume.py`. A difference that no rule connects with a change stays unexplained; only those are
looked up in the table of causes that two builds of one recipe have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from privml.events.registers import RTMR3
from privml.events.volumes import DATA, MODEL, Slot
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
from privml.recipe.ownfiles import MODULES, SYSCTLS
from privml.recipe.python import VARIABLE
from privml.repro.change import FIELD, MAYBE, NAME, Change
from privml.repro.owners import source_of
from privml.repro.recipechanges import Side
from privml.repro.sources import Sources
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
        self._sources = Sources(sources, sides, untold)
        self._sides = sides
        self._agent = {f"{AGENT_ROOT}/{change.name}": change for change in sources if change.kind == "agent file"}
        self._guest = {overlay_path(change.name): change for change in sources if change.kind == "guest file"}
        if (init := self._guest.get("initrd/init")) is not None:
            self._guest[f"{AGENT_ROOT}/initrd-init"] = init
        locks = [side.lock for side in sides if side.lock is not None]
        self._modules = {f"{AGENT_ROOT}/{file.path}" for lock in locks for file in lock.agent.files}
        self._drivers = [lock.driver for lock in locks if lock.driver is not None]
        # Tools and templates can change whatever they make.
        templates = [change.title for path, change in self._guest.items() if path.startswith("mkosi/")]
        self._anything = [f"{MAYBE}{title}" for title in (*self._sources.kinds("tools"), *templates)]
        self._own = {change.name: change for change in sources if change.kind == "recipe file"}
        self._packages = {change.name: change for change in sources if change.kind in _PACKAGES}

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
            return tuple(self._sources.kinds(NAME))
        return self.of(name, "bytes")

    def knows_package(self, name: str) -> bool:
        """Whether a changed package is one of the sources."""
        return name in self._packages

    def _register(self, register: str) -> list[str]:
        # A machine that only one of them predicts has no counterpart.
        return self._sources.moving(register) or self._sources.fields("platforms", "shapes", "firmware")

    def _firmware(self, tee: str) -> list[str]:
        return [*self._sources.fields(f"firmware.{tee}", "base"), *self._sources.kinds("firmware package")]

    def _uki(self, inside: str, field: str, package: str) -> list[str]:
        section = inside.partition(":")[0]
        kernel = self._sources.kernel()
        if section in (".linux", ".uname"):
            return kernel
        if section == ".osrel":
            return self._sources.kinds(NAME)
        if section == ".cmdline" and inside != section:
            return self._sources.fields("kernel.options") or self._of_driver()
        if section == ".cmdline":
            return [*self._sources.fields("kernel.options"), *self._sources.root()]
        if section == ".initrd" and inside != section:
            return self._member(inside.removeprefix(f"{section}:/"), field, package)
        if section == ".initrd":
            return [*kernel, *self._sources.kinds("package", "times"), *self._init()]
        if section == "":
            return [*self._sources.fields("kernel", "base"), *self._sources.root()]
        return []

    def _disk(self, inside: str) -> list[str]:
        """The disk that an image boots from: it is made of the UKI and the volumes, and its GUIDs of the name."""
        if inside in ("disk id", f"{ESP_LABEL} id"):
            return self._sources.kinds(NAME)
        files = dict.fromkeys(each.volume for side in self._sides for each in side.manifest.filled)
        volumes_of = [title for file in files for title in self._sources.volume(file)]
        return self._sources.fields("boot") or [
            *self._uki("", "bytes", ""),
            *volumes_of,
            *self._sources.kinds(NAME, "times"),
        ]

    def _of_driver(self) -> list[str]:
        """Words for a driver, whose guest locks its kernel down later than others, or for its mode."""
        return self._sources.fields("gpu" if self._sources.on_one_side("gpu.count") else "gpu.ppcie")

    def _init(self) -> list[str]:
        return [self._guest["initrd/init"].title] if "initrd/init" in self._guest else []

    def _member(self, path: str, field: str, package: str) -> list[str]:
        """A member of the initrd: our own program, or a file of the root's packages."""
        if field == "mtime":
            return self._sources.kinds("times")
        if path == "init" and field != "links":
            return self._init()
        if path.startswith("modules/"):
            return self._sources.kernel()
        if package in self._packages:
            return [self._packages[package].title]
        # Members move when others come or go.
        return [f"{MAYBE}{title}" for title in self._sources.kinds(*_PACKAGES)]

    def _of_volume(self, volume: str, inside: str, field: str, package: str) -> list[str]:
        if (field == "erofs" and inside.endswith(":build time")) or field == "mtime":
            return self._sources.kinds("times")
        if field in ("erofs", "verity", "gpt") and inside.endswith(("uuid", "salt", "disk id")):
            return self._sources.seed(volume)
        if volume != ROOT or not inside.startswith("/"):
            return self._sources.volume(volume)
        path = inside.removeprefix("/")
        if path.startswith(f"{CONFIG}:"):
            return self._key(path.removeprefix(f"{CONFIG}:"))
        return self._file(path, field, package)

    def _key(self, key: str) -> list[str]:
        first = re.split(r"[.\[]", key)[0]
        if (kind := {"models": MODEL, "data": DATA}.get(first)) is not None:
            slot = Slot(kind, int(found[1]) if (found := re.match(r"[a-z]+\[(\d{1,3})\]", key)) else 0)
            if slot.number >= kind.most:
                return []
            return self._sources.seed(slot.file) if key.endswith(".salt") else self._sources.filled(slot)
        rules = {
            "name": self._sources.kinds(NAME),
            "variant": self._sources.fields("variant"),
            "agent": self._sources.fields(key),
            "engine": [
                *self._sources.fields("inference.engine.name", "inference.engine.options"),
                *self._sources.measured(self._sources.changed("inference")),
                *self._sources.kinds("model"),
            ],
            "devices": self._sources.fields(
                "devices", "platforms", "inference.models", "data", "gpu.count", "gpu.ppcie"
            ),
            "gpu": self._gpu(key),
            "rtmr3": self._sources.kernel(),
            "services": self._service(key),
            "network": self._card(key),
            "keys": self._sources.fields("keys"),
        }
        return rules.get(first, self._sources.kinds("agent file"))

    def _gpu(self, key: str) -> list[str]:
        """A key of the GPUs: its field, or any of them if only one side has GPUs."""
        field = {"gpu.switches": "gpu.ppcie"}.get(key, key)
        return self._sources.fields("gpu" if self._sources.on_one_side("gpu.count") else field)

    def _service(self, key: str) -> list[str]:
        """A key of a service: its field, or any of them if the service is on one side only."""
        _, name, inner, *_ = (*re.split(r"[.\[]", key), "", "")
        field = {"argv": "run"}.get(inner, inner)
        if key.endswith(f".environment.{VARIABLE}"):
            return self._sources.fields("python", f"services.{name}")
        if self._sources.on_one_side(f"services.{name}.run"):
            return self._sources.fields(f"services.{name}.{field}") or self._sources.fields(f"services.{name}")
        return self._sources.fields(f"services.{name}.{field}", f"services.NAME.{field}")

    def _card(self, key: str) -> list[str]:
        """A key of a network card: its field, or any of them if the card is on one side only."""
        card, _, inner = key.partition(".")
        field = inner.partition("[")[0]
        whole = self._sources.fields(card) if self._sources.on_one_side(f"{card}.use") else []
        return self._sources.fields(f"{card}.{field}") or whole

    def _file(self, path: str, field: str, package: str) -> list[str]:
        """A path in the root."""
        if path == CONFIG:
            return self._sources.moving(RTMR3)
        if path in (SYSCTLS, MODULES):
            fields = self._sources.changed("sysctl" if path == SYSCTLS else "kernel.modules")
            return fields or [own.title for name, own in self._own.items() if name == path]
        if path == "usr/lib/clock-epoch":
            return self._sources.kinds("times")
        if (own := self._own.get(path)) is not None:
            named = [change for change in self._sources.of_kind(FIELD) if change.name.startswith("files.")]
            fields = [change.title for change in named if _is_below(f"/{path}", _target(change))]
            return fields or [own.title]
        if (part := cards_of(path, field)) is not None:
            return self._sources.fields(part)
        for known in (self._guest, self._agent):
            if (change := known.get(source_of(path)) or known.get(path)) is not None:
                why = self._sources.changed("variant", "inference", "services")
                return [change.title] if "absent" not in (change.before, change.after) else why or [change.title]
        if any(driverfiles.is_of_driver(path, driver) for driver in self._drivers):
            return [*self._sources.fields("gpu"), *self._sources.kinds("driver package")]
        if is_of_wheels(path):
            return [*self._sources.fields("python"), *self._sources.kinds("Python wheel")]
        if path == ENGINE_UNIT:
            return self._sources.fields("inference.engine")
        if is_of_service(path):
            return self._sources.fields("services", "data")
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
                return [
                    f"{MAYBE}{title}" for title in (*self._sources.changed(*names), *self._sources.kinds(*_PACKAGES))
                ]
        return []

    def _compiled(self, path: str) -> list[str]:
        """A compiled module of the agent follows from another Python, if its source is a locked one."""
        if source_of(path) == path or source_of(path) not in self._modules:
            return []
        return [change.title for name, change in self._packages.items() if "python3" in name]

    def _kept(self, path: str) -> list[str]:
        if path.startswith("usr/bin/"):
            return self._sources.fields("programs", "services", "inference.engine", "variant")
        if path.startswith("usr/lib/modules/"):
            return self._sources.fields("kernel.modules", "variant")
        return [*self._sources.changed(*_INSTALLED), *self._sources.kinds("package")]

    def _document(self, file: str, inside: str) -> list[str]:
        every = [change.title for change in self._sources.changes]
        if file.endswith(".lock.json"):
            return self._sources.kinds(NAME) or every
        if file in ("prediction.json", sbom.FILE, provenance.FILE):
            return every  # they list inputs and artefacts
        if file != "manifest.json":
            return []
        first, *rest = inside.removeprefix("/").split("/")
        if first == "packages" and not inside.startswith("/"):
            return [self._packages[rest[0]].title] if rest and rest[0] in self._packages else []
        rules = {
            "name": self._sources.kinds(NAME),
            "variant": self._sources.fields("variant"),
            "recipe_sha256": [
                *self._sources.kinds(FIELD, NAME, "text"),
                *(self._sources.untold and [f"{MAYBE}another field"]),
            ],
            "origins": [
                *self._sources.kinds(FIELD, NAME, "text"),
                *(self._sources.untold and [f"{MAYBE}another field"]),
            ],
            "lock_sha256": every,
            "refreshed": every,
            "source_date_epoch": self._sources.kinds("times"),
            "boot": self._sources.fields("boot"),
            "listen": self._sources.fields("agent.listen"),
            "cmdline": [*self._sources.fields("kernel.options"), *self._sources.root()],
            "kernel": self._sources.kernel(),
            "root": self._sources.root(),
            "firmware": [*self._sources.fields("firmware", "base"), *self._sources.kinds("firmware package")],
            "models": [
                *self._sources.fields("inference.models"),
                *self._sources.kinds("model", "volume key", "model signature", "wheel", "times"),
            ],
            "data": [*self._sources.fields("data"), *self._sources.kinds("data", "volume key", "times")],
            "engine": [*self._sources.fields("inference"), *self._sources.kinds("package")],
            "exceptions": self._sources.fields("exceptions"),
            "config_sha256": self._sources.moving("rtmr3"),
            "agent_events": self._sources.moving("rtmr3"),
            "purposes": self._sources.moving("rtmr3"),
            "artefacts": self.of(rest[0], "bytes") if rest and rest[0] else every,
            "platforms": self._sources.fields("platforms"),
            "shapes": self._sources.fields("shapes"),
            "network": self._sources.fields("network"),
            "gpus": self._sources.fields("gpu"),
            "packages": [*self._sources.changed(*_INSTALLED), *self._sources.kinds(*_PACKAGES)],
        }
        return list(rules.get(first, []))


def _is_below(path: str, target: str) -> bool:
    return path == target or path.startswith(f"{target.rstrip('/')}/")


def _target(change: Change) -> str:
    """The path in the root of a field of ``files``."""
    return change.name.removeprefix("files.").rpartition(".")[0]
