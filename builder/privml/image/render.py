"""Render the mkosi input tree of an image from its recipe: a pure function from records to files.

mkosi runs on exactly these files and the locked packages; nothing else gets into the image.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from privml.base import strictjson
from privml.engines.engine import Engine
from privml.image.pythonwheels import Unpacked
from privml.image.volume import definitions, erofs_options
from privml.recipe import compression, guestroot, removals, tees
from privml.recipe.compression import Compression
from privml.recipe.distributions import Base
from privml.recipe.drivers import LIBRARIES, Driver
from privml.recipe.fabrics import Fabric
from privml.recipe.python import DIRECTORY, PROBES, VARIABLE

ROOT_LABEL = "privml-root"
# The tree with packages only, before the guest's own files are added: prepare.py writes it, a later build starts from
# it.
BASE = "base.tar"
# mkosi indexes all modules that it finds in a base tree, which takes a second. The tree has them in another place.
HIDDEN = {"usr/lib/modules": "usr/lib/modules.hidden"}
# What `finalize` always removes and no step before it reads: half of all files, which a kept tree does not have. Both
# are patterns of paths; the second are exceptions.
LEFT_OUT = ("usr/lib/udev/hwdb.d", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/perl*", "usr/share/*")
READ_LATER = ("usr/share/common-licenses", "usr/share/doc", "usr/share/factory")
AGENT_ROOT = "usr/lib/privml"
# Packages of the standard library that nothing in a guest imports, and those that only wheels do.
UNUSED = ("test", "idlelib", "ensurepip", "tkinter", "turtledemo", "pydoc_data", "lib2to3", "venv", "__phello__")
USED_BY_WHEELS = ("unittest", "xmlrpc", "wsgiref", "dbm", "curses", "sqlite3")
INITRD_MODULES = ("virtio_blk", "dm_verity", "erofs")
# For encrypted volumes: AES-XTS is in aesni_intel. The generic XTS is built into some kernels only.
CRYPT_MODULES = ("dm_crypt", "aesni_intel")
GUEST_MODULES = (
    "virtio_net", "dm_verity", "erofs", "configfs", "af_packet", "button", *CRYPT_MODULES, *tees.GUEST_MODULES,
)  # fmt: skip
DEVELOPMENT_MODULES = ("qemu_fw_cfg",)
# Generators create units from host-controlled input (disks, command line, credentials). None is needed.
GENERATORS: tuple[str, ...] = ()
_NAMESPACE = uuid.UUID("6d0b8a7e-1f3c-5a55-9a0e-6c1f2b7d4e90")


@dataclass(frozen=True)
class File:
    """A file in a tree; a symbolic link if ``link`` is set."""

    data: bytes = b""
    executable: bool = False
    link: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 in hex of the content, or of a link's target, as in locks."""
        return hashlib.sha256(self.data if self.link is None else os.fsencode(self.link)).hexdigest()

    @property
    def fact(self) -> str:
        """What `finalize` compares: the content's SHA-256 in hex, or ``-> TARGET`` for a link."""
        return self.digest if self.link is None else f"-> {self.link}"


@dataclass(frozen=True)
class Plan:
    """The inputs of the tree; ``overlay`` holds the guest's own files (path -> file), ``services`` the absolute paths
    of the services' programs.

    With ``based`` no packages are installed: mkosi starts from the tree that ``prepare.py`` kept in an earlier build.
    """

    name: str
    base: Base
    packages: tuple[str, ...]
    epoch: int
    tools: str
    overlay: Mapping[str, File]
    development: bool
    engine: Engine | None
    driver: Driver | None = None
    fabric: Fabric | None = None
    services: tuple[str, ...] = ()
    based: bool = False
    # What the recipe adds: paths of its own files in the overlay, kernel modules, packages by name, and programs.
    own: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    # Packages of no archive of the base, which `prepare` installs last.
    outside: tuple[str, ...] = ()
    # The Python wheels of the services, which are not in the overlay: they can be large.
    wheels: Unpacked | None = None
    compression: Compression = compression.COMPRESSIONS[compression.DEFAULT]

    @property
    def seed(self) -> str:
        """The seed for the UUIDs and the salt of the root volume."""
        return seed_of(self.name)


def seed_of(name: str) -> str:
    """A seed derived only from a name, so that rebuilds are identical."""
    return str(uuid.uuid5(_NAMESPACE, name))


