"""`diff`: what changed between two things of one kind, and which registers that moves.

``given`` identifies an argument by its content; two arguments of one kind are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from privml.base.errors import Differs, MeasurementError, RecipeError, UsageError
from privml.base.files import write_atomic
from privml.cli.completion import TARGET
from privml.cli.output import print_json, show, show_text
from privml.image.target import Target, resolve
from privml.image.workplace import Workplace
from privml.lock.lockfile import FORMATS, read_lock, read_tools_lock
from privml.lock.models import Lock
from privml.readers import compare, files, source
from privml.readers.compare import Pair
from privml.readers.file import File
from privml.recipe.loader import load
from privml.recipe.names import is_file_name
from privml.repro import external, images
from privml.repro.change import Change, Group, following, registers_moved
from privml.repro.lockchanges import lock_changes
from privml.repro.page import diff_page

_SHOWN = 40
_TEXT_LIMIT = 16 << 20
_FORMATS = {name: "lock" if model is Lock else "tools lock" for name, model in FORMATS.items()}


@click.command()
@click.argument("before", type=TARGET, metavar="A")
@click.argument("after", type=TARGET, metavar="B")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the changes between two images as a web page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all changes as JSON.")
@click.option("--diffoscope", is_flag=True, help="Run diffoscope, which must be installed, on files that differ.")
def diff(
    before: str, after: str, *, as_json: bool = False, diffoscope: bool = False, html: Path | None = None
) -> None:
    """Show what changed from A to B, and which registers each change moves.

    A and B are two images (a recipe's name, or the directory of a built image), or two files of one kind: locks,
    prediction.json, or CCEL or TPM event logs. Predictions and logs are compared event by event.

    Of images, the fields of the recipes come first, after `extends` and with defaults, then the measured
    configuration key by key, then packages, models, files and options, then artefacts and registers. Each difference
    says which changes of recipe or lock it follows from; one that follows from none is `unexplained`.

    Exit status: 0 for no change, 1 for any.

    \b
    Examples:
      privml-build diff out/demo-cpu /tmp/rebuilt
      privml-build diff demo-cpu demo-cpu-dev
      privml-build diff theirs/demo-cpu out/demo-cpu --html changes.html
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
    if html is not None and kinds[0] != "image":
        raise UsageError(f"--html is for images, got {TITLES[kinds[0]]}")
    if kinds[0] == "image":
        look = external.diffoscope() if diffoscope else None
        diff_images(before, after, as_json=as_json, look=look, html=html)
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


def diff_images(
    before: str, after: str, *, as_json: bool, look: external.Look | None = None, html: Path | None = None
) -> None:
    """Compare two built images."""
    targets = [resolve(text) for text in (before, after)]
    found = images.diff(targets[0].directory, targets[1].directory, Workplace(), look)
    found = replace(found, notes=(*(note for target in targets for note in newer_recipe(target)), *found.notes))
    if html is not None:
        write_atomic(html, diff_page(f"privml-build diff {before} {after}", found).encode())
    if as_json:
        print_json(found.to_dict())
    else:
        show(*_lines(found))
        for name, text in found.details.items():
            show_text(f"--- {name}\n{text}")
    if not found.report.equal:
        count = len(found.changes) or len(found.report.findings)
        things = f"{count} thing{'' if count == 1 else 's'}"
        raise Differs(
            f"the images differ in {things}, {len(found.unexplained) or 'none'} of them unexplained",
            hint="--json and --html list all of them",
        )


def newer_recipe(target: Target) -> list[str]:
    """A note if the recipe that was named is not the one that its image was built from."""
    if target.recipe is None:
        return []
    name = target.recipe.name
    try:
        if load(target.recipe).digest == target.manifest().recipe_sha256:
            return []
    except RecipeError:
        return [f"{name} has errors; the recipe that {target.directory} was built from is compared"]
    return [f"{name} changed since {target.directory} was built; the recipe that it was built from is compared"]


def _lines(found: images.ImageDiff) -> Iterator[str]:
    """Every group of changes, then the registers and what could not be told."""
    for group in Group:
        of = [change for change in found.changes if change.group is group]
        if of:
            yield group.title
            yield from (f"  {change.text()}" for change in of[:_SHOWN])
        if len(of) > _SHOWN:
            yield f"  {len(of) - _SHOWN} more: see --json"
    if found.registers is None:
        yield "registers that move: unknown, because the images are predicted for different machines"
    else:
        yield f"registers that move: {', '.join(found.registers) or 'none'}"
        for name, because in found.registers.items():
            yield f"  {name}: {following(because) or 'unexplained'}"
    yield from (f"note: {note}" for note in found.notes)


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
    for name, values in pair.fields.items():
        one, other = (f"0x{value:x}" if isinstance(value, int) else value for value in values)
        show(f"  machine: {name.replace('_', ' ')} {one} (A), {other} (B)")
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
