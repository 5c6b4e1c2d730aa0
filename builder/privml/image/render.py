"""The mkosi tree of an image, rendered from a recipe: a pure function from records to files.

What is not here is not in the image: mkosi runs on exactly these files and the packages of the lock.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from privml.base import strictjson
from privml.engines.engine import Engine
from privml.image import paths
from privml.image.volume import definitions, erofs_options
from privml.recipe import tees
from privml.recipe.distributions import Base

ROOT_LABEL = "privml-root"
# The tree as it was before the guest's own files came in: prepare.py leaves it, and a later build starts with it.
BASE = "base.tar"
AGENT_ROOT = "usr/lib/privml"
INITRD_MODULES = ("virtio_blk", "dm_verity", "erofs")
GUEST_MODULES = ("virtio_net", "dm_verity", "erofs", "configfs", "af_packet", *tees.GUEST_MODULES)
DEVELOPMENT_MODULES = ("qemu_fw_cfg",)
# Generators make units from what the host can choose (disks, command line, credentials). None is needed.
GENERATORS: tuple[str, ...] = ()
# All that stays in /usr/bin and /usr/sbin. There is no shell among them, so nothing in the guest can be talked into
# running one.
PROGRAMS = (
    "dmsetup",
    "init",
    "kmod",
    "modprobe",
    "mount",
    "python3",
    "systemctl",
    "udevadm",
    "umount",
)
_NAMESPACE = uuid.UUID("6d0b8a7e-1f3c-5a55-9a0e-6c1f2b7d4e90")


@dataclass(frozen=True)
class File:
    """A file of a tree; a symbolic link when ``link`` is set."""

    data: bytes = b""
    executable: bool = False
    link: str | None = None


@dataclass(frozen=True)
class Plan:
    """What the tree is rendered from; ``overlay`` holds the guest's own files (path -> file).

    With ``based`` the packages are not installed: the tree begins with what an earlier build's ``prepare.py`` kept.
    """

    name: str
    base: Base
    packages: tuple[str, ...]
    epoch: int
    tools: str
    overlay: Mapping[str, File]
    development: bool
    engine: Engine | None
    based: bool = False

    @property
    def seed(self) -> str:
        """The seed of the root's UUIDs and salt."""
        return seed_of(self.name)


def seed_of(name: str) -> str:
    """A seed that is a function of a name alone, so that rebuilds agree."""
    return str(uuid.uuid5(_NAMESPACE, name))


def tree(plan: Plan, templates: Mapping[str, bytes]) -> dict[str, File]:
    """The mkosi tree: relative path -> file. ``templates`` are the files of ``images/mkosi``."""
    import jinja2  # an image that is whole renders nothing, and should not wait for this

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
    facts = {
        "modules": sorted((*GUEST_MODULES, *(DEVELOPMENT_MODULES if plan.development else ()))),
        "initrd_modules": list(INITRD_MODULES),
        "generators": list(GENERATORS),
        "programs": sorted((*PROGRAMS, python, *(plan.engine.programs if plan.engine else ()))),
        "units": list(paths.UNITS),
        "systemd": list(paths.SYSTEMD),
        "paths": [
            *paths.ALLOWED,
            paths.OF_PYTHON.format(python=python),
            *(plan.engine.paths if plan.engine else ()),
        ],
        "removals": list(plan.engine.removals) if plan.engine else [],
        "forbidden": list(paths.FORBIDDEN),
        "overlay": sorted(plan.overlay),
        "epoch": plan.epoch,
    }
    files = {
        "mkosi.conf": File(conf.encode()),
        "mkosi.finalize": File(templates["finalize.py"], executable=True),
        # Values with spaces do not survive Environment= (mkosi issue 2962).
        "mkosi.env": File(f"SYSTEMD_REPART_MKFS_OPTIONS_EROFS={erofs_options(plan.epoch)}\n".encode()),
        # No archive at all: everything comes from PackageDirectories=.
        "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources": File(b""),
        "privml.json": File(strictjson.pretty(facts)),
    }
    if not plan.based:
        files["mkosi.prepare"] = File(templates["prepare.py"], executable=True)
    parts = definitions(ROOT_LABEL, "root-x86-64", "root-x86-64-verity", copy="/", compression="lz4hc,9")
    files |= {f"mkosi.repart/{name}": File(text.encode()) for name, text in parts.items()}
    files |= {f"mkosi.extra/{path}": file for path, file in plan.overlay.items()}
    return dict(sorted(files.items()))
