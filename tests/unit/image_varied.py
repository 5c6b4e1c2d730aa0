"""Images whose bytes follow from recipe and lock as in a real build, made in this process in milliseconds.

The stand-ins for the tools write volumes, a UKI and a firmware whose content is what their inputs say: packages put
their files into the root unless finalize's lists leave them out, salts and UUIDs come from the seeds, and registers
are digests of the artefacts that decide them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import image_fake
import pytest
from image_fake import FIRMWARE, Fake, keep
from image_volume import gpt, volume
from model_signer import payload_in
from test_lock_deb import file as deb_file
from test_lock_deb import package as deb_package
from test_measure_pe import make_uki
from varied_inputs import KEYS, chosen_from, model_of, state_of, write_keyrings

from privml.base.run import Completed
from privml.events.agent import replay
from privml.events.crypt import SECTOR_SIZE
from privml.events.event import Evidence
from privml.events.gpt import Partition
from privml.image.build import build
from privml.image.root import SOURCE
from privml.image.tools import ToolsTree
from privml.image.volumekeys import VolumeKeys
from privml.lock.addedarchives import archives_of
from privml.lock.datafiles import data_of
from privml.lock.models import Firmware, Lock, Package, Tree
from privml.lock.trees import agent_tree, guest_tree, images_folder, own_tree
from privml.lock.wanted import in_order
from privml.output import manifest as manifests
from privml.output.artefacts import artefact
from privml.output.manifest import Manifest
from privml.output.prediction import write_prediction
from privml.recipe.loader import Recipe, load
from privml.recipe.models import Content
from privml.recipe.packages import models_in
from privml.repro.compare import compare
from privml.repro.images import ImageDiff, of
from privml.repro.layers import Report
from privml.repro.owners import Owners
from privml.repro.recipechanges import side_of
from privml.statement.launch import Accepted, MeasuredLaunch, TdMachine
from privml.statement.predicate import Predicate

KERNEL = "linux-binary-7.2-cloud"
# name -> the paths that its .deb has in the root
PACKAGES = {
    "alpha": ("usr/lib/alpha/a.so", "usr/bin/python3"),
    "llama.cpp-tools": ("usr/bin/llama-server", "usr/lib/ggml.so"),
    KERNEL: ("usr/lib/modules/7/kernel/tcp_bbr.ko", "usr/lib/modules/7/kernel/virtio.ko"),
}
MORE = {
    "jq": ("usr/bin/jq", "usr/lib/jq.so"),
    "acme-tool": ("usr/lib/acme-tool/tool.so",),
    "acme-lib": ("usr/lib/acme-lib/lib.so",),
}
EPOCH = 1_750_000_000
DATA, HASHES = 40 * 512, 56 * 512
Document = dict[str, Any]
BASE: Document = {
    "schema": 2,
    "description": "The recipe that is varied.",
    "base": {"distribution": "debian", "release": "forky"},
    "kernel": {"package": "linux-image-cloud-amd64"},
    "firmware": {"tdx": {"package": "ovmf-inteltdx"}},
    "inference": {
        "engine": {"name": "llama-server"},
        "models": [
            {
                "name": "small",
                "source": "https://models.invalid/small.gguf",
                "sha256": "a" * 64,
                "signature": {"file": "models/small.sig", "key": "models/signer.pem"},
            }
        ],
    },
    "agent": {"listen": 8443, "max_concurrency": 64},
    "files": {"/etc/acme/a.json": {"source": "files/a.json"}},
    "services": {"metrics": {"run": ["/usr/bin/python3", "/etc/acme/a.json"], "memory": "64MiB"}},
    "packages": ["jq", "acme-tool/acme"],
    "archives": {
        "acme": {
            "suite": "stable",
            "keyring": "keys/acme.gpg",
            "fingerprints": [next(iter(KEYS))],
            "pins": {"acme-lib": "1.0"},
            "inrelease_sha256": "1" * 64,
        }
    },
    "programs": ["jq"],
    "devices": [{"virtio-blk": 2}, {"virtio-net": 2}],
    "network": [{"addresses": ["10.0.2.15/24", "fd00::15/64"], "gateways": ["fd00::2"]}, {"use": "dhcp"}],
    "platforms": ["qemu-11-q35"],
    "shapes": [{"vcpus": 2, "memory": "2GiB"}, {"vcpus": 4, "memory": "4GiB"}],
}


def digest(*parts: bytes | str) -> bytes:
    hasher = hashlib.sha384()
    for part in parts:
        hasher.update(part if isinstance(part, bytes) else part.encode())
        hasher.update(b"\0")
    return hasher.digest()


def listing(tree: Path) -> bytes:
    """Everything that a file system has of a tree."""
    rows = []
    for path in sorted(tree.rglob("*")):
        body = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b"/"
        rows.append(f"{path.relative_to(tree)} {path.lstat().st_mode:o} {hashlib.sha256(body).hexdigest()}\n")
    return "".join(rows).encode()


def disk(label: str, tree: Path, seed: str, epoch: int) -> tuple[bytes, str]:
    """A volume of ``tree`` with its root hash; salt and UUIDs are of the seed."""
    salt, identifier = hashlib.sha256(seed.encode()).digest(), uuid.uuid5(uuid.NAMESPACE_URL, seed).bytes
    data = bytearray(volume(label))
    inodes = 1 + sum(1 for _ in tree.rglob("*"))
    struct.pack_into(
        "<IIIBBHQQIIII16s", data, DATA + 1024,
        0xE0F5E1E2, 0, 0, 12, 0, 36, inodes, epoch, 0, 2, 0, 0, identifier,
    )  # fmt: skip
    data[DATA + 2048 : DATA + 2080] = hashlib.sha256(listing(tree)).digest()
    data[HASHES + 16 : HASHES + 32] = identifier
    data[HASHES + 88 : HASHES + 120] = salt
    root_hash = hashlib.sha256(salt + bytes(data[DATA:HASHES])).digest()
    data[HASHES + 1024 : HASHES + 1056] = root_hash
    return bytes(data), root_hash.hex()


def over(label: str, blocks: bytes, seed: str) -> tuple[bytes, str]:
    """A volume over blocks that were made before, with its root hash; the salt is of the seed."""
    salt, identifier = hashlib.sha256(seed.encode()).digest(), uuid.uuid5(uuid.NAMESPACE_URL, seed).bytes
    data = bytearray(volume(label))
    data[DATA:HASHES] = blocks
    data[HASHES + 16 : HASHES + 32] = identifier
    data[HASHES + 88 : HASHES + 120] = salt
    root_hash = hashlib.sha256(salt + blocks).digest()
    data[HASHES + 1024 : HASHES + 1056] = root_hash
    return bytes(data), root_hash.hex()


def alone(label: str, body: bytes) -> bytes:
    """The disk with its first block as the only partition; encrypted, it has as many blocks as before."""
    return gpt([(label, 40, 47)]).ljust(DATA, b"\0") + body[DATA : DATA + SECTOR_SIZE]


class Tools(ToolsTree):
    """Runs no program: writes what it would write."""

    def run(self, argv: Sequence[Any], *, binds: Sequence[Any] = (), env: Any = None, **_: Any) -> Completed:
        work = binds[0].source
        if argv[0] == "systemd-repart":
            seed = next(word for word in argv if word.startswith("--seed="))
            label = (work / "repart/10-data.conf").read_text()
            name = re.search(r"(?m)^Label=(.+)$", label)
            assert name is not None
            if "CopyBlocks=" in label:
                body, root_hash = over(name[1], (work / "blocks").read_bytes(), seed)
            else:
                body, root_hash = disk(name[1], work / "tree", seed, int(env["SOURCE_DATE_EPOCH"]))
                if (work / "repart/11-verity.conf").exists():
                    keep_tree(self.root, body, work / "tree", int(env["SOURCE_DATE_EPOCH"]))
                else:
                    body = alone(name[1], body)
            (work / Path(argv[-1]).name).write_bytes(body)
            return Completed(0, json.dumps([{"roothash": root_hash}]).encode(), b"")
        if argv[0] == "ukify":
            uname = next(word for word in argv if word.startswith("--uname=")).partition("=")[2]
            parts = {"linux": "vmlinuz", "initrd": "initrd", "cmdline": "cmdline", "osrel": "os-release"}
            made = make_uki(
                **{section: (work / name).read_bytes() for section, name in parts.items()}, uname=uname.encode()
            )
            (work / "uki.efi").write_bytes(made)
        elif argv[0] == "mcopy":
            with (work / "esp").open("r+b") as esp:
                esp.write((work / "EFI/BOOT/BOOTX64.EFI").read_bytes())
        elif argv[0] == "virt-fw-vars":
            (work / "firmware.fd").write_bytes((work / "firmware.in").read_bytes().replace(b"with", b"without"))
        return Completed(0, b"", b"")


def key_of(disk: bytes) -> str:
    """Names the tree of a volume, by the digest of its content and the time of its files."""
    return (disk[DATA + 2048 : DATA + 2080] + disk[DATA + 1048 : DATA + 1056]).hex()


def keep_tree(root: Path, body: bytes, tree: Path, epoch: int) -> None:
    place = root / "trees" / key_of(body)
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        tree.rename(place)
        for path in [*place.rglob("*"), place]:
            os.utime(path, (epoch, epoch), follow_symlinks=False)


def mkosi(tools: ToolsTree, store: Any, place: Path, *, memory: int) -> None:
    """What mkosi and finalize make of the rendered tree."""
    source = place / SOURCE
    facts = json.loads((source / "privml.json").read_bytes())
    rows = json.loads((tools.root / "root.packages").read_bytes())
    conf = (source / "mkosi.conf").read_text()
    tree = source / "tree"
    (source / "mkosi.extra").rename(tree)
    for row in rows:
        for path in (PACKAGES | MORE).get(row["package"], ()):
            kept = {"usr/bin": facts["programs"], "usr/lib/modules/7/kernel": facts["modules"]}
            listed = kept.get(path.rpartition("/")[0])
            if listed is None or Path(path).stem in listed or path == "usr/bin/python3":
                place = tree / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(f"{row['package']} {row['version']} {path}")
    users = [path.read_text() for path in sorted(tree.glob("usr/lib/sysusers.d/*"))]
    (tree / "etc/passwd").write_text("".join(users))
    (tree / "etc/ld.so.cache").write_text("".join(f"{row['package']} {row['version']}\n" for row in rows))
    seed = re.search(r"(?m)^Seed=(.+)$", conf)
    assert seed is not None
    body, root_hash = disk("privml-root", tree, seed[1], facts["epoch"])
    keep_tree(tools.root, body, tree, facts["epoch"])
    (source / "root.raw").write_bytes(body)
    (source / "root.roothash").write_text(root_hash)
    (source / "installed.json").write_text(json.dumps(rows))
    (source / "licences.json").write_text('{"common": {}, "copyright": {}}')
    kernel = next(row for row in rows if row["package"].startswith("linux-"))
    (source / "kernel-version").write_text(f"{kernel['version']}\n")
    (source / "vmlinuz").write_text(f"kernel {kernel['version']}")
    (source / "base.tar").write_bytes(b"tree of packages")
    for name in ("init", "bin/busybox", "sbin/dmsetup"):
        (source / "initrd" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "initrd" / name).write_bytes(name.encode())


@dataclass(frozen=True)
class Predictor:
    """Registers as digests of what decides them."""

    def inputs(self, platforms: Sequence[str]) -> dict[str, str]:
        return {f"platform {name}": "1" for name in platforms}

    def predict(self, tools: ToolsTree, directory: Path, manifest: Manifest) -> Predicate:
        firmware, uki = ((directory / name).read_bytes() for name in ("firmware.fd", "uki.efi"))
        boot = () if manifest.boot_disk is None else (manifest.boot,)
        launches = tuple(
            MeasuredLaunch(
                "tdx",
                platform,
                TdMachine(shape.vcpus, shape.memory),
                {
                    name: Accepted((value,), Evidence.TPM_BOOT)
                    for name, value in {
                        "mrtd": digest(firmware),
                        "rtmr0": digest(firmware, platform, str(shape), *boot),
                        "rtmr1": digest(uki, *boot),
                        "rtmr2": digest(b"sections", uki),
                        "rtmr3": replay(manifest.agent_events),
                    }.items()
                },
            )
            for platform in manifest.platforms
            for shape in manifest.shapes
        )
        return Predicate(
            manifest.name,
            manifest.variant,
            manifest.sha256,
            manifest.agent_events,
            manifest.purposes,
            launches,
            gpus=manifest.gpus,
        )


class Workshop:
    """Builds recipes that differ from ``BASE``, and compares the images."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.fake: Fake = image_fake.make(folder / "fake")
        self.template = self.fake.lock
        self.tools = Tools(self.fake.root, "f" * 64)
        self.debs: dict[str, Package] = {}
        self._agents: dict[str, Tree] = {}
        self.signatures: dict[str, bytes] = {}
        monkeypatch.setattr("privml.image.root.run_mkosi", mkosi)
        # What Sigstore's own check says has tests of its own; nobody can sign with an account here.
        monkeypatch.setattr("privml.base.keyless.signed_payload", lambda data, *_: payload_in(data))

    def deb(self, name: str, version: str = "1") -> Package:
        """A package with the files of its row, and another .deb for each version."""
        key = f"{name} {version}"
        if key not in self.debs:
            files = [deb_file(f"./{path}", f"{name} {version} {path}".encode()) for path in (PACKAGES | MORE)[name]]
            body = deb_package(files, control=f"Package: {name}\nVersion: {version}\n")
            self.debs[key] = keep(self.fake.store, name, body).model_copy(update={"version": version})
        return self.debs[key]

    def firmware(self, name: str, body: bytes) -> Package:
        place = (
            "./usr/share/ovmf/OVMF.inteltdx.ms.fd" if name == "ovmf-inteltdx" else "./usr/share/OVMF/OVMF_CODE_4M.fd"
        )
        return keep(self.fake.store, name, deb_package([deb_file(place, body)]))

    def recipe(self, side: str, document: Mapping[str, Any], files: Mapping[str, str], name: str) -> Recipe:
        """The recipe, and its files, in a folder of its own."""
        folder = self.folder / side
        given = {"files/a.json": "{}", "files/b.json": "{}", "models/chat.jinja": "{{ messages }}"}
        for inner, text in (given | dict(files)).items():
            (folder / inner).parent.mkdir(parents=True, exist_ok=True)
            (folder / inner).write_text(text)
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(document, indent=1))
        recipe = load(path)
        write_keyrings(folder, recipe.content)
        return recipe

    def lock(self, recipe: Recipe, **changes: Any) -> Lock:
        """The lock that `lock` would make of these archives; ``changes`` are versions of packages or its fields."""
        content: Content = recipe.content
        versions = changes.pop("versions", {})
        kernel = {"linux-image-cloud-amd64": "1"}.get(content.kernel.package, "2") + (content.kernel.suite or "")
        names = [*PACKAGES, *(name for name in content.named_packages if name in MORE)]
        if content.inference is None:
            names.remove("llama.cpp-tools")
        packages = [self.deb(name, kernel if name == KERNEL else versions.get(name, "1")) for name in names]
        archives = archives_of(recipe)
        for one in archives:
            place = {"archive": one.label, "suite": one.suite.name}
            packages += [self.deb(*chosen).model_copy(update=place) for chosen in chosen_from(one, content)]
        models = [model_of(recipe, n, self.fake.store, self.signatures) for n in range(len(models_in(recipe)))]
        chosen = content.firmware["tdx"]
        body = FIRMWARE + (chosen.package + (chosen.suite or "")).encode()
        if content.variant not in self._agents:
            self._agents[content.variant] = agent_tree(content.variant)
        made = self.template.model_copy(
            update={
                "recipe_sha256": recipe.digest,
                "packages_requested": (
                    content.kernel.package,
                    *content.named_packages,
                    *(f"{name}/{label}" for name, label in content.archive_packages),
                ),
                "packages": in_order(packages),
                "firmware": {
                    "tdx": Firmware(requested=chosen.package, packages=(self.firmware(chosen.package, body),))
                },
                "models": tuple(models),
                "data": data_of(recipe, None, self.fake.store),
                "python": (),
                "agent": self._agents[content.variant],
                "guest": guest_tree(images_folder(), content),
                "files": own_tree(recipe),
                "kernel_options": tuple(content.kernel.options),
                "programs": tuple(content.programs),
                "added_archives": tuple(map(state_of, archives)),
            }
        )
        return made.model_copy(update=changes)

    def image(
        self,
        side: str,
        document: Mapping[str, Any],
        files: Mapping[str, str] = MappingProxyType({}),
        name: str = "varied",
        volumes: VolumeKeys | None = None,
        **changes: Any,
    ) -> Path:
        """Build a recipe; the image's directory. ``volumes`` is where encrypted volumes come from."""
        self.fake.recipe = self.recipe(side, document, files, name)
        self.fake.lock = self.lock(self.fake.recipe, **changes)
        self.fake.installed(*self.fake.lock.packages)
        output = self.folder / side / "out"
        order = self.fake.order(tools=lambda: self.tools, predictor=Predictor(), volumes=volumes or VolumeKeys())
        build(order, output)
        return output

    def compared(self, one: Path, two: Path) -> Report:
        sides = [side_of(path) for path in (one, two)]
        rows = {row.sha256: (row.name, row.sha256) for side in sides for row in side.manifest.packages}
        return compare(one, two, opener=self.opener, owners=Owners(rows.values(), self.fake.store))

    def diff(self, one: Path, two: Path) -> ImageDiff:
        return of(side_of(one), side_of(two), self.compared(one, two))

    @contextmanager
    def opener(self, path: Path, part: Partition) -> Iterator[Path]:
        yield self.fake.root / "trees" / key_of(path.read_bytes())

    def bend(self, image: Path, path: str, text: str) -> None:
        """Change a file of the root afterwards, as a tool that is not reproducible would, and make it all agree."""
        raw = image / "root.raw"
        body = bytearray(raw.read_bytes())
        old = self.fake.root / "trees" / key_of(bytes(body))
        fresh = self.fake.root / "trees" / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(old, fresh, symlinks=True)
        (fresh / path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / path).write_text(text)
        body[DATA + 2048 : DATA + 2080] = hashlib.sha256(listing(fresh)).digest()
        raw.write_bytes(body)
        keep_tree(self.fake.root, bytes(body), fresh, EPOCH)
        reseal(image)


def reseal(image: Path, **changes: Any) -> None:
    """Write manifest and prediction again for the files in ``image``."""
    old = manifests.read(image)
    made = replace(old, artefacts={name: artefact(image / name) for name in old.artefacts}, **changes)
    (image / "manifest.json").write_bytes(made.encode())
    write_prediction(image, made, Predictor().predict(None, image, made))  # type: ignore[arg-type]
