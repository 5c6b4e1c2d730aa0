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
from privml.base.errors import PrivmlError, UsageError
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
from privml.repro.current import DOCUMENTS
from privml.repro.external import Look
from privml.repro.findings import Findings
from privml.repro.layers import Layer, Report
from privml.repro.owners import Owners
from privml.repro.tree import read_cpio, read_trees
from privml.repro.treecomparison import Surroundings, TreeComparer
from privml.repro.values import differing, where
from privml.statement import intoto
from privml.statement.predicate import Predicate

Opener = Callable[[Path, Partition], AbstractContextManager[Path]]
_NOT_COMPARED = (INPUTS_FILE, PUBLISHED)


@dataclass
class Comparer:
    """A comparison in progress; use ``compare``."""

    sides: tuple[Path, Path]
    opener: Opener
    findings: Findings
    trees: TreeComparer
    digests: dict[str, tuple[str, str]] = field(default_factory=dict)
    encrypted: set[str] = field(default_factory=set)

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
            self.findings.count(Layer.BYTES)
            if "missing" in kinds:
                kind = "absent" if name in required else "surplus"
                self.findings.plain(Layer.BYTES, name, "presence", kinds[0], kinds[1], kind)
            elif kinds != ["file", "file"]:
                kind = "empty" if {*kinds} <= {"file", "empty"} else "kind"
                self.findings.plain(Layer.BYTES, name, "kind", kinds[0], kinds[1], kind)
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
        explained = {finding.place.partition(":")[0] for finding in self.findings.mismatches}
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
            self.findings.plain(Layer.BYTES, name, "bytes", f"sha256 {a}", f"sha256 {b}; {found}", kind)

    def document(self, name: str) -> None:
        """Compare the fields of two JSON documents, or their spelling if the fields are equal."""
        try:
            values = [strictjson.loads((side / name).read_bytes(), what=name) for side in self.sides]
        except PrivmlError as error:
            self.findings.plain(Layer.BYTES, name, "reading", error.message, error.message, "unreadable")
            return
        found = differing(values[0], values[1])
        for pointer, a, b in found or [("spelling", "the same value", "in different bytes")]:
            self.findings.plain(Layer.BYTES, f"{name}:{pointer}", "value", a, b, "document")

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
            self.findings.count(Layer.REGISTERS)
            a, b = (table.get(name, "none") for table in tables)
            if a != b:
                self.findings.plain(Layer.REGISTERS, f"prediction.json:{name}", "value", a, b, "register", name)

    def _claim(self, document: str, number: int, name: str, said: str, held: str) -> None:
        side = "ab"[number]
        self.findings.plain(
            Layer.REGISTERS, f"{document}:{name}", f"of side {side}", f"says {said}", f"is {held}", "claim"
        )

    def uki(self) -> None:
        """Compare the UKI's sections as measured, including the members of the initrd."""
        found = self._both("uki.efi", ukisections.contents)
        if found is None:
            return
        for name in dict.fromkeys([*found[0], *found[1]]):
            self.findings.count(Layer.UKI)
            a, b = (sections.get(name) for sections in found)
            if a == b:
                continue
            values = ["missing" if body is None else ukisections.shown(body, name) for body in (a, b)]
            self.findings.plain(Layer.UKI, f"uki.efi:{name}", "section", values[0], values[1], "section", name)
            if name == ".initrd" and a is not None and b is not None:
                self._initrd(a, b)

    def _initrd(self, a: bytes, b: bytes) -> None:
        before = len(self.findings.mismatches)
        try:
            self.trees.compare("uki.efi:.initrd", read_cpio(a), read_cpio(b))
            if len(self.findings.mismatches) == before:
                sums = [hashlib.sha256(data).hexdigest() for data in (a, b)]
                self.findings.plain(Layer.UKI, "uki.efi:.initrd", "layout", sums[0], sums[1], "cpio")
        except PrivmlError as error:
            self.findings.plain(Layer.UKI, "uki.efi:.initrd", "reading", error.message, error.message, "unreadable")

    def manifests(self) -> None:
        """Compare root hashes and packages of both manifests, and check that each matches the files next to it."""
        found = self._both("manifest.json", decode_manifest)
        if found is None:
            return
        self.findings.origins = dict(found[0].origins)
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
                self.findings.count(Layer.ROOT_HASH)
                a, b = (str(pair.get(fact, "none")) for pair in facts)
                if a != b:
                    self.findings.plain(Layer.ROOT_HASH, f"{volume}:{fact}", "verity", a, b, "verity", fact)
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
                self.findings.count(Layer.ROOT_HASH)
                one, two = (str(each.get(fact, "none")) for each in facts)
                if one != two:
                    self.findings.plain(
                        Layer.ROOT_HASH, f"{volume}:{fact}", "encryption", one, two, "encryption", fact
                    )

    def _packages(self, a: Manifest, b: Manifest) -> None:
        tables = [{row.name: f"{row.version} {row.sha256[:16]}" for row in manifest.packages} for manifest in (a, b)]
        for name in sorted({*tables[0], *tables[1]}):
            values = [table.get(name, "not installed") for table in tables]
            if values[0] != values[1]:
                self.findings.plain(
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
            self.findings.count(Layer.TREE)
            self.findings.notes.append(f"{place}: byte-identical, so the trees are identical")
            return
        if name in self.encrypted:
            self.findings.plain(Layer.PARTITIONS, place, "ciphertext", sums[0], sums[1], "ciphertext")
            return
        before = len(self.findings.mismatches)
        try:
            with self.opener(paths[0], parts[0]) as one, self.opener(paths[1], parts[1]) as two:
                self.trees.compare(name, *read_trees(one, two))
        except PrivmlError as error:
            # The difference is already recorded; being unable to locate it in a file is not an error.
            self.findings.plain(Layer.TREE, place, "reading", sums[0], f"{sums[1]}; {error.message}", "unreadable")
        if len(self.findings.mismatches) == before and erofs[0] == erofs[1]:
            self.findings.plain(Layer.PARTITIONS, place, "layout", sums[0], sums[1], "erofs")

    def _facts(self, layer: Layer, place: str, kind: str, a: Mapping[str, str], b: Mapping[str, str]) -> None:
        for fact in dict.fromkeys([*a, *b]):
            self.findings.count(layer)
            one, two = a.get(fact, "none"), b.get(fact, "none")
            if one != two:
                self.findings.plain(layer, f"{place}:{fact}", kind, one, two, kind, fact)

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
            self.findings.plain(Layer.BYTES, name, "reading", problems[0], problems[1], "unreadable")
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
    findings = Findings(owners or Owners())
    work = Comparer((a, b), opener, findings, TreeComparer(findings, surroundings or {}, look))
    names = work.files()
    work.manifests()
    work.registers()
    work.uki()
    for name in names:
        if is_volume(name):
            work.volume(name)
    work.boot_disk()
    work.raw()
    findings.nothing()
    return findings.report(work.digests)


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