def tree(plan: Plan, templates: Mapping[str, bytes]) -> dict[str, File]:
    """The mkosi tree: relative path -> file. ``templates`` are the files of ``images/mkosi``."""
    import jinja2  # a fully cached build renders nothing and should not pay for this import

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701 - mkosi.conf, not HTML
    conf = environment.from_string(templates["mkosi.conf.j2"].decode()).render(
        distribution=plan.base.distribution.name,
        release=plan.base.release.codename,
        seed=plan.seed,
        tools=plan.tools,
        packages=sorted(plan.packages),
        base=BASE if plan.based else None,
        source_date_epoch=plan.epoch,
    )
    python = plan.base.release.python
    modules = (*GUEST_MODULES, *(DEVELOPMENT_MODULES if plan.development else ()), *plan.modules)
    own_programs = (
        *plan.programs,
        *(plan.driver.programs if plan.driver else ()),
        *(plan.fabric.programs if plan.fabric else ()),
    )
    facts = {
        "modules": sorted({*modules, *(plan.driver.loaded if plan.driver else ())}),
        "initrd_modules": list(INITRD_MODULES),
        "generators": list(GENERATORS),
        "programs": sorted(
            {*guestroot.PROGRAMS, python, *(plan.engine.programs if plan.engine else ()), *own_programs}
        ),
        "units": list(guestroot.UNITS),
        "systemd": list(guestroot.SYSTEMD),
        "paths": [
            *guestroot.ALLOWED,
            guestroot.OF_PYTHON.format(python=python),
            *(plan.engine.paths if plan.engine else ()),
        ],
        "removals": [[removal.why, list(removal.patterns)] for removal in _removals(plan)],
        "forbidden": list(guestroot.FORBIDDEN),
        "overlay": {path: file.fact for path, file in sorted(plan.overlay.items())},
        "services": list(plan.services),
        "own": sorted(plan.own),
        "added": sorted(plan.added),
        "own_programs": sorted(own_programs),
        "outside": sorted(plan.outside),
        "wheels": None if plan.wheels is None else {**plan.wheels.facts, **_of_imports(plan)},
        "unused": [*UNUSED, *(USED_BY_WHEELS if plan.wheels is None else ())],
        "hidden": HIDDEN,
        "left_out": list(LEFT_OUT),
        "read_later": list(READ_LATER),
        "epoch": plan.epoch,
    }
    options = erofs_options(plan.epoch, plan.compression.cluster)
    files = {
        "mkosi.conf": File(conf.encode()),
        "mkosi.finalize": File(templates["finalize.py"], executable=True),
        # Environment= breaks values with spaces (mkosi issue 2962).
        "mkosi.env": File(f"SYSTEMD_REPART_MKFS_OPTIONS_EROFS={options}\n".encode()),
        # No archive: all packages come from PackageDirectories=.
        "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources": File(b""),
        "privml.json": File(strictjson.pretty(facts)),
    }
    if not plan.based:
        files["mkosi.prepare"] = File(templates["prepare.py"], executable=True)
    if plan.wheels is not None:
        files["imports.py"] = File(templates["imports.py"])
    parts = definitions(ROOT_LABEL, "root-x86-64", "root-x86-64-verity", copy="/", compression=plan.compression.word)
    files |= {f"mkosi.repart/{name}": File(text.encode()) for name, text in parts.items()}
    files |= {f"mkosi.extra/{path}": file for path, file in plan.overlay.items()}
    return dict(sorted(files.items()))


def _of_imports(plan: Plan) -> dict[str, object]:
    """How the build imports modules of the wheels: environment, and programs that are refused but expected."""
    probes = sorted((*PROBES, *(plan.driver.probes if plan.driver else ())))
    if plan.engine is not None and plan.engine.wheels is not None:
        return {"probes": probes, "environment": dict(plan.engine.environment)}
    libraries = {"LD_LIBRARY_PATH": f"/{LIBRARIES}"} if plan.driver else {}
    environment = {"PATH": "/usr/bin", "LANG": "C.UTF-8", VARIABLE: f"/{DIRECTORY}", **libraries}
    return {"probes": probes, "environment": environment}


def _removals(plan: Plan) -> Iterator[removals.Removal]:
    yield from removals.REMOVALS
    if plan.engine is not None:
        yield removals.Removal(f"{plan.engine.name} does not need it", plan.engine.removals)
    if plan.driver is not None:
        yield removals.Removal("the driver's programs do not need it", plan.driver.removals)
