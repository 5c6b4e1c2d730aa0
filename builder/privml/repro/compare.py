"""Compare two output directories layer by layer. Bytes decide equality; the layers explain where and why.

The build's input record (``inputs.FILE``) and what a fetched image has of its publication (``fetched.FOLDER``) are
not part of an image. A missing file, an empty artefact, a link instead
of an artefact, and a manifest that does not match its files are differences, even if both sides have them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.errors import PrivmlError, UsageError, printable
from privml.base.files import sha256_file
from privml.events import volumes
from privml.events.gpt import Partition
from privml.image.inputs import FILE as INPUTS_FILE
from privml.measure import gpt
from privml.output.artefacts import DISK, FIRMWARE, ROOT, UKI, is_volume
from privml.output.fetched import FOLDER as PUBLISHED
from privml.output.manifest import Manifest
from privml.output.manifest import decode as decode_manifest
from privml.recipe import tees
from privml.repro import disk, ukisections
from privml.repro.causes import Symptom, name_cause
from privml.repro.current import DOCUMENTS
from privml.repro.external import LOOKS, Look
from privml.repro.layers import Layer, Mismatch, Report, ordered
from privml.repro.origins import origin_key
from privml.repro.owners import Owners
from privml.repro.tree import FileTree, read_cpio, read_trees
from privml.repro.values import differing, differing_keys, where
from privml.statement import intoto
from privml.statement.predicate import Predicate

CONFIG = "etc/privml/config.json"
"""The measured configuration in the root."""
Opener = Callable[[Path, Partition], AbstractContextManager[Path]]
Surroundings = Mapping[str, tuple[tuple[str, str], ...]]
_MAX_CONFIG = 64 << 10
_NOT_COMPARED = (INPUTS_FILE, PUBLISHED)
# Symptoms in the layer of trees whose path is no path in a tree.
_NOT_PATHS = ("package", "configuration")


@dataclass
class Comparer:
    """A comparison in progress; use ``compare``."""

    sides: tuple[Path, Path]
    opener: Opener
    owners: Owners
    surroundings: Surroundings
    findings: list[Mismatch] = field(default_factory=list)
    compared: dict[Layer, int] = field(default_factory=dict)
    digests: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    encrypted: set[str] = field(default_factory=set)
    look: Look | None = None
    looks: int = 0

    def add(self, layer: Layer, place: str, what: str, a: str, b: str, *, symptom: Symptom, detail: str = "") -> None:
        """Record a difference with its cause, package and recipe line."""
        path = symptom.path if layer is Layer.TREE and symptom.field not in _NOT_PATHS else ""
        owner = self.owners.package(path) if path else "unknown"
        origin = self.origins.get(origin_key(place, owner), "")
        cause = name_cause(symptom)
        self.findings.append(
            Mismatch(layer, printable(place), what, printable(a), printable(b), cause, owner, origin, detail)
        )

    def plain(self, layer: Layer, place: str, what: str, a: str, b: str, kind: str, key: str = "") -> None:
        """Record a difference outside a tree."""
        self.add(layer, place, what, a, b, symptom=Symptom(kind, key or what))

    def count(self, layer: Layer, number: int = 1) -> None:
        """Count ``number`` compared items of a layer."""
        self.compared[layer] = self.compared.get(layer, 0) + number

    # -- files -------------------------------------------------------------------------------------------------
    def files(self) -> list[str]:
        """Artefacts by name and kind; the names that are a plain, non-empty file on both sides."""
        listed = [
            {path.name: path for path in side.iterdir() if path.name not in _NOT_COMPARED} for side in self.sides
        ]
        required = {name for side in self.sides for name in required_of(side)}
        good = []
        for name in sorted({*listed[0], *listed[1], *required}):
            kinds = [_kind(paths.get(name)) for paths in listed]
            self.count(Layer.BYTES)
            if "missing" in kinds:
                kind = "absent" if name in required else "surplus"
                self.plain(Layer.BYTES, name, "presence", kinds[0], kinds[1], kind)
            elif kinds != ["file", "file"]:
                kind = "empty" if {*kinds} <= {"file", "empty"} else "kind"
                self.plain(Layer.BYTES, name, "kind", kinds[0], kinds[1], kind)
            else:
                good.append(name)
        for name in good:
            if (self.sides[0] / name).samefile(self.sides[1] / name):
                raise UsageError(f"{name} is the same file in both directories: nothing to compare")
        with ThreadPoolExecutor(2) as pool:
            sums = list(pool.map(sha256_file, [side / name for name in good for side in self.sides]))
        self.digests = {name: (sums[2 * n], sums[2 * n + 1]) for n, name in enumerate(good)}
        return good

    def raw(self) -> None:
        """Compare the bytes of every file and the fields of documents."""
        explained = {finding.place.partition(":")[0] for finding in self.findings}
        if any(name == UKI or is_volume(name) for name in explained):
            explained.add(DISK)
        for name, (a, b) in self.digests.items():
            if a == b:
                continue
            if name in DOCUMENTS or name.endswith(".lock.json"):
                self.document(name)
                continue
            found = where(*(side / name for side in self.sides))
            kind = "follows" if name in explained else "raw"
            self.plain(Layer.BYTES, name, "bytes", f"sha256 {a}", f"sha256 {b}; {found}", kind)

    def document(self, name: str) -> None:
        """Compare the fields of two JSON documents, or their spelling if the fields are equal."""
        try:
            values = [strictjson.loads((side / name).read_bytes(), what=name) for side in self.sides]
        except PrivmlError as error:
            self.plain(Layer.BYTES, name, "reading", error.message, error.message, "unreadable")
            return
        found = differing(values[0], values[1])
        for pointer, a, b in found or [("spelling", "the same value", "in different bytes")]:
            self.plain(Layer.BYTES, f"{name}:{pointer}", "value", a, b, "document")

    # -- what is measured --------------------------------------------------------------------------------------
    def registers(self) -> None:
        """Compare the registers of both predictions, and check that each matches the files next to it."""
        found = self._both("prediction.json", lambda data: intoto.decode(data))
        if found is None:
            return
        for number, statement in enumerate(found):
            said, held = (
                statement.predicate.manifest_sha256.hex(),
                self.digests.get("manifest.json", ("", ""))[number],
            )
            if held and held != said:
                self._claim("prediction.json", number, "manifest.json", said, held)
            for subject in statement.subjects:
                held = self.digests.get(subject.name, ("", ""))[number]
                if held and held != subject.sha256.hex():
                    self._claim("prediction.json", number, subject.name, subject.sha256.hex(), held)
        tables = [_registers(statement.predicate) for statement in found]
        for name in sorted({*tables[0], *tables[1]}):
            self.count(Layer.REGISTERS)
            a, b = (table.get(name, "none") for table in tables)
            if a != b:
                self.plain(Layer.REGISTERS, f"prediction.json:{name}", "value", a, b, "register", name)

    def _claim(self, document: str, number: int, name: str, said: str, held: str) -> None:
        side = "ab"[number]
        self.plain(Layer.REGISTERS, f"{document}:{name}", f"of side {side}", f"says {said}", f"is {held}", "claim")

    def uki(self) -> None:
        """Compare the UKI's sections as measured, including the members of the initrd."""
        found = self._both("uki.efi", ukisections.contents)
        if found is None:
            return
        for name in dict.fromkeys([*found[0], *found[1]]):
            self.count(Layer.UKI)
            a, b = (sections.get(name) for sections in found)
            if a == b:
                continue
            values = ["missing" if body is None else ukisections.shown(body, name) for body in (a, b)]
            self.plain(Layer.UKI, f"uki.efi:{name}", "section", values[0], values[1], "section", name)
            if name == ".initrd" and a is not None and b is not None:
                self._initrd(a, b)

    def _initrd(self, a: bytes, b: bytes) -> None:
        before = len(self.findings)
        try:
            self.trees("uki.efi:.initrd", read_cpio(a), read_cpio(b))
            if len(self.findings) == before:
                sums = [hashlib.sha256(data).hexdigest() for data in (a, b)]
                self.plain(Layer.UKI, "uki.efi:.initrd", "layout", sums[0], sums[1], "cpio")
        except PrivmlError as error:
            self.plain(Layer.UKI, "uki.efi:.initrd", "reading", error.message, error.message, "unreadable")

    def manifests(self) -> None:
        """Compare root hashes and packages of both manifests, and check that each matches the files next to it."""
        found = self._both("manifest.json", decode_manifest)
        if found is None:
            return
        self.origins = dict(found[0].origins)
        for number, manifest in enumerate(found):
            for name, artefact in manifest.artefacts.items():
                held = self.digests.get(name, ("", ""))[number]
                if held and held != artefact.sha256:
                    self._claim("manifest.json", number, name, artefact.sha256, held)
        tables = [
            {ROOT: manifest.root} | {each.volume: each.verity for each in manifest.filled} for manifest in found
        ]
        for volume in dict.fromkeys([*tables[0], *tables[1]]):
            facts = [table[volume].to_dict() if volume in table else {} for table in tables]
            for fact in ("root_hash", "salt", "data_blocks", "hash_start"):
                self.count(Layer.ROOT_HASH)
                a, b = (str(pair.get(fact, "none")) for pair in facts)
                if a != b:
                    self.plain(Layer.ROOT_HASH, f"{volume}:{fact}", "verity", a, b, "verity", fact)
        self._crypts(found[0], found[1])
        self._packages(found[0], found[1])

    def _crypts(self, a: Manifest, b: Manifest) -> None:
        """Compare how the volumes are encrypted. Of two ciphertexts under different keys nothing can be said."""
        tables = [{each.volume: each.crypt for each in manifest.filled} for manifest in (a, b)]
        for volume in dict.fromkeys([*tables[0], *tables[1]]):
            crypts = [table.get(volume) for table in tables]
            if crypts == [None, None]:
                continue
            self.encrypted.add(volume)
            facts = [{} if crypt is None else crypt.to_dict() for crypt in crypts]
            for fact in dict.fromkeys([*facts[0], *facts[1]]):
                self.count(Layer.ROOT_HASH)
                one, two = (str(each.get(fact, "none")) for each in facts)
                if one != two:
                    self.plain(Layer.ROOT_HASH, f"{volume}:{fact}", "encryption", one, two, "encryption", fact)

    def _packages(self, a: Manifest, b: Manifest) -> None:
        tables = [{row.name: f"{row.version} {row.sha256[:16]}" for row in manifest.packages} for manifest in (a, b)]
        for name in sorted({*tables[0], *tables[1]}):
            values = [table.get(name, "not installed") for table in tables]
            if values[0] != values[1]:
                self.plain(
                    Layer.TREE, f"manifest.json:packages/{name}", "package", values[0], values[1], "package", name
                )

    # -- volumes -----------------------------------------------------------------------------------------------
    def volume(self, name: str) -> None:
        """Compare a disk image: partition table, superblocks, and the tree if the bytes differ."""
        found = self._both_paths(name, gpt.read)
        if found is None:
            return
        self._facts(Layer.PARTITIONS, name, "gpt", *(disk.gpt_facts(table) for table in found))
        tables = [{part.name: part for part in table.partitions} for table in found]
        for label in dict.fromkeys([*tables[0], *tables[1]]):
            parts = [table.get(label) for table in tables]
            if parts[0] is None or parts[1] is None:
                continue  # the facts of the partition table have reported it
            self._partition(name, label, (parts[0], parts[1]))

    def boot_disk(self) -> None:
        """Compare the table of the disk that an image boots from; its parts are compared where they come from."""
        found = self._both_paths(DISK, gpt.read)
        if found is not None:
            self._facts(Layer.PARTITIONS, DISK, "gpt", *(disk.gpt_facts(table) for table in found))

    def _partition(self, name: str, label: str, parts: tuple[Partition, Partition]) -> None:
        paths = [side / name for side in self.sides]
        place = f"{name}:{label}"
        # A ciphertext has no file system to describe, whatever its bytes look like.
        readable = () if name in self.encrypted else zip(paths, parts, strict=True)
        erofs = [disk.erofs_facts(path, part) for path, part in readable] or [{}, {}]
        verity = [disk.verity_facts(path, part) for path, part in zip(paths, parts, strict=True)]
        self._facts(Layer.PARTITIONS, place, "erofs", *erofs)
        self._facts(Layer.ROOT_HASH, place, "verity", *verity)
        if verity[0] or verity[1]:
            return
        if self.digests[name][0] == self.digests[name][1]:
            sums = [self.digests[name][0]] * 2  # the disks are equal, so the partitions are too
        else:
            with ThreadPoolExecutor(2) as pool:
                sums = list(pool.map(disk.digest_of, paths, parts))
        if sums[0] == sums[1]:
            self.count(Layer.TREE)
            self.notes.append(f"{place}: byte-identical, so the trees are identical")
            return
        if name in self.encrypted:
            self.plain(Layer.PARTITIONS, place, "ciphertext", sums[0], sums[1], "ciphertext")
            return
        before = len(self.findings)
        try:
            with self.opener(paths[0], parts[0]) as one, self.opener(paths[1], parts[1]) as two:
                self.trees(name, *read_trees(one, two))
        except PrivmlError as error:
            # The difference is already recorded; being unable to locate it in a file is not an error.
            self.plain(Layer.TREE, place, "reading", sums[0], f"{sums[1]}; {error.message}", "unreadable")
        if len(self.findings) == before and erofs[0] == erofs[1]:
            self.plain(Layer.PARTITIONS, place, "layout", sums[0], sums[1], "erofs")

    def _facts(self, layer: Layer, place: str, kind: str, a: Mapping[str, str], b: Mapping[str, str]) -> None:
        for fact in dict.fromkeys([*a, *b]):
            self.count(layer)
            one, two = a.get(fact, "none"), b.get(fact, "none")
            if one != two:
                self.plain(layer, f"{place}:{fact}", kind, one, two, kind, fact)

    def trees(self, name: str, a: FileTree, b: FileTree) -> None:
        """Compare two trees by path and field."""
        paths = sorted({*a.entries, *b.entries})
        self.count(Layer.TREE, len(paths))
        for path in paths:
            one, two = a.entries.get(path), b.entries.get(path)
            place = f"{name}:/{path.removeprefix('.')}" if path == "." else f"{name}:/{path}"
            if one is None or two is None:
                values = ["missing" if entry is None else entry.type for entry in (one, two)]
                self.add(Layer.TREE, place, "presence", *values, symptom=Symptom("presence", path, one, two))
                continue
            for what in one.differing(two):
                data = (a.read(path), b.read(path)) if what == "content" else (None, None)
                symptom = Symptom(what, path, one, two, *data, self.surroundings)
                detail = self._looked(a, b, path) if what == "content" and one.type == "file" else ""
                self.add(Layer.TREE, place, what, one.shown(what), two.shown(what), symptom=symptom, detail=detail)
                if what == "content" and (name, path) == (ROOT, CONFIG):
                    self._configuration(place, *data)

    def _configuration(self, place: str, a: bytes | None, b: bytes | None) -> None:
        """Compare the measured configuration key by key; a malformed one differs only as a file."""
        try:
            values = [strictjson.loads(data or b"", what=CONFIG, limit=_MAX_CONFIG) for data in (a, b)]
        except PrivmlError:
            return
        for key, one, two in differing_keys(values[0], values[1]):
            self.plain(Layer.TREE, f"{place}:{key}", "key", one, two, "configuration", key)

    def _looked(self, a: FileTree, b: FileTree, path: str) -> str:
        if self.look is None or self.looks >= LOOKS:
            return ""
        self.looks += 1
        with a.file(path) as one, b.file(path) as two:
            return self.look(one, two)

    def nothing(self) -> None:
        """Report layers in which nothing was compared, since their equality proves nothing."""
        for layer in Layer if not self.findings else ():
            if not self.compared.get(layer):
                self.plain(layer, layer.title, "number", "0", "0", "nothing")

    # -- reading both sides ------------------------------------------------------------------------------------
    def _both(self, name: str, read: Callable[[bytes], Any]) -> tuple[Any, Any] | None:
        return self._both_paths(name, lambda path: read(path.read_bytes()))

    def _both_paths(self, name: str, read: Callable[[Path], Any]) -> tuple[Any, Any] | None:
        if name not in self.digests:
            return None  # its absence is already reported
        found, problems = [], ["readable", "readable"]
        for number, side in enumerate(self.sides):
            try:
                found.append(read(side / name))
            except PrivmlError as error:
                problems[number] = error.message
        if len(found) != 2:
            self.plain(Layer.BYTES, name, "reading", problems[0], problems[1], "unreadable")
            return None
        return found[0], found[1]


