"""List what changed between two images or locks in terms of the recipe, and which registers move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from privml.lock.archiverecord import Archive
from privml.lock.changes import keys_of, states_of
from privml.lock.modelrecord import Model as LockedModel
from privml.lock.modelrecord import ModelFile
from privml.lock.models import Lock, Package, ToolsLock, Tree, Wheel
from privml.output.artefacts import ROOT, is_volume
from privml.output.manifest import Manifest
from privml.recipe import section
from privml.recipe.distributions import Kernel
from privml.repro.causes import FOLLOWS
from privml.repro.layers import Layer, Mismatch, Report


def _lower(registers: Iterable[str]) -> tuple[str, ...]:
    return tuple(register.lower() for register in registers)


_BY_UKI, _BY_CONFIG, _ALL = _lower(section.ROOT), _lower(section.CONFIG), _lower(section.ALL)
_BY_FIRMWARE = _lower(section.FIRMWARE)
MOVES: dict[str, tuple[str, ...]] = {
    "package": _BY_UKI,
    "file": _BY_UKI,
    "initrd file": _BY_UKI,
    "kernel option": _BY_UKI,
    "UKI section": _BY_UKI,
    "root hash": _BY_UKI,
    "model": _BY_CONFIG,
    "measured configuration": _BY_CONFIG,
    "firmware": _BY_FIRMWARE,
    # Files that are not measured, or measured only through other listed changes.
    "output": (),
    # Only in locks.
    "kernel package": _BY_UKI,
    "firmware package": _BY_FIRMWARE,
    # Only the models in a wheel get into the image.
    "wheel": (),
    "agent file": _BY_UKI,
    "guest file": _BY_UKI,
    "times": _BY_CONFIG,
    "use of RTMR3": _BY_CONFIG,
    "archive": (),
    "keys of archive": (),
    "tool": _ALL,
    "tools": _ALL,
    "recipe": _ALL,
}
# Different tools can change anything, and a change of the recipe can be significant or only a comment.
PERHAPS = frozenset({"tool", "tools", "recipe"})


@dataclass(frozen=True)
class Change:
    """One change: kind, name, old value and new value."""

    kind: str
    name: str
    before: str
    after: str

    @property
    def moves(self) -> tuple[str, ...]:
        """The registers that a change of this kind moves."""
        return MOVES[self.kind]

    @property
    def certain(self) -> bool:
        """False if it depends on the change whether the registers move."""
        return self.kind not in PERHAPS

    def text(self) -> str:
        """One line of text."""
        verb = "moves" if self.certain else "may move"
        return f"{self.kind} {self.name}: {self.before} -> {self.after} [{verb} {', '.join(self.moves) or 'nothing'}]"

    def to_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "kind": self.kind,
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "moves": list(self.moves),
            "certain": self.certain,
        }


def changes(a: Manifest, b: Manifest, report: Report) -> tuple[Change, ...]:
    """All changes from ``a`` to ``b``; ``report`` is the comparison of their directories."""
    found = [*_packages(a, b), *_options(a, b)]
    for finding in report.findings:
        if finding.layer is Layer.TREE and not finding.place.startswith("manifest.json:"):
            found.append(_file(finding))
        elif finding.layer is Layer.UKI and finding.place != "uki.efi:.cmdline":
            found.append(Change("UKI section", finding.place.partition(":")[2], finding.a, finding.b))
        elif finding.layer is not Layer.TREE and finding.cause.id not in FOLLOWS and finding.field != "verity":
            found.append(_of_output(finding))
    facts = (
        ("root hash", "root.raw", a.root.root_hash.hex(), b.root.root_hash.hex()),
        *_models(a, b),
        ("measured configuration", "config.json", a.config_sha256, b.config_sha256),
        *_firmware(a, b),
    )
    found += [Change(kind, name, before, after) for kind, name, before, after in facts if before != after]
    # Consequences whose cause is not listed are listed themselves.
    return tuple(found or (_of_output(finding) for finding in report.findings))


def moved(report: Report) -> tuple[str, ...] | None:
    """The registers whose predictions differ on a machine that both predict; None if there is no such machine."""
    findings = [finding for finding in report.findings if finding.cause.fields == ("register",)]
    common = [finding for finding in findings if "none" not in (finding.a, finding.b)]
    if report.compared.get(Layer.REGISTERS, 0) == len(findings) - len(common):
        return None
    return tuple(sorted({finding.place.rpartition(", ")[2] for finding in common}))


def _models(a: Manifest, b: Manifest) -> Iterable[tuple[str, str, str, str]]:
    """Each model volume by its position, with the name and the root hash of both sides."""
    for one, two in zip_longest(a.models, b.models):
        named = two or one
        before, after = ("absent" if model is None else model.verity.root_hash.hex() for model in (one, two))
        yield "model", named.name, before, after


def _firmware(a: Manifest, b: Manifest) -> Iterable[tuple[str, str, str, str]]:
    """The firmware's file for each TEE of either image, with both digests."""
    for name in sorted({one.file for each in (a, b) for one in each.firmware.values()}):
        before, after = (each.artefacts[name].sha256 if name in each.artefacts else "absent" for each in (a, b))
        yield "firmware", name, before, after


