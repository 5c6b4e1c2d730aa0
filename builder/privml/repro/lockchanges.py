"""List what changed between two locks, and which registers that moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from privml.lock.archiverecord import AddedArchive, Archive
from privml.lock.changes import keys_of, states_of
from privml.lock.modelrecord import Data, ModelFile
from privml.lock.modelrecord import Model as LockedModel
from privml.lock.models import Lock, Package, ToolsLock, Tree, VendorFile, Wheel
from privml.recipe.distributions import Kernel
from privml.repro.change import Change, limited

_Named = Package | Wheel | VendorFile


def lock_changes(a: Lock | ToolsLock, b: Lock | ToolsLock) -> tuple[Change, ...]:
    """All changes from lock ``a`` to lock ``b``, which have the same type."""
    found = list(_archives(states_of(a), states_of(b)))
    if isinstance(a, ToolsLock) or isinstance(b, ToolsLock):
        return (*found, *_inputs("tool", a.packages, b.packages))
    found += _inputs("package", a.packages, b.packages, [lock.base.record.distribution.kernel for lock in (a, b)])
    tees = sorted({*a.firmware, *b.firmware})
    for tee in tees:
        one, two = (lock.firmware[tee].packages if tee in lock.firmware else () for lock in (a, b))
        found += limited(_inputs("firmware package", one, two), [tee])
    found += _inputs("driver package", a.driver_files, b.driver_files)
    found += _inputs("compiler package", a.compiler_debs, b.compiler_debs)
    found += _inputs("wheel", a.python, b.python)
    found += _inputs("Python wheel", a.imported, b.imported)
    found += _locked_models(a.models, b.models)
    found += _locked_data(a.data, b.data)
    found += [*_files("agent file", a.agent, b.agent), *_files("guest file", a.guest, b.guest)]
    found += _files("recipe file", *(lock.files or Tree.of([]) for lock in (a, b)))
    found += _words("program", a.programs, b.programs)
    found += _words("kernel option", a.kernel_options, b.kernel_options)
    facts = (
        ("times", "source_date_epoch", str(a.source_date_epoch), str(b.source_date_epoch)),
        ("use of RTMR3", "by the kernel", a.rtmr3, b.rtmr3),
        ("tools", "tools.lock.json", a.tools_sha256, b.tools_sha256),
        ("recipe", "sha256", a.recipe_sha256, b.recipe_sha256),
    )
    return tuple(limited([*found, *(Change(*fact) for fact in facts if fact[2] != fact[3])], tees))


def _archives(a: Sequence[Archive], b: Sequence[Archive]) -> Iterable[Change]:
    tables = [{f"{one.label}/{one.suite}": one for one in archives} for archives in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        before, after = map(_state, (one, two))
        if (one and one.inrelease_sha256) != (two and two.inrelease_sha256):
            after = _other(before, after, "InRelease")
        rows = {"archive": (before, after)}
        facts = [_added(each) for each in (one, two)]
        rows |= {kind: (facts[0].get(kind, "none"), facts[1].get(kind, "none")) for kind in facts[0] | facts[1]}
        yield from (Change(kind, name, *values) for kind, values in rows.items() if values[0] != values[1])


def _other(before: str, after: str, what: str) -> str:
    """``after``; it says that ``what`` differs if it reads like ``before``."""
    return f"{after}, different {what}" if before == after else after


def _state(archive: Archive | None) -> str:
    expired = ", accepted although expired" if archive and archive.expired else ""
    return f"{archive.date}{expired}" if archive else "not used"


def _added(archive: Archive | None) -> dict[str, str]:
    """What the lock has of an archive that the recipe adds, by kinds of changes."""
    if not isinstance(archive, AddedArchive):
        return {}
    return {
        "components of archive": " ".join(archive.components),
        "keyring of archive": f"{archive.keyring_sha256[:16]}..",
        "keys of archive": " ".join(keys_of(archive)),
    }


def _inputs(kind: str, a: Sequence[_Named], b: Sequence[_Named], kernels: Sequence[Kernel] = ()) -> Iterable[Change]:
    tables = [{one.name: one for one in inputs} for inputs in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if (one and one.sha256) == (two and two.sha256):
            continue
        before, after = ("not locked" if each is None else each.version for each in (one, two))
        what = "kernel package" if any(kernel.is_kernel(name) for kernel in kernels) else kind
        yield Change(what, name, before, _other(before, after, "bytes"))


def _locked_models(a: Sequence[LockedModel], b: Sequence[LockedModel]) -> Iterable[Change]:
    tables = [{model.name: model.content for model in models} for models in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if one != two:
            before, after = ("not locked" if each is None else _named(each) for each in (one, two))
            yield Change("model", name, before, after)
    signatures = [{model.name: model.signature for model in models} for models in (a, b)]
    for name in sorted({*signatures[0], *signatures[1]}):
        was, now = (table.get(name) for table in signatures)
        if was != now:
            before, after = ("not signed" if each is None else f"by {each}" for each in (was, now))
            yield Change("model signature", name, before, _other(before, after, "signature"))


def _locked_data(a: Sequence[Data], b: Sequence[Data]) -> Iterable[Change]:
    tables = [{data.name: data.files for data in each} for each in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(name) for table in tables)
        if one != two:
            before, after = ("not locked" if each is None else f"{len(each)} files" for each in (one, two))
            yield Change("data", name, before, _other(before, after, "bytes"))


def _named(files: Sequence[ModelFile]) -> str:
    return ", ".join(f"{file.path} {file.sha256[:16]}.." for file in files)


def _files(kind: str, a: Tree, b: Tree) -> Iterable[Change]:
    tables = [{file.path: file for file in tree.files} for tree in (a, b)]
    for path in sorted({*tables[0], *tables[1]}):
        one, two = (table.get(path) for table in tables)
        if one != two:
            before, after = ("absent" if each is None else f"{each.kind} {each.sha256[:16]}.." for each in (one, two))
            yield Change(kind, path, before, after)


def _words(kind: str, a: Sequence[str], b: Sequence[str]) -> Iterable[Change]:
    """Words that only one side has; another order of the same words is a change too, since it is measured."""
    tables = [{word.partition("=")[0]: word for word in words} for words in (a, b)]
    for name in sorted({*tables[0], *tables[1]}):
        before, after = (table.get(name, "absent") for table in tables)
        if before != after:
            yield Change(kind, name, before, after)
    if a != b and sorted(a) == sorted(b):
        yield Change(kind, "order", "the same words", "in a different order")
