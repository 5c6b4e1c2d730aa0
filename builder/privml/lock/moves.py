"""Predict which registers a change of a lock moves, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from privml.events.registers import REGISTERS, shown
from privml.lock.models import Lock, Package, ToolsLock, VendorFile
from privml.recipe.section import ALL, CONFIG, FIRMWARE, ROOT

_Note = Callable[[Iterable[str], str], None]


def moves(old: Lock | ToolsLock | None, new: Lock | ToolsLock) -> list[str]:
    """One line for each register that moves or may move, with the reasons.

    "moves" follows from where the part is measured. "may move" is for changes without such a bound: different tools
    can change any output, and a change of the recipe can be significant or only a comment.
    """
    if old is None or type(old) is not type(new):
        return []
    surely: dict[str, list[str]] = {register: [] for register in ALL}
    perhaps: dict[str, list[str]] = {register: [] for register in ALL}

    def note(where: dict[str, list[str]], registers: Iterable[str], reason: str) -> None:
        for register in registers:
            where[register].append(reason)

    if isinstance(new, ToolsLock) or isinstance(old, ToolsLock):
        if old.packages != new.packages:
            note(perhaps, ALL, "other tools")
    else:
        _of_locks(old, new, lambda registers, reason: note(surely, registers, reason))
        if old.tools_sha256 != new.tools_sha256:
            note(perhaps, ALL, "other tools")
        if old.recipe_sha256 != new.recipe_sha256:
            note(perhaps, ALL, "the recipe")
    lines = []
    for register in registers_of(new):
        if surely[register]:
            lines.append(f"{register} moves: {', '.join(surely[register])}")
        elif perhaps[register]:
            lines.append(f"{register} may move: {', '.join(perhaps[register])}")
    return lines


def registers_of(lock: Lock | ToolsLock) -> tuple[str, ...]:
    """The registers of the TEEs that the image is for; tools make images for any."""
    if isinstance(lock, ToolsLock):
        return ALL
    return tuple(register for tee in REGISTERS if tee in lock.firmware for register in shown(*REGISTERS[tee]))


def _of_locks(old: Lock, new: Lock, note: _Note) -> None:
    for tee in sorted({*old.firmware, *new.firmware}):
        one, two = (lock.firmware[tee].packages if tee in lock.firmware else () for lock in (old, new))
        if _bytes(one) != _bytes(two):
            note((register for register in FIRMWARE if register in shown(*REGISTERS[tee])), "firmware")
    kernel, guest = [], []
    for lock in (old, new):
        is_kernel = lock.base.record.distribution.kernel.is_kernel
        kernel.append(_bytes(package for package in lock.packages if is_kernel(package.name)))
        guest.append(_bytes(package for package in lock.packages if not is_kernel(package.name)))
    if kernel[0] != kernel[1]:
        note(ROOT, "kernel")
    if old.rtmr3 != new.rtmr3:
        note(CONFIG, f"RTMR3 is {new.rtmr3} with this kernel")
    if changed := len({name for name, _ in guest[0] ^ guest[1]}):
        note(ROOT, f"{changed} guest package{'s' if changed > 1 else ''}")
    for name, was, now in (("agent", old.agent, new.agent), ("guest files", old.guest, new.guest)):
        if was.sha256 != now.sha256:
            note(ROOT, name)
    if _bytes(old.driver_files) != _bytes(new.driver_files):
        note(ROOT, "the driver")
    if _bytes(old.compiler_debs) != _bytes(new.compiler_debs):
        note(ROOT, "the compiler of wheels' modules")
    if {wheel.sha256 for wheel in old.imported} != {wheel.sha256 for wheel in new.imported}:
        note(ROOT, "Python wheels")
    if old.files != new.files:
        note(ROOT, "the recipe's files and settings")
    if old.programs != new.programs:
        note(ROOT, "programs that stay")
    if old.kernel_options != new.kernel_options:
        note(ROOT, "kernel options")
    if _models(old, new) != _models(new, old):
        note(CONFIG, "model")
    if [(each.name, each.files) for each in old.data] != [(each.name, each.files) for each in new.data]:
        note(CONFIG, "data")
    if old.source_date_epoch != new.source_date_epoch:
        note(CONFIG, "times in root and model")


def _models(lock: Lock, other: Lock) -> object:
    """What identifies the models: their files, or their wheels if a converted lock has no files."""
    if any(each.python and not each.models for each in (lock, other)):
        return [(wheel.name, wheel.sha256) for wheel in lock.python]
    return [(model.name, model.content) for model in lock.models]


def _bytes(packages: Iterable[Package | VendorFile]) -> set[tuple[str, str]]:
    return {(package.name, package.sha256) for package in packages}