def lock_changes(a: Lock | ToolsLock, b: Lock | ToolsLock) -> tuple[Change, ...]:
    """All changes from lock ``a`` to lock ``b``, which have the same type."""
    found = list(_archives(states_of(a), states_of(b)))
    if isinstance(a, ToolsLock) or isinstance(b, ToolsLock):
        return (*found, *_inputs("tool", a.packages, b.packages))
    found += _inputs("package", a.packages, b.packages, [lock.base.record.distribution.kernel for lock in (a, b)])
    found += _inputs("firmware package", a.firmware_debs, b.firmware_debs)
    found += _inputs("wheel", a.python, b.python)
    found += _locked_models(a.models, b.models)
    found += [*_files("agent file", a.agent, b.agent), *_files("guest file", a.guest, b.guest)]
    found += _files("recipe file", *(lock.files or Tree.of([]) for lock in (a, b)))
    facts = (
        ("programs", "of the recipe", *(" ".join(lock.programs) or "none" for lock in (a, b))),
        ("kernel options", "of the recipe", *(" ".join(lock.kernel_options) or "none" for lock in (a, b))),
        ("times", "source_date_epoch", str(a.source_date_epoch), str(b.source_date_epoch)),
        ("use of RTMR3", "by the kernel", a.rtmr3, b.rtmr3),
        ("tools", "tools.lock.json", a.tools_sha256, b.tools_sha256),
        ("recipe", "sha256", a.recipe_sha256, b.recipe_sha256),
    )
    return (*found, *(Change(*fact) for fact in facts if fact[2] != fact[3]))


def registers_moved(found: Iterable[Change]) -> tuple[list[str], list[str]]:
    """The registers that changes of a lock move for certain, and those that may move."""
    found = list(found)
    certain = {register for change in found if change.certain for register in change.moves}
    possible = {register for change in found if not change.certain for register in change.moves}
    return sorted(certain), sorted(possible - certain)


def _archives(a: Sequence[Archive], b: Sequence[Archive]) -> Iterable[Change]:
    tables = [{f"{one.label}/{one.suite}": one for one in archives} for archives in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if one != two:
            yield Change("archive", name, *("not used" if each is None else each.date for each in (one, two)))
            keys = [" ".join(keys_of(each)) if each else "" for each in (one, two)]
            if keys[0] != keys[1]:
                yield Change("keys of archive", name, *(each or "none" for each in keys))


def _inputs(
    kind: str, a: Sequence[Package | Wheel], b: Sequence[Package | Wheel], kernels: Sequence[Kernel] = ()
) -> Iterable[Change]:
    tables = [{one.name: one for one in inputs} for inputs in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if (one and one.sha256) == (two and two.sha256):
            continue
        before, after = ("not locked" if each is None else each.version for each in (one, two))
        what = "kernel package" if any(kernel.is_kernel(name) for kernel in kernels) else kind
        yield Change(what, name, before, f"{after}, different bytes" if before == after else after)


def _locked_models(a: Sequence[LockedModel], b: Sequence[LockedModel]) -> Iterable[Change]:
    tables = [{model.name: model.files for model in models} for models in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if one != two:
            yield Change("model", name, *("not locked" if each is None else _named(each) for each in (one, two)))


def _named(files: Sequence[ModelFile]) -> str:
    return ", ".join(f"{file.path} {file.sha256[:16]}.." for file in files)


def _files(kind: str, a: Tree, b: Tree) -> Iterable[Change]:
    tables = [{file.path: file for file in tree.files} for tree in (a, b)]
    for path in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(path) for table in tables)
        if one != two:
            yield Change(
                kind,
                path,
                *("absent" if each is None else f"{each.kind} {each.sha256[:16]}.." for each in (one, two)),
            )


def _packages(a: Manifest, b: Manifest) -> Iterable[Change]:
    tables = [{row.name: (row.version, row.sha256) for row in manifest.packages} for manifest in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if one != two:
            before, after = ("not installed" if row is None else row[0] for row in (one, two))
            if before == after:
                after = f"{after}, different bytes"
            yield Change("package", name, before, after)


def _options(a: Manifest, b: Manifest) -> Iterable[Change]:
    words = [manifest.cmdline.split() for manifest in (a, b)]
    tables = [{word.partition("=")[0]: word for word in row} for row in words]
    for key in sorted({*tables[0], *tables[1]}):
        before, after = (table.get(key, "absent") for table in tables)
        if before != after:
            yield Change("kernel option", key, before, after)
    if words[0] != words[1] and sorted(words[0]) == sorted(words[1]):
        yield Change("kernel option", "order", "the same words", "in a different order")


def _of_output(finding: Mismatch) -> Change:
    return Change("output", f"{finding.place} {finding.field}", finding.a, finding.b)


def _file(finding: Mismatch) -> Change:
    kind = "initrd file" if finding.place.startswith("uki.efi:") else "file"
    volume = finding.place.partition(":")[0]
    if is_volume(volume) and volume != ROOT:
        kind = "model"
    owner = f" ({finding.package})" if finding.package != "unknown" else ""
    name = finding.place.partition(":")[2].removeprefix(".initrd:")
    return Change(kind, f"{name}{owner} {finding.field}", finding.a, finding.b)
