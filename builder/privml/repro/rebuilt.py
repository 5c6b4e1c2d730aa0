"""Two cold builds of a recipe from its lock, compared: what `repro` reports and `publish` signs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privml.base.steps import step
from privml.events.boots import DISK
from privml.image import diskroom, pythonwheels
from privml.image.bootstrap import tools_tree
from privml.image.tools import ToolsTree
from privml.image.volumekeys import without_given
from privml.image.workplace import Workplace
from privml.lock.contents import bring_all
from privml.lock.lockfile import read_tools_lock
from privml.lock.models import Lock
from privml.recipe.loader import Recipe
from privml.repro.external import Look
from privml.repro.images import compared, owners_of
from privml.repro.layers import Report
from privml.repro.legs import NEEDED, Inputs, Legs, disk, two_legs
from privml.store.objects import Store


def bring(place: Workplace, recipe: Recipe, lock: Lock, inputs: Inputs) -> ToolsTree:
    """Bring every locked input into the store; ``GoneError`` for those that are gone. Returns the tools tree."""
    tools_lock = read_tools_lock(inputs.tools_lock)
    needed = without_given(lock, inputs.volumes.of_volumes(recipe))
    bring_all(place.store, [needed, tools_lock], folder=recipe.path.parent)
    return tools_tree(place.store, tools_lock)


@contextmanager
def rebuilt(
    place: Workplace,
    recipe: Recipe,
    lock: Lock,
    inputs: Inputs,
    tools: ToolsTree,
    *,
    keep: Path | None = None,
    look: Look | None = None,
) -> Iterator[tuple[Legs, Report]]:
    """Both legs and their comparison. The outputs are removed at the end, unless ``keep`` is a directory for them."""
    needed = _needed(recipe, lock, place.store, keep)
    with two_legs(inputs, place.store.root, recipe.name, keep=keep, needed=needed) as legs:
        with step("Comparing"):
            report = compared(legs.a, legs.b, tools, owners_of(lock, place.store), legs.known, look)
        yield legs, report


def _needed(recipe: Recipe, lock: Lock, store: Store, keep: Path | None = None) -> int:
    """Bytes that the second leg needs. With wheels, the disk must have room for them and the first one's image.

    Images that are kept need room where they are kept; on the same disk that of one more, while it is copied.
    """
    own = diskroom.of_disk(lock) if recipe.content.boot == DISK else 0
    if recipe.content.python is None:
        return NEEDED + own
    wheels = pythonwheels.unpacked(recipe.content.python, lock, store).size
    needed = max(NEEDED, diskroom.of_inputs(lock) + diskroom.of_build(wheels)) + own
    image = wheels * 2 // 3 + own
    together = keep is not None and diskroom.is_one_disk(keep, disk())
    hint = "free some space, or set TMPDIR to another disk"
    diskroom.check(disk(), needed + image * (2 if together else 1), "two builds", hint)
    if keep is not None and not together:
        diskroom.check(keep, 2 * image, "two images", "free some space, or keep them on another disk")
    return needed
