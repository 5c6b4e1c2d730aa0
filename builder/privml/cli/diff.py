"""`diff`: what changed between two things of one kind, and which registers that moves.

``given`` identifies an argument by its content; two arguments of one kind are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from privml.base.errors import Differs, MeasurementError, UsageError
from privml.cli.completion import TARGET
from privml.cli.output import print_json, show, show_text
from privml.image.target import resolve
from privml.image.workplace import Workplace
from privml.lock.lockfile import FORMATS, read_lock, read_tools_lock
from privml.lock.models import Lock
from privml.readers import compare, files, source
from privml.readers.compare import Pair
from privml.readers.file import File
from privml.recipe.names import is_file_name
from privml.repro import external, images
from privml.repro.changes import Change, lock_changes, registers_moved

_SHOWN = 40
_TEXT_LIMIT = 16 << 20
_FORMATS = {name: "lock" if model is Lock else "tools lock" for name, model in FORMATS.items()}


@click.command()
@click.argument("before", type=TARGET, metavar="A")
@click.argument("after", type=TARGET, metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print all changes as JSON.")
@click.option("--diffoscope", is_flag=True, help="Run diffoscope, which must be installed, on files that differ.")
def diff(before: str, after: str, *, as_json: bool, diffoscope: bool) -> None:
    """Show what changed from A to B, and which registers each change moves.

    A and B are two images (a recipe's name, or the directory of a built image), or two files of one kind: locks,
    prediction.json, or CCEL or TPM event logs. Predictions and logs are compared event by event.

    Exit status: 0 for no change, 1 for any.

    \b
    Examples:
      privml-build diff out/demo-cpu /tmp/rebuilt
      privml-build diff demo-cpu demo-cpu-dev
      privml-build diff old.lock.json recipes/demo-cpu.lock.json
      privml-build diff old/prediction.json out/demo-cpu/prediction.json
      privml-build diff yesterday.ccel today.ccel
    """
    left, right = given(before), given(after)
    kinds = (left.kind, right.kind)
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"`{before}` is {TITLES[kinds[0]]}, `{after}` is {TITLES[kinds[1]]}: they cannot be compared",
            hint="give two of one kind; the directory of an image holds its prediction.json and manifest.json",
        )
    if diffoscope and kinds[0] != "image":
        raise UsageError(f"--diffoscope is for images, got {TITLES[kinds[0]]}")
    if kinds[0] == "image":
        diff_images(before, after, as_json=as_json, look=external.diffoscope() if diffoscope else None)
    elif left.file is not None and right.file is not None:
        diff_events(left.file, right.file, as_json=as_json)
    else:
        LOCKS[kinds[0]](before, after, as_json=as_json)


@dataclass(frozen=True)
class Given:
    """An argument: its kind, a key of ``TITLES``, and the file if it was read (a pipe can be read only once)."""

    kind: str
    file: File | None = None


def given(text: str) -> Given:
    """Identify an argument by its content; ``UsageError`` for a file that cannot be compared."""
    path = Path(text)
    if not source.is_readable(path) or is_file_name(text):
        resolve(text)  # a path that does not exist is not an image
        return Given("image")
    found = _FORMATS.get(_format_of(path)) if path.is_file() else None
    if found is not None:
        return Given(found)
    hint = "`diff` compares two images, two locks, or two predictions or event logs"
    if path.name == "manifest.json":
        raise UsageError(f"`{text}` is only one file of an image", hint=f"give the directory: `{path.parent}`")
    try:
        file = files.read(path)
    except MeasurementError as error:
        raise UsageError(error.message, hint=hint) from error
    if file.log is None and not file.shapes:
        raise UsageError(f"`{text}` is not a lock, a prediction or an event log: {file.description.title}", hint=hint)
    return Given("events", file)


def _format_of(path: Path) -> str:
    if path.stat().st_size > _TEXT_LIMIT:
        return ""
    data = path.read_bytes()
    try:
        document = json.loads(data) if data.lstrip()[:1] == b"{" else None
    except ValueError:
        return ""
    return str(document.get("format", "")) if isinstance(document, dict) else ""


def diff_images(before: str, after: str, *, as_json: bool, look: external.Look | None = None) -> None:
    """Compare two built images."""
    found = images.diff(resolve(before).directory, resolve(after).directory, Workplace(), look)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found.changes)
        for name, text in found.details.items():
            show_text(f"--- {name}\n{text}")
        if found.registers is None:
            show("registers that move: unknown, because the images are predicted for different machines")
        else:
            show(f"registers that move: {', '.join(found.registers) or 'none'}")
    if not found.report.equal:
        count = len(found.changes) or len(found.report.findings)
        raise Differs(f"the images differ in {count} things", hint="`--json` lists all of them")


def diff_events(left: File, right: File, *, as_json: bool) -> None:
    """Compare two predictions or event logs event by event."""
    found = compare.pairs(left, right)
    equal = all(pair.equal for pair in found)
    if as_json:
        shapes = [pair.to_dict() for pair in found]
        print_json({"a": str(left.path), "b": str(right.path), "equal": equal, "shapes": shapes})
    else:
        for pair in found:
            _show_pair(pair)
    if not equal:
        raise Differs(f"{left.path} and {right.path} differ")


def _show_pair(pair: Pair) -> None:
    show(pair.label)
    if pair.only_in is not None:
        show(f"  only in {pair.only_in}")
    if not pair.mrtd_equal:
        show("  mrtd differs: another firmware file")
    for change in pair.changes:
        show(f"  {change.text(('A', 'B'), pair.changes)}")
    if pair.equal:
        show("  equal")


def diff_locks(before: str, after: str, *, as_json: bool) -> None:
    """Compare two locks of images."""
    _lock_diff(lock_changes(read_lock(Path(before)), read_lock(Path(after))), as_json=as_json)


def diff_tools(before: str, after: str, *, as_json: bool) -> None:
    """Compare two locks of tools."""
    _lock_diff(lock_changes(read_tools_lock(Path(before)), read_tools_lock(Path(after))), as_json=as_json)


def _lock_diff(found: Sequence[Change], *, as_json: bool) -> None:
    certain, possible = registers_moved(found)
    if as_json:
        print_json(
            {
                "equal": not found,
                "registers_moved": certain,
                "registers_that_may_move": possible,
                "changes": [change.to_dict() for change in found],
            }
        )
    else:
        _show(found)
        show(f"registers that move: {', '.join(certain) or 'none'}")
        if possible:
            show(f"registers that may move: {', '.join(possible)}")
    if found:
        raise Differs(f"the locks differ in {len(found)} things", hint="`--json` lists all of them")


def _show(found: Sequence[Change]) -> None:
    for change in found[:_SHOWN]:
        show(change.text())
    if len(found) > _SHOWN:
        show(f"{len(found) - _SHOWN} more: see --json")


LOCKS: dict[str, Callable[..., None]] = {
    "lock": diff_locks,
    "tools lock": diff_tools,
}
TITLES = {
    "image": "an image",
    "events": "a prediction or an event log",
    "lock": "a lock of an image",
    "tools lock": "a lock of tools",
}
