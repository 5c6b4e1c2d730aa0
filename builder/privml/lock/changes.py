"""Describe the changes between two locks as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from privml.lock.archiverecord import AddedArchive, Archive
from privml.lock.modelrecord import Data, Model
from privml.lock.models import Lock, Package, ToolsLock, Tree, VendorFile, Wheel

_Named = Package | Wheel | VendorFile


def changes(old: Lock | ToolsLock | None, new: Lock | ToolsLock) -> list[str]:
    """One line for each package, archive, wheel or file that was added, removed or changed."""
    lines = archive_changes(states_of(old) if old else (), states_of(new))
    lines += package_changes("package", old.packages if old else (), new.packages)
    if isinstance(new, Lock):
        before = old if isinstance(old, Lock) else None
        lines += package_changes("firmware", before.firmware_debs if before else (), new.firmware_debs)
        lines += package_changes("driver", before.driver_files if before else (), new.driver_files)
        lines += package_changes("compiler", before.compiler_debs if before else (), new.compiler_debs)
        lines += package_changes("wheel", before.python if before else (), new.python)
        lines += package_changes("Python wheel", before.imported if before else (), new.imported)
        lines += model_changes(before.models if before else (), new.models)
        lines += data_changes(before.data if before else (), new.data)
        lines += tree_changes("agent", before.agent if before else None, new.agent)
        lines += tree_changes("guest", before.guest if before else None, new.guest)
        lines += tree_changes("file", (before and before.files) or Tree.of([]), new.files or Tree.of([]))
        if before and before.programs != new.programs:
            lines.append(f"programs: {' '.join(new.programs) or 'none'}")
        if before and before.kernel_options != new.kernel_options:
            lines.append(f"kernel options: {' '.join(new.kernel_options) or 'none'}")
        if before and before.tools_sha256 != new.tools_sha256:
            lines.append("tools: the tools lock changed")
        if before and before.recipe_sha256 != new.recipe_sha256:
            lines.append("recipe: changed")
    return lines


def states_of(lock: Lock | ToolsLock) -> tuple[Archive, ...]:
    """The signed states of all archives of a lock."""
    return lock.states if isinstance(lock, Lock) else lock.archives


def archive_changes(old: Sequence[Archive], new: Sequence[Archive]) -> list[str]:
    """Suites whose signed state or keyring changed."""
    before = {(archive.label, archive.suite): archive for archive in old}
    lines = []
    for archive in new:
        known = before.pop((archive.label, archive.suite), None)
        if known is None or known.inrelease_sha256 != archive.inrelease_sha256:
            was = f"{known.date} -> " if known else ""
            expired = ", accepted although expired" if archive.expired else ""
            lines.append(f"archive {archive.label}/{archive.suite}: {was}{archive.date}{expired}")
        if keys_of(archive) != (keys_of(known) if known else ()):
            lines.append(f"archive {archive.label}/{archive.suite}: keys: {' '.join(keys_of(archive))}")
    return lines + [f"archive {label}/{suite}: no longer used" for label, suite in before]


def keys_of(archive: Archive) -> tuple[str, ...]:
    """The fingerprints of an added archive's keys; empty for one of the base."""
    return archive.fingerprints if isinstance(archive, AddedArchive) else ()


def package_changes(what: str, old: Iterable[_Named], new: Iterable[_Named]) -> list[str]:
    """Packages by name: added, removed, with a different version, or different bytes under the same version."""
    before = {package.name: package for package in old}
    after = {package.name: package for package in new}
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was is None:
            lines.append(f"{what} + {now}")
        elif now is None:
            lines.append(f"{what} - {was}")
        elif was.version != now.version:
            lines.append(f"{what} {name} {was.version} -> {now.version}")
        elif was.sha256 != now.sha256:
            lines.append(f"{what} {now}: different bytes under the same version: {was.sha256} -> {now.sha256}")
    return lines


def model_changes(old: Iterable[Model], new: Iterable[Model]) -> list[str]:
    """Models by name: added, removed, with different files, or signed by someone else."""
    old, new = tuple(old), tuple(new)
    before = {model.name: model.content for model in old}
    after = {model.name: model.content for model in new}
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was != now:
            sign = "+ " if was is None else "- " if now is None else ""
            paths = ", ".join(file.path for file in now or was or ())
            lines.append(f"model {sign}{name}: {paths}" + (" changed" if was and now else ""))
    signers = {model.name: model.signature for model in old}
    for model in new:
        if model.signature != signers.get(model.name):
            by = f"signed by {model.signature}" if model.signature else "not signed"
            lines.append(f"model {model.name}: {by}")
    return lines


def data_changes(old: Iterable[Data], new: Iterable[Data]) -> list[str]:
    """Data by name: added, removed, or with different files."""
    before, after = ({data.name: data.files for data in each} for each in (old, new))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was != now:
            sign = "+ " if was is None else "- " if now is None else ""
            count = len(now or was or ())
            files = f"{count} file{'' if count == 1 else 's'}"
            lines.append(f"data {sign}{name}: {files}" + (" changed" if was and now else ""))
    return lines


def tree_changes(what: str, old: Tree | None, new: Tree) -> list[str]:
    """Files of a source tree."""
    if old is None:
        return [f"{what}: {len(new.files)} files"]
    before = {file.path: file for file in old.files}
    after = {file.path: file for file in new.files}
    lines = []
    for path in sorted(before.keys() | after.keys()):
        was, now = before.get(path), after.get(path)
        if was != now:
            sign = "+ " if was is None else "- " if now is None else ""
            lines.append(f"{what} {sign}{path}" + (" changed" if was and now else ""))
    return lines