def compare(
    a: Path,
    b: Path,
    *,
    opener: Opener,
    owners: Owners | None = None,
    surroundings: Surroundings | None = None,
    look: Look | None = None,
) -> Report:
    """Compare the outputs in ``a`` and ``b``; ``opener`` extracts an erofs partition into a directory.

    ``look`` describes the first differing files in more detail.
    """
    for side in (a, b):
        if not side.is_dir():
            raise UsageError(f"{side} is not a directory")
    if a.samefile(b):
        raise UsageError(f"{a} and {b} are the same directory: nothing to compare")
    work = Comparer((a, b), opener, owners or Owners(), surroundings or {}, look=look)
    names = work.files()
    work.manifests()
    work.registers()
    work.uki()
    for name in names:
        if is_volume(name):
            work.volume(name)
    work.boot_disk()
    work.raw()
    work.nothing()
    return Report(ordered(work.findings), work.compared, work.digests, tuple(work.notes))


def required_of(directory: Path) -> tuple[str, ...]:
    """The required files of an output: the artefacts of its manifest, or all files if there is none."""
    try:
        artefacts = tuple(decode_manifest((directory / "manifest.json").read_bytes()).artefacts)
    except (PrivmlError, OSError):
        artefacts = (UKI, ROOT, volumes.MODEL.file(0), FIRMWARE[tees.BUILT[0]])
    return (*artefacts, *DOCUMENTS)


def _kind(path: Path | None) -> str:
    if path is None:
        return "missing"
    if path.is_symlink():
        return "link"
    if not path.is_file():
        return "directory" if path.is_dir() else "special"
    return "file" if path.stat().st_size else "empty"


def _registers(predicate: Predicate) -> dict[str, str]:
    return {
        f"{launch.label}, {register}": " ".join(value.hex() for value in launch.accepted(register)) or "not pinned"
        for launch in predicate.launches
        for register in launch.registers
    }
